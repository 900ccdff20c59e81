"""A contract held against a model, graph, export, engine, dump or another contract."""
