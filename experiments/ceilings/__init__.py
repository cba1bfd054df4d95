"""Returns that can be reached without memory, at random, and by the experts."""
