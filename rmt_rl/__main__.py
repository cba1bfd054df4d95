"""`python -m rmt_rl`: the `rmt-rl` command."""

from __future__ import annotations

import sys

from rmt_rl.cli import main

if __name__ == "__main__":
    sys.exit(main())
