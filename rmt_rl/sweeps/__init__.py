"""Sweeps: a matrix of runs, each a cell, which an engine executes on this machine or on others."""
