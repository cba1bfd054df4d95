"""Learners that train any agent in the place of its own one, found by file name."""
