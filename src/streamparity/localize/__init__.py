"""Where and why a model went wrong."""
