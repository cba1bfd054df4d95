"""Read finished runs: aggregate, plot, inspect, and count parameters and FLOPs."""
