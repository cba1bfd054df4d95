"""One thing of each kind that rmt-rl finds by name."""
