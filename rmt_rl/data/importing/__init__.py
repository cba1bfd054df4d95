"""Formats of files of others that data sets are made from, one a file, found by name; see `rmt_rl.data.layout`."""
