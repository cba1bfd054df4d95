"""How well a policy acts: success and return over whole episodes, at one or at many settings of the environment."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rmt_rl.acting.rollout import Policy, Step, make_vec_env, rollout
from rmt_rl.config import validated
from rmt_rl.errors import UsageError
from rmt_rl.files import write_atomically
from rmt_rl.statistics import Interval, mean, mean_interval, success_interval
from rmt_rl.task import check_same_spaces, most_lanes
from rmt_rl.wrappers import VectorReturnToGo

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

    from rmt_rl.data.references import References
    from rmt_rl.task import Task

FORMAT = 1
FILE = "evaluation.json"
SETTINGS = ("seed", "deterministic", "target_return", "lanes")  # all results of a file have them in common
READ = ("options", "success_rate", "success_interval", "mean_return", "return_interval")  # by tables and pictures
Progress = Callable[[int, int], None]
"""Called after every step with the steps made and the episodes finished so far."""


@dataclass(frozen=True)
class EpisodeResult:
    """One episode; `success` is None where the environment reports none (`is_success`, at the episode's end)."""

    lane: int
    episode_return: float
    length: int
    success: bool | None

    def to_json(self) -> dict[str, Any]:
        """Return the record of this episode in `evaluation.json`."""
        return {"lane": self.lane, "return": self.episode_return, "length": self.length, "success": self.success}


@dataclass(frozen=True)
class Evaluation:
    """What a policy reached in `episodes` at one setting of the environment.

    Intervals are at 95%: Wilson's for the success rate, Student's for the mean return (None for one episode).
    """

    options: Mapping[str, Any]
    """The varied options; empty when none was."""
    seed: int
    deterministic: bool
    """The likeliest actions were taken; otherwise they were sampled."""
    target_return: float | None
    lanes: int
    """Environments played at once, at most."""
    seconds: float
    """Wall-clock time of all lanes together."""
    episodes: tuple[EpisodeResult, ...]
    """By lane, then in the order of playing."""
    references: References | None = None
    """Of the data; None where they have none, or where an option was varied, since they hold for the trained task."""

    @property
    def normalised_return(self) -> float | None:
        """Mean return between that of random actions, 0, and of the expert, 1."""
        return None if self.references is None else self.references.normalised(self.mean_return)

    @property
    def mean_return(self) -> float:
        """Undiscounted."""
        return mean([episode.episode_return for episode in self.episodes])

    @property
    def return_interval(self) -> Interval | None:
        """Of the mean return."""
        return mean_interval([episode.episode_return for episode in self.episodes])

    @property
    def score(self) -> float:
        """What agents are compared by: the success rate, or the mean return where there is none."""
        return self.mean_return if self.success_rate is None else self.success_rate

    @property
    def metrics(self) -> dict[str, float]:
        """What a training run logs of it."""
        success = {} if self.success_rate is None else {"eval/success_rate": self.success_rate}
        return success | {"eval/mean_return": self.mean_return, "eval/mean_length": self.mean_length}

    @property
    def mean_length(self) -> float:
        """In steps."""
        return mean([episode.length for episode in self.episodes])

    @property
    def success_rate(self) -> float | None:
        """None unless every episode reported success or failure."""
        successes = self._successes
        return None if successes is None else successes / len(self.episodes)

    @property
    def success_interval(self) -> Interval | None:
        """Of the success rate."""
        successes = self._successes
        return None if successes is None else success_interval(successes, len(self.episodes))

    def to_json(self) -> dict[str, Any]:
        """Return the record of this evaluation in `evaluation.json`."""
        return {
            "options": dict(self.options),
            **{name: getattr(self, name) for name in SETTINGS},
            "success_rate": self.success_rate,
            "success_interval": self.success_interval,
            "mean_return": self.mean_return,
            "return_interval": self.return_interval,
            "normalised_return": self.normalised_return,
            "mean_length": self.mean_length,
            "seconds": self.seconds,
            "episodes": [episode.to_json() for episode in self.episodes],
        }

    @property
    def _successes(self) -> int | None:
        reported = [episode.success for episode in self.episodes if episode.success is not None]
        return sum(reported) if len(reported) == len(self.episodes) else None


def evaluate(
    policy: Policy,
    task: Task,
    options: Mapping[str, Any],
    episodes: int,
    seed: int,
    *,
    deterministic: bool = True,
    target_return: float | None = None,
    max_lanes: int = 100,
    progress: Progress | None = None,
) -> Evaluation:
    """Play whole episodes of a task and sum them up.

    Args:
        policy: acts in all lanes at once.
        task: the environment's module.
        options: of the environment; its defaults for the rest.
        episodes: how many, in all lanes together; each lane plays a share fixed beforehand.
        seed: of the environment's reset.
        deterministic: handed on to the policy.
        target_return: observed as return-to-go, less by each reward on the way; None leaves observations alone.
        max_lanes: environments played at once; results depend on it, as lanes draw their own random numbers.
        progress: called after every step.

    Raises:
        UsageError: `episodes` or `max_lanes` is less than 1, or an option doesn't fit the task.
    """
    if min(episodes, max_lanes) < 1:
        raise UsageError(f"episodes = {episodes}, max_lanes = {max_lanes}: at least 1 of each is needed")
    env: VectorEnv[Any, Any, Any] = make_vec_env(task, options, most_lanes(task, min(episodes, max_lanes)))
    if target_return is not None:
        env = VectorReturnToGo(env, target_return)
    with closing(env):
        began = time.perf_counter()
        results = _summed(rollout(policy, env, episodes, seed, deterministic), env.num_envs, progress)
        seconds = time.perf_counter() - began
    return Evaluation({}, seed, deterministic, target_return, max_lanes, seconds, results)


def sweep(
    policy: Policy,
    task: Task,
    options: Mapping[str, Any],
    vary: Mapping[str, Sequence[Any]],
    episodes: int,
    seed: int,
    *,
    deterministic: bool = True,
    target_return: float | None = None,
    max_lanes: int = 100,
    progress: Progress | None = None,
    begin: Callable[[Mapping[str, Any]], None] = lambda combination: None,
) -> Iterator[Evaluation]:
    """Evaluate at every combination of the varied options' values, one after the other, as they are asked for.

    Every combination is checked before the first is played. `begin` is called with each before it is played, e.g.
    to seed a policy that samples, so that no result depends on those before it. The other arguments are those of
    `evaluate`.

    Raises:
        UsageError: as `evaluate` does; an unknown option names the nearest one. Or an agent's spaces aren't those of
            an environment with these options.
    """
    combinations = [dict(zip(vary, values, strict=True)) for values in product(*vary.values())]
    for combination in combinations:
        validated(task.Config, {**options, **combination})
    if spec := getattr(policy, "spec", None):  # of an agent, which was made for certain spaces
        for combination in filter(None, combinations):
            what = ", ".join(f"{option}={value!r}" for option, value in combination.items())
            with closing(task.make(**{**options, **combination})) as env:
                check_same_spaces(f"with {what}, {task.ID}", env, "the agent", spec, "vary another option")

    def at(combination: Mapping[str, Any]) -> Evaluation:
        begin(combination)
        evaluation = evaluate(
            policy,
            task,
            {**options, **combination},
            episodes,
            seed,
            deterministic=deterministic,
            target_return=target_return,
            max_lanes=max_lanes,
            progress=progress,
        )
        return replace(evaluation, options=combination)

    return map(at, combinations)


def parse_vary(texts: Iterable[str]) -> dict[str, list[Any]]:
    """Read `corridor_length=90,300`: values are JSON, and whatever isn't is a string.

    Raises:
        UsageError: a text has no name, no values, or the name of an earlier one.
    """
    vary: dict[str, list[Any]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not (name.strip() and equals and values.strip()):
            raise UsageError(f"--vary {text!r}: give it as NAME=VALUE,VALUE,...")
        if name.strip() in vary:
            raise UsageError(f"--vary {text!r}: {name.strip()!r} is varied twice; list all its values once")
        vary[name.strip()] = _values(values)
    return vary


def write_evaluation(run: Path, evaluations: Iterable[Evaluation], checkpoint: str) -> Path:
    """Write evaluations into the run's `evaluation.json` and return its path.

    Results of the same checkpoint at other options are kept, so that a sweep can be written result by result, and
    options can be added later. Results that those can't be compared with are dropped: of another checkpoint, seed,
    target return or number of lanes, or with sampled actions instead of the likeliest. That is warned of.

    Raises:
        UsageError: the file can't be written.
    """
    path = run / FILE
    results = [evaluation.to_json() for evaluation in evaluations]
    before = _previous(run)
    comparable = before["results"] if before["checkpoint"] == checkpoint else []
    kept = [old for old in comparable if all(_keeps(old, new) for new in results)]
    again = [new["options"] for new in results]
    if dropped := sum(old not in kept and old["options"] not in again for old in before["results"]):
        warnings.warn(
            f"{path}: {dropped} earlier results are dropped, as they are of another checkpoint, seed, target return or "
            "number of lanes, or of actions chosen in another way",
            UserWarning,
            stacklevel=2,
        )
    record = {"format": FORMAT, "checkpoint": checkpoint, "results": kept + results}
    write_atomically(path, json.dumps(record, indent=1).encode())
    return path


def read_evaluation(run: Path) -> dict[str, Any] | None:
    """Return what `evaluation.json` of a run holds; None when it was never evaluated.

    Raises:
        UsageError: the file is damaged, of another format or can't be read.
    """
    path = run / FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path} is damaged ({error}); evaluate the run again") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise UsageError(f"{path} is not of format {FORMAT}; evaluate the run again")
    results = record.get("results")
    if "checkpoint" not in record or not isinstance(results, list) or not all(map(_is_result, results)):
        raise UsageError(f"{path} is damaged (results are missing or incomplete); evaluate the run again")
    return record


def _is_result(value: Any) -> bool:
    if not (isinstance(value, dict) and all(key in value for key in READ) and isinstance(value["options"], dict)):
        return False
    intervals = [value[name] or [] for name in ("success_interval", "return_interval")]
    if not all(isinstance(interval, list) for interval in intervals):
        return False
    numbers = [value["mean_return"], value["success_rate"] or 0.0, *chain.from_iterable(intervals)]
    return all(isinstance(number, int | float) for number in numbers)


def _keeps(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether an earlier result may stand beside a new one: it is of other options, and made in the same way."""
    return old["options"] != new["options"] and all(old.get(name) == new[name] for name in SETTINGS)


def _previous(run: Path) -> dict[str, Any]:
    none: dict[str, Any] = {"checkpoint": None, "results": []}
    try:
        return read_evaluation(run) or none
    except UsageError:  # what can't be read is replaced: new results are worth more
        return none


def _values(text: str) -> list[Any]:
    try:
        values: list[Any] = json.loads(f"[{text}]")  # as a whole first: a value may itself hold commas
    except ValueError:
        values = [_value(item.strip()) for item in text.split(",")]
    return values


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _summed(steps: Iterable[Step], lanes: int, progress: Progress | None) -> tuple[EpisodeResult, ...]:
    """Sum rewards and count steps by lane; only a running total of the open episodes is held."""
    returns, lengths = np.zeros(lanes), np.zeros(lanes, np.int64)
    results: list[EpisodeResult] = []
    for count, step in enumerate(steps, start=1):
        np.add(returns, step.rewards, out=returns, where=step.counted)
        lengths += step.counted
        if step.ends.any():
            for lane in np.flatnonzero(step.ends).tolist():
                success = _success(step.infos, lane)
                results.append(EpisodeResult(lane, float(returns[lane]), int(lengths[lane]), success))
            returns[step.ends], lengths[step.ends] = 0, 0
        if progress is not None:
            progress(count, len(results))
    return tuple(sorted(results, key=lambda result: result.lane))


def _success(infos: Mapping[str, Any], lane: int) -> bool | None:
    """Read `is_success` of one lane; Gymnasium marks in `_is_success` the lanes that have it."""
    reported = infos.get("_is_success")
    return bool(infos["is_success"][lane]) if reported is not None and reported[lane] else None
