"""The NeMo model run as its own streaming loop runs it, with a tap on every stage."""
