"""The `rmt-rl` command: list, collect, train, evaluate, plot.

Heavy imports stand inside the commands, so that help and errors come at once.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from pydantic import ValidationError

from rmt_rl import registry
from rmt_rl.config import explain
from rmt_rl.errors import UsageError, nearest

if TYPE_CHECKING:
    from rmt_rl.run import RunConfig

Arguments = Sequence[str]


def main(arguments: Arguments | None = None) -> int:
    """Run a command; returns the exit status: 0, 2 for a user's mistake, 130 when interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(_usage())
            return 0
        if arguments[0] not in COMMANDS:
            raise UsageError(
                f"unknown command {arguments[0]!r} (known: {', '.join(COMMANDS)})" + nearest(arguments[0], COMMANDS)
            )
        return COMMANDS[arguments[0]](arguments[1:])
    except ValidationError as error:
        return _complain(explain(error))
    except UsageError as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        return 130


def _usage() -> str:
    lines = (f"  {name:<9} {(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items())
    return "usage: rmt-rl COMMAND ...\n\n" + "\n".join(lines) + "\n\nrmt-rl COMMAND --help tells more."


def _complain(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


def list_command(arguments: Arguments) -> int:
    """Show the environments, agents and memory mechanisms, one line each."""
    argparse.ArgumentParser("rmt-rl list", description=list_command.__doc__).parse_args(arguments)
    kinds: dict[registry.Kind, str] = {"envs": "environments", "agents": "agents", "memory": "memory mechanisms"}
    for kind, title in kinds.items():
        print(f"{title}:")
        for name in registry.names(kind):
            print(f"  {name:<16} {registry.summary(kind, name)}")
    return 0


def collect_command(arguments: Arguments) -> int:
    """Make a Minari data set with an environment's expert: rmt-rl collect ENV."""
    names, rest = _positionals(arguments, ("ENV",), "collect")
    if not names:
        return 0
    options_class = registry.load_task(names[0]).Config

    @dataclass
    class Collect:
        episodes: Annotated[int, tyro.conf.arg(help="episodes to collect")] = 4000
        seed: Annotated[int, tyro.conf.arg(help="seed of the episodes")] = 0
        env: Annotated[Any, tyro.conf.arg(help="options of the environment")] = field(default_factory=options_class)

    Collect.__annotations__["env"] = options_class
    given = tyro.cli(Collect, args=rest, prog=f"rmt-rl collect {names[0]}", description=collect_command.__doc__)
    from rmt_rl.collect import collect

    print(collect(names[0], given.env.model_dump(), given.episodes, given.seed))
    return 0


def train_command(arguments: Arguments) -> int:
    """Train an agent: rmt-rl train ENV AGENT, or train --config FILE, or train --resume RUN."""
    parser = argparse.ArgumentParser("rmt-rl train", add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path, metavar="FILE", help="take all options from a config.toml, or a run's")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="go on with a run that was stopped")
    parser.add_argument("--out", type=Path, metavar="RUN", help="folder to make (default: runs/ENV-AGENT-SEED)")
    own, rest = parser.parse_known_args(arguments)
    from rmt_rl import train

    if own.resume is not None:
        if rest or own.config or own.out:
            raise UsageError(f"--resume {own.resume} takes no other options; the run's config.toml holds them")
        return _watched(lambda report, stop: train.resume(own.resume, report, stop), own.resume)
    config = _train_config(own.config, rest, parser.format_help())
    if config is None:
        return 0
    run = own.out or Path("runs") / f"{config.env}-{config.agent}-{config.seed}"
    return _watched(lambda report, stop: train.train(config, run, report, stop), run)


def _train_config(file: Path | None, rest: Arguments, own_help: str) -> RunConfig | None:
    """The config that the command line asks for; None when it only asked for help."""
    from rmt_rl.run import make_config, read_config

    if file is not None:
        default = read_config(file)
    else:
        names, rest = _positionals(rest, ("ENV", "AGENT"), "train", own_help)
        if not names:
            return None
        default = make_config({"env": names[0], "agent": names[1]})
    if {"-h", "--help"} & set(rest):
        print(own_help)
    prog = f"rmt-rl train {default.env} {default.agent}"
    return tyro.cli(type(default), args=rest, default=default, prog=prog, description="Options of the run:")


def _watched(train: Callable[[Any, Any], int], run: Path) -> int:
    """Train with a progress bar; Ctrl-C ends after the update under way, its checkpoint saved."""
    from rmt_rl.progress import TrainingProgress
    from rmt_rl.run import read_config

    stopped = False

    def stop(number: int, frame: Any) -> None:
        nonlocal stopped
        stopped = True
        signal.signal(number, signal.default_int_handler)  # a second one stops at once

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with TrainingProgress(run) as progress:
            made = train(progress, lambda: stopped)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if made < read_config(run).training.updates:
        print(f"stopped after {made} updates; go on with: rmt-rl train --resume {run}", file=sys.stderr)
        return 130
    print(run)
    return 0


@dataclass(frozen=True)
class Evaluate:
    """Roll out a run's agent in its environment, and write evaluation.json."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(help="folder of the run")]
    vary: Annotated[tuple[str, ...], tyro.conf.arg(help="an env option and its values: corridor_length=90,300")] = ()
    episodes: Annotated[int, tyro.conf.arg(help="episodes for each value")] = 100
    seed: Annotated[int, tyro.conf.arg(help="seed of the episodes")] = 1000
    lanes: Annotated[int, tyro.conf.arg(help="environments played at once, at most")] = 100
    checkpoint: Annotated[str, tyro.conf.arg(help="last or best")] = "last"
    target_return: Annotated[float | None, tyro.conf.arg(help="return to aim at (default: the data's best)")] = None
    sample: Annotated[bool, tyro.conf.arg(help="sample actions; otherwise the likeliest is taken")] = False
    device: Annotated[str, tyro.conf.arg(help="where the agent runs, e.g. cpu or cuda")] = "cpu"


def evaluate_command(arguments: Arguments) -> int:
    """Roll out a run's agent, over a range of an environment's option too, and write evaluation.json."""
    given = tyro.cli(Evaluate, args=arguments, prog="rmt-rl evaluate")
    from rmt_rl.checkpoint import load_agent
    from rmt_rl.evaluate import parse_vary, sweep, write_evaluation
    from rmt_rl.progress import evaluation_line
    from rmt_rl.run import read_config

    agent = load_agent(given.run, given.checkpoint, given.device)
    agent.set_random_seed(given.seed)
    config = read_config(given.run)
    target = agent.spec.target_return if given.target_return is None else given.target_return
    evaluations = sweep(
        agent,
        registry.load_task(config.env),
        config.env_options.model_dump(),
        parse_vary(given.vary),
        given.episodes,
        given.seed,
        deterministic=not given.sample,
        target_return=target,
        max_lanes=given.lanes,
    )
    done = []
    for evaluation in evaluations:
        print(evaluation_line(evaluation), flush=True)
        done.append(evaluation)
        write_evaluation(given.run, done, given.checkpoint)
    return 0


@dataclass(frozen=True)
class Plot:
    """Draw learning curves, and success over what was varied; mean and 95% interval over seeds."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(help="folders of runs")]
    out: Annotated[Path, tyro.conf.arg(help="the picture, PNG")] = Path("curves.png")


def plot_command(arguments: Arguments) -> int:
    """Draw learning curves, and success over what was varied, from the files of runs."""
    given = tyro.cli(Plot, args=arguments, prog="rmt-rl plot")
    from rmt_rl.plot import plot, table

    plot(given.runs, given.out)
    print(table(given.runs))
    print(given.out)
    return 0


def _positionals(
    arguments: Arguments, wanted: tuple[str, ...], command: str, more: str = ""
) -> tuple[list[str], list[str]]:
    """Split off the leading names; none where help is asked for without them.

    Raises:
        UsageError: there are fewer or more names than wanted.
    """
    names = []
    for argument in arguments:
        if argument.startswith("-"):
            break
        names.append(argument)
    rest = list(arguments[len(names) :])
    if not names and {"-h", "--help"} & set(rest):
        docs = COMMANDS[command].__doc__
        print(f"{docs}\n\n{more}\nrmt-rl {command} {' '.join(wanted)} --help shows the options, rmt-rl list the names.")
        return [], rest
    if len(names) != len(wanted):
        raise UsageError(
            f"rmt-rl {command} takes {' '.join(wanted)}, not {' '.join(names) or 'nothing'}; see rmt-rl list"
        )
    return names, rest


COMMANDS: dict[str, Callable[[Arguments], int]] = {
    "list": list_command,
    "collect": collect_command,
    "train": train_command,
    "evaluate": evaluate_command,
    "plot": plot_command,
}

if __name__ == "__main__":
    sys.exit(main())
