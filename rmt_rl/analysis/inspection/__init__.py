"""Inspect a run's memory: its content and the moments of its writing, measured on the data of the run."""
