"""The kinds of things that are found by name: where their files are, and what an object of each kind must be."""

from __future__ import annotations

import sys
from collections.abc import Callable
from inspect import isabstract
from types import ModuleType
from typing import Literal, NamedTuple

import gymnasium

from rmt_rl.task import is_task

Kind = Literal["envs", "agents", "memory", "encoders", "feeds", "formats", "loggers", "engines", "learners", "commands"]


class KindInfo(NamedTuple):
    """One kind.

    Attributes:
        home: the package whose files are of this kind.
        noun: one such thing, in errors.
        plural: several, in lists.
        fits: whether an object is of this kind.
        wanted: a description of the objects that fit, in errors.
        attribute: the name of the object in a file; `""` if it is the module.
        strict: `fits` also accepts objects that weren't written for this toolkit, so the user must name their modules.
    """

    home: str
    noun: str
    plural: str
    fits: Callable[[object], bool]
    wanted: str
    attribute: str = ""
    strict: bool = False


def _derives_from(module: str, base: str) -> Callable[[object], bool]:
    """Return a test for concrete subclasses of a class, which needs no import: its subclasses have imported it."""

    def fits(thing: object) -> bool:
        cls = getattr(sys.modules.get(module), base, None)
        if not (isinstance(cls, type) and isinstance(thing, type)):
            return False
        return issubclass(thing, cls) and not isabstract(thing)

    return fits


_is_agent = _derives_from("rmt_rl.agent", "BaseAgent")
_is_feed = _derives_from("rmt_rl.data.feed", "Feed")
_is_core = _derives_from("rmt_rl.recurrence", "SegmentRecurrent")


def _is_env(thing: object) -> bool:
    return is_task(thing) or (isinstance(thing, type) and issubclass(thing, gymnasium.Env))


def _is_mechanism(thing: object) -> bool:
    return isinstance(thing, ModuleType) or _is_core(thing)


def _is_engine(thing: object) -> bool:
    return isinstance(thing, type) and hasattr(thing, "Config") and hasattr(thing, "submit") and hasattr(thing, "poll")


def _is_learner(thing: object) -> bool:
    return isinstance(thing, type) and hasattr(thing, "Run") and hasattr(thing, "advance")


def _is_format(thing: object) -> bool:
    return hasattr(thing, "mapped") and hasattr(thing, "check") and hasattr(thing, "episodes")


def _is_logger(thing: object) -> bool:
    return isinstance(thing, type) and hasattr(thing, "write") and hasattr(thing, "close")


KINDS: dict[Kind, KindInfo] = {
    "envs": KindInfo(
        home="rmt_rl.envs",
        noun="env",
        plural="environments",
        fits=_is_env,
        wanted="a module or class with ID, Config and make, or a subclass of gymnasium.Env",
    ),
    "agents": KindInfo(
        home="rmt_rl.agents",
        noun="agent",
        plural="agents",
        fits=_is_agent,
        wanted="a subclass of rmt_rl.agent.BaseAgent without abstract methods",
        attribute="AGENT",
    ),
    "memory": KindInfo(
        home="rmt_rl.memory",
        noun="memory mechanism",
        plural="memory mechanisms",
        fits=_is_mechanism,
        wanted="a module, or a subclass of rmt_rl.recurrence.SegmentRecurrent without abstract methods",
    ),
    "encoders": KindInfo(
        home="rmt_rl.nn.encoders",
        noun="encoder",
        plural="encoders",
        fits=callable,
        wanted="a class of torch.nn.Module, or a function that returns one, from a space and a width",
        attribute="ENCODER",
        strict=True,
    ),
    "feeds": KindInfo(
        home="rmt_rl.data.feeds",
        noun="feed",
        plural="feeds",
        fits=_is_feed,
        wanted="a subclass of rmt_rl.data.feed.Feed without abstract methods",
        attribute="FEED",
    ),
    "formats": KindInfo(
        home="rmt_rl.data.importing",
        noun="data format",
        plural="data formats",
        fits=_is_format,
        wanted="an rmt_rl.data.layout.Layout, or an object with its methods",
        attribute="FORMAT",
        strict=True,
    ),
    "loggers": KindInfo(
        home="rmt_rl.runs.loggers",
        noun="logger",
        plural="loggers",
        fits=_is_logger,
        wanted="a class with the methods of rmt_rl.runs.metrics.Logger",
        attribute="LOGGER",
        strict=True,
    ),
    "engines": KindInfo(
        home="rmt_rl.sweeps.engines",
        noun="engine",
        plural="engines",
        fits=_is_engine,
        wanted="a class with Config and the methods of rmt_rl.sweeps.engine.Engine",
        attribute="ENGINE",
        strict=True,
    ),
    "learners": KindInfo(
        home="rmt_rl.training.learners",
        noun="learner",
        plural="learners",
        fits=_is_learner,
        wanted="a class with the interface of rmt_rl.training.learner.AgentLearner",
        attribute="LEARNER",
        strict=True,
    ),
    "commands": KindInfo(
        home="rmt_rl.cli.commands",
        noun="command",
        plural="commands",
        fits=callable,
        wanted="a function",
        attribute="COMMAND",
        strict=True,
    ),
}
