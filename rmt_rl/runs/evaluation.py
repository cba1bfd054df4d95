"""`evaluation.json`: the results of a run's evaluations, as `rmt-rl evaluate` writes them and tables and plots read."""

from __future__ import annotations

import json
import warnings
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, TypeAlias, cast

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from rmt_rl.errors import UsageError
from rmt_rl.file_errors import UnreadableFile, unreadable
from rmt_rl.files import check_writable, write_atomically
from rmt_rl.locks import held
from rmt_rl.machine import check_fits
from rmt_rl.numbers import LARGEST_RESULT
from rmt_rl.reading import RESULTS_LIMIT, parse_json, read_text
from rmt_rl.statistics import Interval, mean, mean_interval, success_interval

if TYPE_CHECKING:
    from rmt_rl.data.references import References

FORMAT = 1
FILE = "evaluation.json"
LOCK = ".evaluation.lock"  # held while the file is read and written again
SETTINGS = ("seed", "deterministic", "target_return", "lanes")  # the same for all results of a file

Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Natural: TypeAlias = Annotated[int, Field(ge=0)]
Positive: TypeAlias = Annotated[int, Field(ge=1)]


def _not_too_large(number: float) -> float:
    if abs(number) > LARGEST_RESULT:
        raise ValueError(f"the number is larger than {LARGEST_RESULT:g}")
    return number


def _ordered(bounds: Interval) -> Interval:
    lower, upper = bounds
    if lower > upper:
        raise ValueError(f"the lower bound {lower} is above the upper bound {upper}")
    return bounds


Finite: TypeAlias = Annotated[float, Field(allow_inf_nan=False), AfterValidator(_not_too_large)]
EpisodeRecord = TypedDict(
    "EpisodeRecord",
    {
        "lane": Natural,
        "return": Finite,
        "length": Positive,
        "success": bool | None,
        "returns_of_life": NotRequired[list[Finite]],
    },
)

ShareInterval: TypeAlias = Annotated[tuple[Share, Share], AfterValidator(_ordered)]
FiniteInterval: TypeAlias = Annotated[tuple[Finite, Finite], AfterValidator(_ordered)]


class MeanRecord(TypedDict):
    """A mean return and its interval."""

    mean: Finite
    interval: FiniteInterval | None


class Figures(TypedDict):
    """The part of a result that tables and plots need."""

    options: dict[str, Any]  # JSON values of the varied options
    success_rate: Share | None
    success_interval: ShareInterval | None  # a list in a record that was read, since JSON has no tuples
    mean_return: Finite
    return_interval: FiniteInterval | None


READ = tuple(Figures.__annotations__)


class ResultRecord(Figures, total=False):
    """One evaluation in `evaluation.json`."""

    seed: Natural
    deterministic: bool
    target_return: Finite | None
    lanes: Positive
    normalised_return: Finite | None
    mean_length: Annotated[Finite, Field(ge=1)]
    seconds: Annotated[Finite, Field(ge=0)]
    return_by_episode_of_life: list[MeanRecord]
    episodes: list[EpisodeRecord]


class EvaluationFile(TypedDict):
    """The content of `evaluation.json`."""

    format: int
    checkpoint: str | None
    results: list[ResultRecord]


EPISODE_BYTES = 128  # of an `EpisodeResult` in memory, at least (170 measured)


def check_episodes(name: str, count: int) -> None:
    """Raise a UsageError if the results of so many episodes don't fit into memory."""
    check_fits(f"{name}={count}: their results", count * EPISODE_BYTES, "choose fewer episodes")


_RECORD = TypeAdapter(EvaluationFile)
_FIGURES = TypeAdapter(Figures)


def check_figures(values: object) -> None:
    """Check a result that wasn't read from `evaluation.json`.

    Raises:
        ValueError: a figure is missing or out of range.
    """
    try:
        _FIGURES.validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}") from None


@dataclass(frozen=True)
class EpisodeResult:
    """One episode; `success` is None if the environment reports none (`is_success`, at the episode's end)."""

    lane: int
    episode_return: float
    length: int
    success: bool | None
    returns_of_life: tuple[float, ...] = ()
    """Returns of the episodes of a life, in order; none if the episode isn't a life."""

    def to_json(self) -> EpisodeRecord:
        """Return the record of this episode in `evaluation.json`."""
        record: EpisodeRecord = {
            "lane": self.lane,
            "return": self.episode_return,
            "length": self.length,
            "success": self.success,
        }
        if self.returns_of_life:
            record["returns_of_life"] = list(self.returns_of_life)
        return record


@dataclass(frozen=True)
class Evaluation:
    """Results of a policy in `episodes` at one setting of the environment.

    Intervals are at 95%: Wilson's for the success rate, Student's for the mean return (None for one episode).
    """

    options: Mapping[str, Any]
    """The varied options; empty when none was."""
    seed: int
    deterministic: bool
    """True if the most likely actions were taken, False if actions were sampled."""
    target_return: float | None
    lanes: int
    """Environments played at once, at most."""
    seconds: float
    """Wall-clock time of all environments together."""
    episodes: tuple[EpisodeResult, ...]
    """By environment, then in the order of playing."""
    references: References | None = None
    """Reference scores of the data; None if the data have none, or if an option was varied, since the scores hold for
    the trained task."""

    @property
    def normalised_return(self) -> float | None:
        """The mean return on a scale from 0, random actions, to 1, the expert."""
        return None if self.references is None else self.references.normalised(self.mean_return)

    @property
    def mean_return(self) -> float:
        """The mean undiscounted return."""
        return mean([episode.episode_return for episode in self.episodes])

    @property
    def return_interval(self) -> Interval | None:
        """The interval of the mean return."""
        return mean_interval([episode.episode_return for episode in self.episodes])

    @property
    def score(self) -> float:
        """The number that agents are compared by: the success rate, or the mean return if there is none."""
        return self.mean_return if self.success_rate is None else self.success_rate

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics that a training run logs."""
        success = {} if self.success_rate is None else {"eval/success_rate": self.success_rate}
        return success | {"eval/mean_return": self.mean_return, "eval/mean_length": self.mean_length}

    @property
    def mean_length(self) -> float:
        """The mean length of an episode in steps."""
        return mean([episode.length for episode in self.episodes])

    @property
    def success_rate(self) -> float | None:
        """The share of successful episodes; None unless every episode reported success or failure."""
        successes = self._successes
        return None if successes is None else successes / len(self.episodes)

    @property
    def success_interval(self) -> Interval | None:
        """The interval of the success rate."""
        successes = self._successes
        return None if successes is None else success_interval(successes, len(self.episodes))

    @property
    def return_by_episode_of_life(self) -> list[MeanRecord]:
        """The mean return of each episode of a life, in order; empty if episodes aren't lives."""
        lives = [episode.returns_of_life for episode in self.episodes]
        count = min(map(len, lives))
        return [_mean_record([life[number] for life in lives]) for number in range(count)]

    def to_json(self) -> ResultRecord:
        """Return the record of this evaluation in `evaluation.json`."""
        record: ResultRecord = {
            "options": dict(self.options),
            "seed": self.seed,
            "deterministic": self.deterministic,
            "target_return": self.target_return,
            "lanes": self.lanes,
            "success_rate": self.success_rate,
            "success_interval": self.success_interval,
            "mean_return": self.mean_return,
            "return_interval": self.return_interval,
            "normalised_return": self.normalised_return,
            "mean_length": self.mean_length,
            "seconds": self.seconds,
            "episodes": [episode.to_json() for episode in self.episodes],
        }
        by_episode = self.return_by_episode_of_life
        if by_episode:
            record["return_by_episode_of_life"] = by_episode
        return record

    @property
    def _successes(self) -> int | None:
        reported = [episode.success for episode in self.episodes if episode.success is not None]
        return sum(reported) if len(reported) == len(self.episodes) else None


def _mean_record(returns: list[float]) -> MeanRecord:
    return {"mean": mean(returns), "interval": mean_interval(returns)}


def write_evaluation(run: Path, evaluations: Iterable[Evaluation], checkpoint: str) -> Path:
    """Write evaluations into the run's `evaluation.json` and return its path.

    Earlier results of the same checkpoint at other options are kept, so a sweep can be written result by result, and
    options can be added later. Earlier results of another checkpoint, seed, target return or number of environments,
    or with actions chosen in another way, are dropped with a warning: they can't be compared with the new ones.
    Processes may evaluate a run at once.

    Raises:
        UsageError: the folder can't be written to.
    """
    check_writable(run, "name another folder for the results by --out")
    with held(run / LOCK, wait=True):
        return _merge_evaluation(run, evaluations, checkpoint)


def _merge_evaluation(run: Path, evaluations: Iterable[Evaluation], checkpoint: str) -> Path:
    """Write evaluations beside those of the file that may stay; no other process writes meanwhile."""
    path = run / FILE
    results = [evaluation.to_json() for evaluation in evaluations]
    before = _previous(run)
    comparable = before["checkpoint"] == checkpoint
    ways = set(map(_way, results))
    repeated = {_hashable(new["options"]) for new in results}
    others = [old for old in before["results"] if _hashable(old["options"]) not in repeated]
    kept = [old for old in others if comparable and ways <= {_way(old)}]
    dropped = len(others) - len(kept)
    if dropped:
        warnings.warn(
            f"{path}: {dropped} earlier results are dropped, as they are of another checkpoint, seed, target "
            "return or number of lanes (environments played at once), or of actions chosen in another way",
            UserWarning,
            stacklevel=2,
        )
    record: EvaluationFile = {"format": FORMAT, "checkpoint": checkpoint, "results": kept + results}
    write_atomically(path, json.dumps(record, indent=1).encode())
    return path


def read_evaluation(run: Path) -> EvaluationFile | None:
    """Return the content of a run's `evaluation.json`, or None if the run was never evaluated.

    Raises:
        UsageError: the file is damaged, of another format or can't be read.
    """
    path = run / FILE
    try:
        text = read_text(path, RESULTS_LIMIT)
        record = parse_json(text)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise unreadable(str(path), error) or UsageError(f"{path} can't be read: {error}") from error
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"{path} is damaged ({error}); evaluate the run again") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise UsageError(f"{path} is not of format {FORMAT}; evaluate the run again")
    try:
        _RECORD.validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UsageError(
            f"{path} is damaged (results are missing, incomplete or out of range): {place}: {first['msg']}; evaluate "
            "the run again"
        ) from None
    return cast("EvaluationFile", record)


def read_results(run: Path) -> list[ResultRecord]:
    """Return the results in a run's `evaluation.json`; none if the run was never evaluated.

    Raises:
        UsageError: as in `read_evaluation`.
    """
    record = read_evaluation(run)
    return record["results"] if record else []


def _way(result: ResultRecord) -> Hashable:
    """Return the settings of a result that others must share to be compared with it."""
    return tuple(result.get(name) for name in SETTINGS)


def _hashable(value: Any) -> Hashable:
    """Return a JSON value with tuples in place of lists and objects; equal values give equal tuples."""
    if isinstance(value, Mapping):
        return frozenset((name, _hashable(member)) for name, member in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(_hashable, value))
    return cast("Hashable", value)


def _previous(run: Path) -> EvaluationFile:
    none: EvaluationFile = {"format": FORMAT, "checkpoint": None, "results": []}
    try:
        return read_evaluation(run) or none
    except UnreadableFile:
        raise
    except UsageError:  # a damaged file is replaced, since the new results are worth more
        return none
