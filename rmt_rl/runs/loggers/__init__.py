"""Loggers, one a file; a file's stem is its name, and its `LOGGER` is a class with the interface `metrics.Logger`."""
