"""Feeds of segments: one way to draw training batches a file, its class named `FEED`."""
