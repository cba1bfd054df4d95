"""The rmt-rl command in limited memory, `Noise` known: python -m experiments.large_data.limited MEGABYTES train ...

The limit is of RLIMIT_DATA, all private writable memory. RLIMIT_AS would count addresses too, of which PyTorch takes
up gigabytes that it never touches, and Linux ignores RLIMIT_RSS.
"""

from __future__ import annotations

import resource
import sys

from rmt_rl.analysis.process_memory import peak_mb

if __name__ == "__main__":
    limit = int(sys.argv[1]) * 10**6
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    from experiments.large_data import noise  # noqa: F401  # registers the environment
    from rmt_rl.cli import main

    status = main(sys.argv[2:])
    print(f"peak {peak_mb():.0f} MB resident")
    sys.exit(status)
