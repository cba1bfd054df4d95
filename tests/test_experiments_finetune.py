"""The experiment of fine-tuning: its runs fit together, on a tiny task in one process."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.online import finetune, leash
from experiments.online.finetune import Case, draw_curves, offline, online, table
from rmt_rl.acting.policies import RANDOM, Behaviour, Share
from rmt_rl.analysis.results import ResultsFile, RunResult
from rmt_rl.cli import main
from rmt_rl.runs.named_options import named_config
from rmt_rl.sweeps.matrix import Cell
from rmt_rl.training.learners.ppo import PPORun
from rmt_rl.training.loop import train
from tests.tiny import work_folder

BEHAVIOUR = Behaviour((Share(RANDOM),))
CASE = Case("tmaze", {"corridor_length": (1, 3)}, BEHAVIOUR, 100, {"truncation": "end"})


def test_a_run_begins_with_the_offline_one(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune, "CASES", {"tiny": CASE})
    monkeypatch.setattr(leash, "CASES", {"tiny": CASE})
    monkeypatch.setattr(finetune, "EPISODES", 20)
    with work_folder(tmp_path_factory):
        before = offline("tiny", 0)
        assert before.config.data_options is not None
        small = named_config(
            "tmaze",
            "rate",
            {
                "env_options": CASE.env_options,
                "dataset": before.config.data_options.dataset,
                "updates": 1,
                "batch_size": 4,
                "agent_options": {"segment_length": 4, "width": 16, "layers": 1},
                "eval_episodes": 0,
            },
        )
        train(small, Path("runs", before.name))
        tuned = online("tiny", "tuned", 0, Path("runs"))
        assert tuned.config.agent_options == small.agent_options
        assert tuned.config.init_sha256 is not None
        scratch: Cell = online("tiny", "scratch", 0, Path("runs"))
        assert scratch.config.init is None
        bare = leash.cell("tiny", "bare", 0, Path("runs")).config
        assert isinstance(bare, PPORun)
        assert (bare.init, bare.value_warmup, bare.leash.weight) == (tuned.config.init, 0, 0)
        assert RunResult.of(Path("runs", before.name), before.name).config == "tiny/offline"
        assert table([]).count("\n") == 1
        draw_curves([], Path("curves.png"))
        assert Path("curves.png").stat().st_size > 0
        assert main(["evaluate", f"runs/{before.name}", "--episodes", "2"]) == 0
        result = replace(RunResult.of(Path("runs", before.name), before.name), metrics={"eval/mean_return": {1: 0.5}})
        stored = ResultsFile(Path("finetune.jsonl"))
        stored.write(replace(result, config=f"tiny/{kind}") for kind in ("offline", "tuned", "scratch"))
        for folder in ("runs", "data"):
            shutil.rmtree(folder)
        of_variant = replace(result, config="tiny/both", metrics={"eval/mean_return": {1: 0.5, 2: -0.5}})
        assert "| tiny | 10,000 | 0.1 | - |" in leash.table([of_variant])
        assert "| -0.50 | 0.00 |" in leash.table([of_variant])
        monkeypatch.setattr(finetune, "RESULTS", stored)
        monkeypatch.setattr(finetune, "FOLDER", Path())
        finetune.main(("tiny",), seeds=1)
        assert "| tiny | - | - |" in Path("finetune-table.md").read_text()
        of_variants = ResultsFile(Path("leash.jsonl"))
        of_variants.write(replace(of_variant, config=f"tiny/{kind}") for kind in ("offline", *leash.VARIANTS))
        monkeypatch.setattr(leash, "RESULTS", of_variants)
        monkeypatch.setattr(leash, "FOLDER", Path())
        leash.main(("tiny",))
        assert Path("leash-table.md").read_text().count("| tiny |") == len(leash.VARIANTS)
        assert not list(Path("data").glob("*"))
        assert not Path("runs").exists()
