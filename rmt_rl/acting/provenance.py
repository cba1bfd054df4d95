"""The recipe of a data set: everything that its episodes depend on, and the id that stands for all of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rmt_rl.acting.env_source import origin_of
from rmt_rl.acting.policies import EXPERT_ALONE, Behaviour, Share
from rmt_rl.acting.recording import LANES, STEP_BYTES
from rmt_rl.config import Frozen
from rmt_rl.errors import UsageError
from rmt_rl.registry import load_task, slug
from rmt_rl.runs.checkpoint import path_of
from rmt_rl.task import Options, Task, default_episodes, divided, task_config

if TYPE_CHECKING:
    from rmt_rl.runs.options import RunConfig

_LONGEST_KIND = 60  # characters; systems limit the length of a file's name, which an id becomes


@dataclass(frozen=True)
class Recipe:
    """Everything that the episodes of a data set depend on.

    The id holds a hash of the facts, so changed data never go by an old id.
    """

    task_name: str  # the stem of the environment's file, or a Gymnasium id
    task: Task
    config: Frozen  # options of the environment
    episodes: int
    seed: int  # of the environment and of all policies
    behaviour: Behaviour = EXPERT_ALONE
    shards: int = 1  # parts into which the episodes of each policy are divided, each with seeds of its own

    def dataset_id(self) -> str:
        """Return the Minari id, e.g. `tmaze/expert-4000-seed0-1a2b3c4d-v0`.

        Raises:
            UsageError: a training run is missing.
        """
        content = json.dumps(self.facts(), sort_keys=True)
        digest = hashlib.sha256(content.encode()).hexdigest()
        kind = slug("-".join(share.name for share in self.behaviour.shares))[:_LONGEST_KIND]
        return f"{slug(self.task_name)}/{kind}-{self.episodes}-seed{self.seed}-{digest[:8]}-v0"

    def facts(self) -> dict[str, object]:
        """Return what the episodes depend on, by name, as JSON values.

        Raises:
            UsageError: as in `dataset_id`.
        """
        origin = origin_of(self.task)
        shards = {"shards": self.shards} if self.shards > 1 else {}
        return {
            "env": self.task.ID,
            "options": divided(self.task, self.config, "json").to_json(),
            "episodes": self.episodes,
            "seed": self.seed,
            "lanes": (LANES, STEP_BYTES),
            "env_source_sha256": origin.source_sha256,
            "packages": origin.packages,
            "behaviour": self._behaviour_facts(),
            **shards,
        }

    def _behaviour_facts(self) -> dict[str, object]:
        counts = self.behaviour.episodes_by_share(self.episodes)
        checkpoint = self.behaviour.checkpoint
        shares = [
            _share_facts(share, count, checkpoint) for share, count in zip(self.behaviour.shares, counts, strict=True)
        ]
        facts = {**self.behaviour._asdict(), "shares": shares}
        if not self.behaviour.noise:  # ids of data without noise are older than noise
            del facts["noise"]
        if self.behaviour.runtime == "torch":  # and older than others
            del facts["runtime"]
        return facts


def dataset_id(task_name: str, options: Options, episodes: int, seed: int, behaviour: Behaviour = EXPERT_ALONE) -> str:
    """Return the id of the data set that `collect` makes of the same arguments.

    Raises:
        UsageError: the task is unknown, an option doesn't fit it, or a training run is missing.
    """
    task = load_task(task_name)
    recipe = Recipe(task_name, task, task_config(task, options), episodes, seed, behaviour)
    return recipe.dataset_id()


def dataset_ids(config: RunConfig) -> tuple[str, ...]:
    """Return the ids of the data sets that a run learns from: those it names, or the one that the expert makes."""
    data = config.data_options
    if data is None:
        return ()
    if data.dataset:
        return data.dataset
    task = load_task(config.env)
    episodes = data.collect_episodes or default_episodes(task)
    behaviour = Behaviour(noise=data.collect_noise)
    recipe = Recipe(config.env, task, config.env_options, episodes, data.collect_seed, behaviour)
    return (recipe.dataset_id(),)


def _share_facts(share: Share, episodes: int, checkpoint: str) -> dict[str, object]:
    facts = {**share._asdict(), "episodes": episodes}
    if not share.trained:
        return facts
    path = path_of(share.folder, checkpoint)
    if not path.is_file():
        raise UsageError(
            f"policy {share.policy!r} is neither 'expert' nor 'random' nor 'histories' nor the folder of a training "
            "run with a checkpoint"
        )
    weights = hashlib.sha256(path.read_bytes()).hexdigest()
    return facts | {"policy": share.name, "sha256": weights}
