"""A data set of 6 GB trains within 2 GB of memory; see README.md."""
