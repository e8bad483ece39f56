"""Plain Python library: launch a serving process, deploy models to it, and query them."""
