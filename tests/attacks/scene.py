"""A folder with received files, and the changes that an attacker makes to them."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w
from safetensors.torch import load_file, save_file

from rmt_rl.runs.checkpoint import path_of, read_checkpoint

PRECIOUS = "precious\n"
PAYLOAD = """
import gymnasium
open("ran", "w").write(__name__)
class Payload(gymnasium.Env):
    pass
"""


class Scene(NamedTuple):
    """The current folder of the one who is attacked.

    Attributes:
        here: holds `run`, `data`, and the module `payload`, which leaves a file `ran` when it is imported.
        victim: a file elsewhere that must not change.
    """

    here: Path
    victim: Path

    @property
    def run(self) -> Path:
        return self.here / "run"

    def dataset(self, start: str) -> str:
        """Return the id of the data set whose id begins so."""
        (data,) = (self.here / "data").glob(f"{start}*/*/data")
        return data.parent.relative_to(self.here / "data").as_posix()

    def in_config(self, *path: str, value: Any) -> None:
        """Write a value into the run's config."""
        file = self.run / "config.toml"
        values = tomllib.loads(file.read_text())
        section = values
        for name in path[:-1]:
            section = section.setdefault(name, {})
        section[path[-1]] = value
        file.write_text(tomli_w.dumps(values))

    def in_header(self, **fields: Any) -> None:
        """Write fields into the header of the run's last checkpoint."""
        file = path_of(self.run)
        header = read_checkpoint(file).header.model_dump()
        save_file(load_file(file), file, {"rmt_rl": json.dumps(header | fields)})

    def in_metadata(self, start: str, **fields: Any) -> str:
        """Write fields into the metadata of a data set, and return its id."""
        identity = self.dataset(start)
        file = self.here / "data" / identity / "data" / "metadata.json"
        values = json.loads(file.read_text())
        file.write_text(json.dumps(values | fields))
        return identity

    def in_evaluation(self, **fields: Any) -> None:
        """Write fields into every result of the run's evaluation."""
        file = self.run / "evaluation.json"
        record = json.loads(file.read_text())
        record["results"] = [result | fields for result in record["results"]]
        file.write_text(json.dumps(record))
