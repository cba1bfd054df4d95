"""One run's episode as the page's player reads it: JSON of frames, observations, actions and memory."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rmt_rl.agent import Agent, BaseAgent
from rmt_rl.analysis.report.played import PlayedEpisode, PlayedEpisodes, drawn_episode, play
from rmt_rl.analysis.report.seen import action_text, image_uri, seen_parts
from rmt_rl.analysis.report.trace import SegmentTrace, Trace, choose_episode, trace
from rmt_rl.analysis.run_records import RunRecord
from rmt_rl.config import Frozen
from rmt_rl.errors import UsageError
from rmt_rl.nn.heads.categorical import Categorical
from rmt_rl.registry import load_task
from rmt_rl.runs.checkpoint import path_of, read_checkpoint, restore_agent
from rmt_rl.runs.folder import read_config
from rmt_rl.task import Task, config_class, task_config
from rmt_rl.trees import map_leaves

MOST_BARS = 24  # action probabilities that are drawn
Json = dict[str, Any]


class PlayerOptions(NamedTuple):
    """Options of what is played.

    Attributes:
        checkpoint: `last` or `best`.
        seed: seed of the first environment.
        steps: steps of an episode that are shown, at most.
        env_options: options of environments that differ from the runs', each for the environments that have it.
    """

    checkpoint: str
    seed: int
    steps: int
    env_options: Mapping[str, Any]


class _Shown(NamedTuple):
    """An agent's episode, with all that it is described by."""

    agent: BaseAgent
    task: Task
    env: Frozen
    episode: PlayedEpisode
    steps: int
    seed: int


def player(run: RunRecord, label: str, options: PlayerOptions) -> Json:
    """Play an episode with a run's agent, and return what the page shows of it.

    Raises:
        UsageError: the run's environment or agent isn't installed, it has no such checkpoint, or an option is unknown.
    """
    config = read_config(run.path)
    saved = read_checkpoint(path_of(run.path, options.checkpoint))
    agent = restore_agent(saved, "cpu").eval()
    task = load_task(config.env)
    env = task_config(task, dict(config.env_options) | _options_of(task, options))
    episodes = play(agent, task, env, options.seed)
    length = agent.config.segment_length if isinstance(agent, Agent) else 0
    chosen = choose_episode(episodes, length)
    episode = episodes.episodes[chosen]
    steps = min(len(episode.trajectory), options.steps)
    shown = _Shown(agent, task, env, episode, steps, options.seed)
    return {
        "label": label,
        "title": _title(config.env, shown, f"{options.checkpoint}, update {saved.header.update}"),
        "steps": steps,
        "seen": _seen(shown),
        "rewards": _rounded(episode.trajectory.rewards[:steps].tolist()),
        "decisive": _decisive(shown),
        **_frames(shown),
        **_traced(agent, episodes, chosen, shown),
    }


def _options_of(task: Task, options: PlayerOptions) -> Json:
    """Return those of the given options that the environment has."""
    fields = config_class(task).model_fields
    return {name: value for name, value in options.env_options.items() if name in fields}


def check_options(envs: Sequence[str], options: PlayerOptions) -> None:
    """Check that each given option is one of some of the environments. Environments that aren't installed don't count.

    Raises:
        UsageError: no environment has the option.
    """
    known: dict[str, None] = {}
    for env in envs:
        with suppress(UsageError):
            known |= dict.fromkeys(config_class(load_task(env)).model_fields)
    for name in options.env_options:
        if known and name not in known:
            listed = ", ".join(known)
            raise UsageError(f"--at {name}: no environment of these runs has this option; they have {listed}")


def _title(env: str, shown: _Shown, checkpoint: str) -> str:
    episode = shown.episode
    trajectory = episode.trajectory
    outcomes = {True: "success", False: "failure", None: "no success reported"}
    total = float(trajectory.rewards.sum())
    cut = f", of which {shown.steps:,} are shown" if shown.steps < len(trajectory) else ""
    return (
        f"{env}, seed {shown.seed + episode.environment} ({checkpoint}): {outcomes[episode.success]}, "
        f"return {total:.3g} in {len(trajectory):,} steps{cut}"
    )


def _seen(shown: _Shown) -> list[list[Json]]:
    """Return the parts of each observation, with the return-to-go if the agent is conditioned on it."""
    trajectory = shown.episode.trajectory
    space = shown.agent.spec.observation_space
    returns = shown.episode.returns_to_go
    seen = []
    for step in range(shown.steps):
        observation = map_leaves(itemgetter(step), trajectory.observations)
        parts = seen_parts(observation, space)
        if returns is not None:
            parts.append({"name": "return-to-go", "values": [f"{returns[step]:.3g}"], "strengths": [0.0]})
        seen.append(parts)
    return seen


def _decisive(shown: _Shown) -> list[int]:
    """Return the steps whose action depends on the memory."""
    decisive = shown.episode.trajectory.decisive
    return [] if decisive is None else np.flatnonzero(decisive[: shown.steps]).tolist()


def _frames(shown: _Shown) -> Json:
    """Return the pictures, the last of which follows the last step; or the reason for which there are none."""
    frames = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a render mode that an environment doesn't have, which is told anyway
            for picture in drawn_episode(shown.task, shown.env, shown.episode, shown.seed, shown.steps):
                frames.append(image_uri(picture))
    except UsageError as error:
        return {"frames": [], "no_frames": str(error)}
    return {"frames": frames, "no_frames": ""}


def _traced(agent: BaseAgent, episodes: PlayedEpisodes, chosen: int, shown: _Shown) -> Json:
    actions = shown.episode.trajectory.actions
    taken = []
    for step in range(shown.steps):
        action = map_leaves(itemgetter(step), actions)
        taken.append(action_text(action))
    if not isinstance(agent, Agent):
        reason = "this agent learns by acting; its memory and probabilities aren't looked into"
        return {"taken": taken, "choices": [], "segments": [], "compared": reason, "carries": False}
    traced = trace(agent, episodes, chosen, shown.steps)
    return {
        "taken": taken,
        "choices": _choices(agent, traced),
        "segments": [_segment(segment) for segment in traced.segments],
        "compared": traced.compared,
        "carries": any(segment.change is not None for segment in traced.segments),
    }


def _segment(segment: SegmentTrace) -> Json:
    return {
        "start": segment.start,
        "stop": segment.stop,
        "change": _rounded_one(segment.change),
        "influence": _rounded(segment.influence),
        "attention": _rounded(segment.attention),
        "same": _rounded_one(segment.same),
        "other": _rounded_one(segment.other),
    }


def _choices(agent: Agent, traced: Trace) -> list[Json]:
    """Return the probabilities of each step's actions, and those with memories of another cue; none if not discrete."""
    head = agent.head
    if not isinstance(head, Categorical) or head.size > MOST_BARS:
        return []
    names = _names(head)
    own = _probabilities(head, traced.logits)
    other = None if traced.other_logits is None else _probabilities(head, traced.other_logits).mean(0)
    choices: list[Json] = []
    for step, shares in enumerate(own):
        with_other = None if other is None else _rounded(other[step].tolist())
        choices.append({"names": names, "own": _rounded(shares.tolist()), "other": with_other})
    return choices


def _names(head: Categorical) -> list[str]:
    """Return the name of each category: its number, behind the variable's if there are several."""
    names = []
    for variable, (start, size) in enumerate(zip(head.starts, head.sizes, strict=True)):
        prefix = f"[{variable}] " if len(head.sizes) > 1 else ""
        names += [f"{prefix}{start + index}" for index in range(size)]
    return names


def _probabilities(head: Categorical, logits: Tensor) -> Tensor:
    """Return the probabilities of all categories of all variables, (..., size)."""
    for_action = logits[..., : head.size].float()
    parts = [part.softmax(-1) for part in for_action.split(head.sizes, -1)]
    return torch.cat(parts, -1)


def _rounded(numbers: Sequence[float]) -> list[float]:
    return [round(float(number), 4) for number in numbers]


def _rounded_one(number: float | None) -> float | None:
    return None if number is None else round(number, 4)
