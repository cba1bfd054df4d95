"""Memories that must be rewritten and held, on Endless T-Maze; see README.md."""
