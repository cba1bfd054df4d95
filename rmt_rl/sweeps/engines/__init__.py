"""Engines, one a file: each executes the cells of a sweep on some machines."""
