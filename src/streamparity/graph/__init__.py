"""ONNX files: what a graph holds, where its taps are, cutting it, and its weights under NeMo's names."""
