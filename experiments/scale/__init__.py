"""Efficiency of several processes, and costs of 10^9 steps of data."""
