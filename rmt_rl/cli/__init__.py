"""The `rmt-rl` command."""

from rmt_rl.cli.entry import main

__all__ = ["main"]
