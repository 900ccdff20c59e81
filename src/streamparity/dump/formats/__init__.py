"""Readers of tensor files, one module per format, each a function ``read`` that allocates nothing a header claims."""
