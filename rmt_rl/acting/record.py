"""Learning histories: what is played while an agent learns, as a Minari data set in the order in which episodes end.

Each episode is marked in its metadata by `environment`, the index of the environment that it was played in, and by
`began`, the environment steps that had been made when it began. Whole episodes are kept at every checkpoint, in a part
of their own below Minari's root. When the run ends or is stopped, the data set appears, or grows, by these parts at
once. A run that was killed leaves its parts. It goes on with those that its checkpoint knows of.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from safetensors.numpy import load_file, save

from rmt_rl.acting.collect import env_spec
from rmt_rl.acting.env_source import origin_of
from rmt_rl.acting.recording import EpisodeOfLane
from rmt_rl.config import SavedState, validated
from rmt_rl.data.opening import open_dataset
from rmt_rl.data.root import has_dataset
from rmt_rl.data.trajectory import Array, Arrays, Trajectory
from rmt_rl.data.writing import alone_making, check_storable, write_dataset
from rmt_rl.environments import make_env
from rmt_rl.errors import UsageError
from rmt_rl.files import write_atomically
from rmt_rl.registry import load_task
from rmt_rl.runs.checkpoint import AgentHeader, Checkpoint
from rmt_rl.runs.checkpoint import about as about_file
from rmt_rl.runs.options import OnlineRun
from rmt_rl.task import HasSpaces
from rmt_rl.trees import Place, leaves, map_space, part_at

AnyEnv = gymnasium.Env[Any, Any]
DATASET_VERSION = re.compile(r"-v\d+$")
MARKS = ("environment", "began")
OUTCOMES = ("rewards", "terminations", "truncations")
UNTIL = "recorded_until"
"""The metadata of a data set: the environment steps of the last checkpoint whose episodes it has."""


class About(NamedTuple):
    """The facts of a history's data set; see `rmt_rl.data.writing.write_dataset`."""

    env_spec: EnvSpec
    algorithm_name: str
    description: str
    metadata: Mapping[str, object]


class Saved(NamedTuple):
    """The state of a history at a checkpoint.

    Attributes:
        step: environment steps made.
        episodes: number of episodes recorded.
    """

    step: int
    episodes: int


class History:
    """Records the episodes of several environments.

    Args:
        dataset_id: the data set's Minari id.
        env: an environment with the spaces of those recorded.
        about: facts of the data set.
        saved: the state at the checkpoint that the run is resumed from; None for a new run.

    Attributes:
        clock: returns the environment steps made so far.

    Raises:
        UsageError: the data set exists, or isn't as the checkpoint left it; or another process makes it.
    """

    def __init__(self, dataset_id: str, env: HasSpaces, about: About, saved: Saved | None) -> None:
        check_storable(env)
        self.dataset_id, self.about = dataset_id, about
        self.spaces = {"observations": env.observation_space, "actions": env.action_space}
        self.clock: Callable[[], int] = int
        self.of_round: list[Trajectory] = []
        self.unsaved: list[Trajectory] = []
        self.confirmed = -1 if saved is None else saved.step  # environment steps of the last checkpoint
        with ExitStack() as stack:
            self.folder = stack.enter_context(alone_making(dataset_id))
            self.episodes = self._resumed(saved)
            self._lock = stack.pop_all()

    def recorded(self, env: AnyEnv, index: int) -> AnyEnv:
        """Return an environment, the one of this index, whose episodes are recorded."""
        return _Recorded(env, self, index)

    def add(self, episode: Trajectory) -> None:
        """Add an episode."""
        self.of_round.append(episode)

    def commit(self) -> None:
        """Keep the episodes that ended since the last call; until then they are lost if the round is undone."""
        self.unsaved += self.of_round
        self.of_round = []

    def save(self) -> int:
        """Write the episodes kept so far to disk; return the number of all that were recorded."""
        if self.unsaved:
            write_atomically(self._parts / f"{self.clock():015d}.safetensors", _encoded(self.unsaved, self.spaces))
            self.episodes += len(self.unsaved)
            self.unsaved = []
        return self.episodes

    def confirm(self) -> None:
        """Note that a checkpoint knows of what was saved."""
        self.confirmed = self.clock()

    def close(self) -> None:
        """Write the data set from what a checkpoint knows of, and let other processes make it."""
        with self._lock:
            _remove([part for part in self._part_files() if _step(part) > self.confirmed])
            parts = self._part_files()
            if parts:
                self._write(parts)
                _remove(parts)
            elif not has_dataset(self.dataset_id):
                warnings.warn(f"record={self.dataset_id}: no episode ended, so there is no data set", stacklevel=2)
            if self._parts.exists():
                self._parts.rmdir()

    def _write(self, parts: Sequence[Path]) -> None:
        spaces = self.spaces
        metadata = {name: json.dumps(value) for name, value in self.about.metadata.items()}
        write_dataset(
            self.dataset_id,
            _episodes(parts, spaces),
            env_spec=self.about.env_spec,
            observation_space=spaces["observations"],
            action_space=spaces["actions"],
            algorithm_name=self.about.algorithm_name,
            description=self.about.description,
            metadata=metadata | {UNTIL: str(_step(parts[-1]))},
            folder=self.folder,
            extends=True,
        )

    @property
    def _parts(self) -> Path:
        return self.folder / "recorded"

    def _part_files(self) -> list[Path]:
        return sorted(self._parts.glob("*.safetensors"))

    def _resumed(self, saved: Saved | None) -> int:
        """Return the number of episodes recorded so far, without what the checkpoint doesn't know of."""
        is_there = has_dataset(self.dataset_id)
        parts = self._part_files()
        if saved is None:
            if is_there:
                raise UsageError(f"record={self.dataset_id}: this data set exists; choose another name")
            if parts:
                raise UsageError(
                    f"record={self.dataset_id}: a run that was killed has recorded this data set; resume that run, "
                    f"choose another name, or remove {self._parts}"
                )
            return 0
        written, until = 0, -1
        if is_there:
            dataset = open_dataset(self.dataset_id)
            written, until = len(dataset), int(dataset.storage.metadata.get(UNTIL, -1))
        known = [part for part in parts if until < _step(part) <= saved.step]
        _remove([part for part in parts if part not in known])
        found = written + sum(len(_lengths(part)) for part in known)
        if found != saved.episodes:
            raise UsageError(
                f"record={self.dataset_id}: its run has recorded {saved.episodes} episodes, but {found} are there; put "
                "the data set back as it was, or start a new run"
            )
        return found


class _Progress(SavedState):
    """The part of a checkpoint that tells of the recorded history."""

    recorded: int = 0


def history_of(config: OnlineRun, saved: Checkpoint[AgentHeader] | None) -> History | None:
    """Return the history that a run records; None if it records none.

    Raises:
        UsageError: the data set exists already, or isn't as the checkpoint left it.
    """
    if config.record is None:
        return None
    task = load_task(config.env)
    origin = origin_of(task)
    facts = {
        "env": task.ID,
        "options": config.env_options.model_dump(mode="json"),
        "env_source_sha256": origin.source_sha256,
        "packages": origin.packages,
        "run": config.model_dump(mode="json", exclude_none=True),
    }
    learner = config.learner or config.agent
    about = About(
        env_spec(task, config.env_options),
        f"{config.agent} learning by {learner}",
        f"The whole episodes that agent {config.agent} played in {task.ID} as it learnt, in the order of their ends.",
        facts,
    )
    before = None
    if saved is not None:
        with about_file(saved.path):
            before = Saved(saved.header.update, validated(_Progress, saved.header.progress).recorded)
    name = config.record if DATASET_VERSION.search(config.record) else f"{config.record}-v0"
    with closing(make_env(task, config.env_options)) as env:
        return History(name, env, about, before)


class _Recorded(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Records the episodes that an environment plays."""

    def __init__(self, env: AnyEnv, history: History, index: int) -> None:
        super().__init__(env)
        self.history, self.index = history, index
        self.episode = EpisodeOfLane()
        self.observation: Any = None
        self.began = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self.episode = EpisodeOfLane()
        self.observation = observation
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        episode = self.episode
        if not episode.rewards:
            self.began = self.history.clock()
        episode.begin_step(self.observation, action)
        observation, reward, terminated, truncated, info = self.env.step(action)
        episode.end_step(float(reward), terminated, truncated)
        self.observation = observation
        if terminated or truncated:
            marks = {"environment": self.index, "began": self.began}
            self.history.add(replace(episode.trajectory(observation), marks=marks))
            self.episode = EpisodeOfLane()
        return observation, reward, terminated, truncated, info


def _encoded(episodes: Sequence[Trajectory], spaces: Mapping[str, gymnasium.Space[Any]]) -> bytes:
    """Return episodes as the content of a safetensors file: their arrays one after another, and their lengths."""
    arrays: dict[str, Array] = {"lengths": np.array([len(episode) for episode in episodes])}
    for name, space in spaces.items():
        for number, (place, _) in enumerate(leaves(space)):
            of_episodes = [part_at(getattr(episode, name), place) for episode in episodes]
            arrays[f"{name}{number}"] = np.concatenate(of_episodes)
    for name in OUTCOMES:
        arrays[name] = np.concatenate([getattr(episode, name) for episode in episodes])
    for name in MARKS:
        arrays[name] = np.array([(episode.marks or {})[name] for episode in episodes])
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def _episodes(parts: Sequence[Path], spaces: Mapping[str, gymnasium.Space[Any]]) -> Iterator[Trajectory]:
    """Yield the episodes of safetensors files, in order."""
    for part in parts:
        arrays: dict[str, Any] = load_file(part)
        ends = np.cumsum(arrays["lengths"])
        for index, (length, end) in enumerate(zip(arrays["lengths"], ends, strict=True)):
            own = slice(end - length, end)
            seen = slice(own.start + index, own.stop + index + 1)  # an episode has an observation more
            yield Trajectory(
                observations=_cut("observations", arrays, spaces, seen),
                actions=_cut("actions", arrays, spaces, own),
                **{name: arrays[name][own] for name in OUTCOMES},
                marks={name: int(arrays[name][index]) for name in MARKS},
            )


def _cut(name: str, arrays: dict[str, Array], spaces: Mapping[str, gymnasium.Space[Any]], rows: slice) -> Arrays:
    """Return rows of a column of such a file, as values of its space."""
    space = spaces[name]
    numbers: dict[Place, int] = {place: number for number, (place, _) in enumerate(leaves(space))}
    values: Arrays = map_space(lambda place, _: arrays[f"{name}{numbers[place]}"][rows], space)
    return values


def _step(part: Path) -> int:
    return int(part.stem)


def _lengths(part: Path) -> Array:
    lengths: Array = load_file(part)["lengths"]
    return lengths


def _remove(parts: Sequence[Path]) -> None:
    for part in parts:
        part.unlink()
