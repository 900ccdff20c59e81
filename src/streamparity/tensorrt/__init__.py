"""TensorRT and TensorRT-RTX: building engines, what is known of them, and the device they run on."""
