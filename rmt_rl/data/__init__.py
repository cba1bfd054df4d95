"""Trajectories, Minari in and out, cutting into segments, sampling."""
