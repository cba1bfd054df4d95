"""RATE on the T-Maze, far beyond the corridors it was trained on; see README.md."""
