"""Every agent on T-Maze, beyond the lengths that it was trained on."""
