"""Reports, from a result alone."""
