"""Put a trained run into the zoo: python -m tests.zoo RUN NAME SUMMARY.

The copy holds the last checkpoint's weights, config, metrics and evaluation. `zoo.toml` gets its hashes and results.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import tomli_w

from rmt_rl.hub.pack import pack_run
from rmt_rl.hub.zoo import LIST, describe_run
from rmt_rl.reading import read_toml
from rmt_rl.runs.checkpoint import path_of
from rmt_rl.runs.find import ZOO
from rmt_rl.runs.folder import read_config

TITLE = "# Trained runs that come with this package, written by tests/zoo.py; docs/hub.md says how to use them.\n\n"


def add(run: Path, name: str, summary: str) -> None:
    """Copy a run into the zoo, and write its entry."""
    folder = ZOO / name
    shutil.rmtree(folder, ignore_errors=True)
    pack_run(run, folder)
    path_of(folder, "best").unlink(missing_ok=True)
    config = read_config(folder)
    made_by = f"rmt-rl train {config.env} {config.agent} --seed {config.seed}"
    entries = read_toml(LIST, "zoo") if LIST.exists() else {}
    entries[name] = describe_run(folder, summary, made_by)
    text = tomli_w.dumps(dict(sorted(entries.items())))
    LIST.write_text(TITLE + text, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("summary")
    given = parser.parse_args()
    add(given.run, given.name, given.summary)
