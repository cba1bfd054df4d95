"""Show the environments, agents, memory mechanisms, encoders, commands and all else that has a name, one line each."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from rmt_rl import registry
from rmt_rl.cli.arguments import Arguments
from rmt_rl.errors import UsageError
from rmt_rl.registry import Entry, Kind
from rmt_rl.terminal import say


def list_everything(arguments: Arguments) -> int:
    """Print the names of each kind with their summaries."""
    parser = argparse.ArgumentParser("rmt-rl list", description=__doc__)
    parser.parse_args(arguments)
    from rmt_rl.hub.zoo import read_zoo
    from rmt_rl.runs.find import PREFIX
    from rmt_rl.runs.recipes import recipe_names

    recipes = recipe_names()
    for kind, info in registry.KINDS.items():
        found = registry.entries(kind)
        if not found:
            continue
        title, size = _sizes() if kind == "agents" else ("", _no_size)
        say(f"{info.plural}{title}:")
        width = max(map(len, found))
        for name, entries in found.items():
            described = _described(kind, name, entries)
            mark = ("* " if name in recipes else "  ") if kind == "envs" else ""
            say(f"  {name:<{width}} {mark}{size(name)}{described}")
    say("trained runs, e.g. rmt-rl evaluate zoo:tmaze-rate:")
    zoo = {f"{PREFIX}{name}": run.summary for name, run in read_zoo().items()}
    width = max(map(len, zoo))
    for name, summary in zoo.items():
        say(f"  {name:<{width}}   {summary}")
    say("Any Gymnasium id is an environment, too, such as Hopper-v5 or ale_py:ALE/Pong-v5; it has no expert.")
    say("* These environments have recipes: tuned options, which rmt-rl train ENV AGENT begins with and says.")
    say("Names of your own modules are written module:Name, e.g. rmt-rl train mylab.maze:Maze mylab.agents:Mine.")
    return 0


def _described(kind: Kind, name: str, entries: tuple[Entry, ...]) -> str:
    """Return the summary, the distribution that declares the name if it isn't ours, and the extra that is needed."""
    distributions = [entry.distribution for entry in entries]
    if len(distributions) > 1:
        listed = ", ".join(distributions)
        return f"declared by several: {listed}"
    (source,) = distributions
    extra = registry.constant(kind, name, "EXTRA")
    if extra:
        source = f"{source or 'rmt-rl'}[{extra}]"
    before = registry.constant(kind, name, "BEFORE_PYTHON")
    if before:
        source = f"{source}, before Python {before}"
    summary = registry.summary(kind, name)
    return f"{summary} ({source})" if source else summary


def _no_size(name: str) -> str:
    return ""


def _sizes() -> tuple[str, Callable[[str], str]]:
    """Return what the sizes of agents are of, and a function that prints the sizes of an agent. Imports PyTorch."""
    from rmt_rl.analysis.sizes import STATED

    return f" (parameters, bytes of state per environment; {STATED})", _size


def _size(agent: str) -> str:
    """Return parameters and bytes of state of an agent, or why there are none; no agent's file may break the list."""
    from rmt_rl.analysis.sizes import default_sizes

    try:
        sizes = default_sizes(agent)
    except registry.NotInstalled:
        text = "not installed"
    except UsageError:
        text = "not usable"
    except (Exception, SystemExit) as error:
        text = type(error).__name__
    else:
        text = "-         -" if sizes is None else f"{sizes.parameters:,}{sizes.state_bytes:>10,}"
    return f"{text:>18}  "


COMMAND = list_everything
