"""On a GPU the host waits once for a line of metrics and once for the actions of a step; see `tests.fake_device`."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from filelock import FileLock

from rmt_rl.agent import Agent
from rmt_rl.registry import agent_class, names

OFFLINE = [name for name in names("agents") if issubclass(agent_class(name), Agent)]
OTHERS = ("rate replay", "rate ageing", "rate streams", "rate windows", "rate curriculum")
FEED_LEARNS = ("rate curriculum",)  # from the accuracy of each update
ASK_FOR_FULL_CHUNKS = ("titans_mag", "titans_mal")  # in each call of the layer: two where a segment is closed


@pytest.fixture(scope="module")
def noted(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> dict[str, Any]:
    """Return what every agent's training and acting notes on the device, made in one process for all workers."""
    folder = tmp_path_factory.getbasetemp()
    file = (folder if worker_id == "master" else folder.parent) / "fake_device.json"
    with FileLock(f"{file}.lock"):
        if not file.exists():
            command = [sys.executable, "-m", "tests.fake_device"]
            file.write_bytes(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    found: dict[str, Any] = json.loads(file.read_bytes())
    return found


@pytest.mark.parametrize("name", [*OFFLINE, *OTHERS])
def test_training_waits_for_the_device_only_at_a_line_of_metrics(name: str, noted: dict[str, Any]) -> None:
    works = noted[name]
    assert isinstance(works, dict), works
    before, line = works["before a line"], works["with a line"]
    least = int(name in FEED_LEARNS)
    assert len(before["waits"]) == least, before
    assert len(line["waits"]) == least + 1, line
    assert line["blocking"] == []  # the first update copies tables, once


@pytest.mark.parametrize("name", OFFLINE)
def test_acting_waits_for_the_device_once_a_step(name: str, noted: dict[str, Any]) -> None:
    works = noted[name]
    assert isinstance(works, dict), works
    step = works["step"]
    more = 2 if name in ASK_FOR_FULL_CHUNKS else 0
    assert len(step["waits"]) <= 1 + more, step
    assert step["blocking"] == []


def test_no_head_waits_for_the_device(noted: dict[str, Any]) -> None:
    assert noted["heads"].keys() == {"auto", "gaussian", "bins", "mixture"}
    assert all(counts == {"waits": [], "blocking": []} for counts in noted["heads"].values()), noted["heads"]
