"""Results that anyone can remake: one folder each, with its configs, table and picture, and one command."""

import rmt_rl as rmt_rl  # before Matplotlib, whose settings on this machine it checks
