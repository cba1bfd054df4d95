"""Training: the loop, and one learner a file."""
