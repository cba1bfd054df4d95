"""Our memories beside titans-pytorch and recurrent-memory-transformer-pytorch: `python -m experiments.speed.peers`.

Writes `peers.json` (everything measured) and `peers.md` (the tables). Needs the two packages, the extra `peers`. Run
it on a machine that does nothing else; it takes about ten minutes. `--quick` runs every measure for a moment
and says nothing about speed.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from experiments.speed.machine import machine
from experiments.speed.peer_report import peers_report
from rmt_rl.files import write_atomically

PACKAGES = {
    "recurrent-memory-transformer-pytorch": "recurrent_memory_transformer_pytorch",
    "titans-pytorch": "titans_pytorch",
}


def main() -> None:
    """Measure, print the tables, write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a minute: see that every measure runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of peers.json and peers.md")
    options = parser.parse_args()
    missing = [name for name, module in PACKAGES.items() if find_spec(module) is None]
    if missing:
        parser.error(f"{' and '.join(missing)} must be installed: pip install -c constraints.txt -e '.[peers]'")
    from experiments.speed.peer_measures import measure_all  # imports the packages

    where = machine() | {name: version(name) for name in PACKAGES}
    results = measure_all(options.quick)
    text = peers_report(where, results)
    print("\n" + text)
    everything = {"machine": where, "quick": options.quick, "results": results}
    write_atomically(options.out / "peers.json", (json.dumps(everything, indent=1) + "\n").encode())
    write_atomically(options.out / "peers.md", text.encode())


if __name__ == "__main__":
    main()
