"""The memory tasks of the RMT paper, from one segment to 4,096."""
