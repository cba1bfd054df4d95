"""The `rmt-rl` command: list, collect, train, evaluate, plot, inspect, flops.

Heavy imports stand inside the commands, so that help and errors come at once.
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from tyro.conf import Positional, UseAppendAction

from rmt_rl import __version__, registry
from rmt_rl.config import APART, SEEDS, Frozen
from rmt_rl.errors import UsageError, nearest
from rmt_rl.flags import parse, with_options

if TYPE_CHECKING:
    from rmt_rl.data.segment import Segment
    from rmt_rl.runs.options import RunConfig

Arguments = Sequence[str]
UNREACHABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG}  # a path's fault


def main(arguments: Arguments | None = None) -> int:
    """Run a command; returns the exit status: 0, 2 for a user's mistake, 130 when interrupted, 1 for a broken pipe."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(_usage())
            return 0
        if arguments[0] == "--version":
            print(f"rmt-rl {__version__}")
            return 0
        if arguments[0] not in COMMANDS:
            raise UsageError(
                f"unknown command {arguments[0]!r} (known: {', '.join(COMMANDS)})" + nearest(arguments[0], COMMANDS)
            )
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return COMMANDS[arguments[0]](arguments[1:])
    except UsageError as error:
        if _speaks():
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read our output has enough of it, as in `rmt-rl ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it closes it
        return 1
    except OSError as error:
        if error.errno not in UNREACHABLE:
            raise
        if _speaks():
            print(f"error: {error.filename} can't be opened ({error.strerror}); name another path", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _show_warning(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """One line, where the warning is meant for users; of the rest, developers want to know the place."""
    if category is UserWarning:
        print(f"warning: {message}", file=sys.stderr)
    else:
        print(warnings.formatwarning(message, category, *place[:2]), end="", file=sys.stderr)


def _usage() -> str:
    lines = (f"  {name:<9} {(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items())
    return (
        "usage: rmt-rl COMMAND ...\n\n"
        + "\n".join(lines)
        + "\n\nrmt-rl COMMAND --help tells more, rmt-rl --version the version."
    )


def _speaks() -> bool:
    """False in the further processes of data parallel training, which run the same command as the first."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def list_command(arguments: Arguments) -> int:
    """Show the environments, agents and memory mechanisms, one line each."""
    argparse.ArgumentParser("rmt-rl list", description=list_command.__doc__).parse_args(arguments)
    kinds: dict[registry.Kind, str] = {"envs": "environments", "agents": "agents", "memory": "memory mechanisms"}
    for kind, title in kinds.items():
        names = registry.names(kind)
        width = max(map(len, names), default=0)
        sized = kind == "agents"
        if sized:  # which imports PyTorch, with the environments on the screen already
            from rmt_rl.analysis.sizes import STATED

            title += f" (parameters, bytes of state a lane; {STATED})"
        print(f"{title}:")
        for name in names:
            extra = registry.constant(kind, name, "EXTRA")
            size = f"{_size(name):>18}  " if sized else ""
            print(f"  {name:<{width}} {size}{registry.summary(kind, name)}" + f" (rmt-rl[{extra}])" * bool(extra))
    print("Any Gymnasium id is an environment, too, such as Hopper-v5 or ale_py:ALE/Pong-v5; it has no expert.")
    return 0


def _size(agent: str) -> str:
    """Parameters and bytes of state of an agent, or why there are none; no agent's file may break the list."""
    from rmt_rl.analysis.sizes import default_sizes

    try:
        sizes = default_sizes(agent)
    except UsageError:  # a package that it needs isn't there
        return "not installed"
    except Exception as error:
        return type(error).__name__
    return "-         -" if sizes is None else f"{sizes.parameters:,}{sizes.state_bytes:>10,}"


class Collection(Frozen):
    """Episodes of an environment's expert, of trained agents, of random actions, or of several mixed."""

    episodes: int | None = Field(None, ge=1, description="episodes to collect (unset: the env's number, mostly 4000)")
    seed: int = Field(0, ge=0, lt=SEEDS, description=f"seed of the episodes{APART}")
    policy: tuple[str, ...] = Field(
        (), description="expert (default), random or a run's folder; several for a mix, e.g. expert=1 runs/ppo-0=2"
    )
    sample: bool = Field(False, description="trained agents sample their actions; otherwise the likeliest is taken")
    checkpoint: Literal["last", "best"] = Field("last", description="which of the runs' checkpoints")
    target_return: float | None = Field(None, description="return that agents aim at (unset: their data's best)")
    env_options: Any = None


def collect_command(arguments: Arguments) -> int:
    """Make a Minari data set: rmt-rl collect ENV plays its expert, --policy RUN a trained agent."""
    names, rest = _positionals(arguments, ("ENV",), "collect")
    if not names:
        return 0
    task = registry.load_task(names[0])
    given = parse(
        with_options(Collection, env=task.Config), rest, f"rmt-rl collect {names[0]}", collect_command.__doc__ or ""
    )
    from rmt_rl.acting.collect import EXPERT_ALONE, Behaviour, collect, parse_share
    from rmt_rl.cli.progress import EvaluationProgress
    from rmt_rl.task import default_episodes

    shares = tuple(map(parse_share, given.policy)) or EXPERT_ALONE.shares
    behaviour = Behaviour(shares, given.sample, given.target_return, given.checkpoint)
    episodes = given.episodes or default_episodes(task)
    with EvaluationProgress(episodes) as progress:
        identity = collect(names[0], given.env_options.model_dump(), episodes, given.seed, behaviour, progress)
    print(identity)
    return 0


def train_command(arguments: Arguments) -> int:
    """Train an agent: rmt-rl train ENV AGENT, or --dataset ID AGENT, or --config FILE, or --resume RUN."""
    parser = argparse.ArgumentParser("rmt-rl train", add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path, metavar="FILE", help="take all options from a config.toml, or a run's")
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="RUN",
        help="go on with a run that was stopped; or prolong one: raise `updates` (`total_timesteps`) in its config",
    )
    parser.add_argument("--out", type=Path, metavar="RUN", help="folder to make (default: runs/ENV-AGENT-SEED)")
    own, rest = parser.parse_known_args(arguments)
    from rmt_rl.runs.options import read_config

    if own.resume is not None:
        if rest or own.config or own.out:
            raise UsageError(f"--resume {own.resume} takes no other options; the run's config.toml holds them")
        config = read_config(own.resume)
        return _watched(lambda _, *rest: _learner(config).resume(*rest), config, own.resume)
    config = _train_config(own.config, rest, parser.format_help())
    if config is None:
        return 0
    return _watched(
        _learner(config).train, config, own.out or Path("runs", f"{config.env}-{config.agent}-{config.seed}")
    )


def _learner(config: RunConfig) -> Any:
    """The module whose `train` and `resume` are for this kind of run; imported only now, as both are heavy."""
    from rmt_rl.runs.options import OnlineRun

    return import_module("rmt_rl.training.online" if isinstance(config, OnlineRun) else "rmt_rl.training.offline")


def _train_config(file: Path | None, rest: Arguments, own_help: str) -> Any:
    """The config that the command line asks for; None when it only asked for help."""
    from rmt_rl.runs.options import make_config, read_config

    count = _leading(rest)
    if file is not None:
        default = read_config(file)
    elif count < 2 and any(argument.partition("=")[0] == "--dataset" for argument in rest):
        default, rest = _of_dataset(rest[:count], rest[count:])
    else:
        names, rest = _positionals(rest, ("ENV", "AGENT"), "train", own_help)
        if not names:
            return None
        default = make_config({"env": names[0], "agent": names[1]})
    if {"-h", "--help"} & set(rest):
        print(own_help)
    return parse(type(default), rest, f"rmt-rl train {default.env} {default.agent}", "Options of the run:", default)


def _of_dataset(names: Arguments, options: Arguments) -> tuple[RunConfig, Arguments]:
    """The config of a run in the environment that its data sets come from, and the other arguments.

    The agent stands first, or behind the ids: `rate --dataset ID`, `--dataset ID rate`.
    """
    options = [part for option in options for part in _apart(option)]
    at = options.index("--dataset") + 1
    end = at + _leading(options[at:])
    given = [*options[at:end], *names]
    if len(given) < 2:
        raise UsageError(
            f"--dataset {' '.join(given)}: give a data set's id and an agent: rmt-rl train --dataset ID AGENT; see "
            "rmt-rl list"
        )
    *ids, agent = given
    if registry.load_agent(agent).learning == "online":
        raise UsageError(f"agent {agent!r} learns by acting, not from data sets: rmt-rl train ENV {agent}")
    from rmt_rl.runs.options import make_config

    env, env_options = _task_of_all(ids, agent)
    values = {"env": env, "agent": agent, "env_options": env_options, "data": {"dataset": ids}}
    return make_config(values), [*options[: at - 1], *options[end:]]


def _task_of_all(ids: Sequence[str], agent: str) -> tuple[str, dict[str, Any]]:
    """The environment and its options that all of these data sets come from."""
    from rmt_rl.data.store import open_dataset

    tasks: dict[str, tuple[str, dict[str, Any]]] = {}
    for identity in ids:
        spec = open_dataset(identity).env_spec
        if spec is None:
            raise UsageError(f"dataset={identity} doesn't say which environment it is from; give ENV and AGENT")
        tasks[identity] = registry.task_of(spec)
    first = tasks[ids[0]]
    for identity, (env, options) in tasks.items():
        if (env, options) != first:
            raise UsageError(
                f"dataset={identity} is from {env} with {options}, but {ids[0]} from {first[0]} with {first[1]}; "
                f"say where to act: rmt-rl train ENV {agent} --dataset {' '.join(ids)}"
            )
    return first


def _apart(option: str) -> Arguments:
    """`--dataset=ID` as two arguments; others as they are."""
    name, equals, value = option.partition("=")
    return (name, value) if equals and name == "--dataset" else (option,)


def _leading(arguments: Arguments) -> int:
    """How many arguments stand before the first option."""
    return next((index for index, argument in enumerate(arguments) if argument.startswith("-")), len(arguments))


def _watched(train: Callable[[RunConfig, Path, Any, Any], int], config: RunConfig, run: Path) -> int:
    """Train with a progress bar; Ctrl-C ends after the update under way, its checkpoint saved."""
    from rmt_rl.cli.progress import TrainingProgress
    from rmt_rl.runs.options import CONFIG

    stopped = False

    def stop(number: int, frame: Any) -> None:
        nonlocal stopped
        stopped = True
        signal.signal(number, signal.default_int_handler)  # a second one stops at once
        if _speaks():  # by os.write, since what is under way may itself be a print
            os.write(2, b"\nstopping after this update or round; once more to stop at once\n")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    made = 0
    try:
        with TrainingProgress(str(run), config.length) as progress:
            made = train(config, run, progress, lambda: stopped)
    except KeyboardInterrupt:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    done = made >= config.length  # an online agent ends a round that it began
    if _speaks() and done:
        print(run)
    elif _speaks():
        hint = f"; go on with: rmt-rl train --resume {quote(str(run))}" if (run / CONFIG).exists() else ""
        print(f"stopped{f' at {made}' * bool(made)}{hint}", file=sys.stderr)
    return 0 if done else 130


class Evaluate(Frozen):
    """Roll out a run's agent in its environment, and write evaluation.json."""

    run: Positional[Path] = Field(description="folder of the run")
    vary: UseAppendAction[tuple[str, ...]] = Field(
        (), description="an env option and its values: corridor_length=90,300; give it again for a grid"
    )
    episodes: int = Field(100, ge=1, description="episodes for each value")
    seed: int = Field(1000, ge=0, lt=SEEDS, description=f"seed of the episodes{APART}")
    lanes: int = Field(100, ge=1, description="environments played at once, at most")
    checkpoint: Literal["last", "best"] = Field("last", description="which of the run's checkpoints")
    target_return: float | None = Field(None, description="return to aim at (unset: the data's best)")
    sample: bool = Field(False, description="sample actions; otherwise the likeliest is taken")
    device: str = Field("cpu", description="where the agent runs, e.g. cpu or cuda")


def evaluate_command(arguments: Arguments) -> int:
    """Roll out a run's agent, over a range of an environment's option too, and write evaluation.json."""
    given = parse(Evaluate, arguments, "rmt-rl evaluate", evaluate_command.__doc__ or "")
    from rmt_rl.acting.evaluate import parse_vary, sweep, write_evaluation
    from rmt_rl.cli.progress import EvaluationProgress, evaluation_line
    from rmt_rl.runs.checkpoint import path_of, read_checkpoint, restore_agent
    from rmt_rl.runs.options import read_config

    config = read_config(given.run)
    saved = read_checkpoint(path_of(given.run, given.checkpoint))
    agent = restore_agent(saved, given.device)
    done = []
    with EvaluationProgress(given.episodes) as progress:
        evaluations = sweep(
            agent,
            registry.load_task(config.env),
            config.env_options.model_dump(),
            parse_vary(given.vary),
            given.episodes,
            given.seed,
            deterministic=not given.sample,
            target_return=agent.target_return(given.target_return),
            max_lanes=given.lanes,
            progress=progress,
            begin=lambda _: agent.set_random_seed(given.seed),
        )
        references = _references(config)
        for evaluation in evaluations:
            progress.hide()
            if not evaluation.options:
                evaluation = replace(evaluation, references=references)
            print(evaluation_line(evaluation), flush=True)
            done.append(evaluation)
            # With its update, so that results of a run that was trained further since aren't kept beside new ones.
            write_evaluation(given.run, done, f"{given.checkpoint}, update {saved.header.update}")
    return 0


def _references(config: RunConfig) -> Any:
    """Of the data that a run learnt from, where they are still there."""
    from rmt_rl.acting.collect import dataset_ids
    from rmt_rl.data.references import read_references
    from rmt_rl.runs.options import OfflineRun

    return read_references(dataset_ids(config)) if isinstance(config, OfflineRun) else None


class Plot(Frozen):
    """Draw learning curves, and success over what was varied; mean and 95% interval over seeds."""

    runs: Positional[tuple[Path, ...]] = Field((), description="folders of runs")
    out: Path = Field(Path("curves.png"), description="the picture, .png or .svg")


def plot_command(arguments: Arguments) -> int:
    """Draw learning curves, and success over what was varied, from the files of runs."""
    given = parse(Plot, arguments, "rmt-rl plot", plot_command.__doc__ or "")
    from rmt_rl.acting.evaluate import read_evaluation
    from rmt_rl.analysis.comparison import LEGEND, comparison_table
    from rmt_rl.analysis.plot import plot

    plot(given.runs, given.out)
    if any(map(read_evaluation, given.runs)):
        print(comparison_table(given.runs), LEGEND, sep="\n\n")
    print(given.out)
    return 0


class Inspect(Frozen):
    """Measure how far each segment changes a run's memory, by which of its steps, and what noise leaves of it."""

    run: Positional[Path] = Field(description="folder of the run")
    out: Path | None = Field(None, description="folder of inspection.png and inspection.json (unset: the run's)")
    segments: int = Field(10_000, ge=1, description="segments of noise that memories are carried through")
    episodes: int = Field(64, ge=1, description="episodes that are looked at segment by segment")
    lanes: int = Field(8, ge=1, description="memories that are carried through the same noise")
    seed: int = Field(0, ge=0, lt=SEEDS, description="seed of the choice of episodes and noise")
    checkpoint: Literal["last", "best"] = Field("last", description="which of the run's checkpoints")
    device: str = Field("cpu", description="where the agent runs, e.g. cpu or cuda")


def inspect_command(arguments: Arguments) -> int:
    """Show what a run's memory holds and when it is written, in tables, a picture and a file of numbers."""
    given = parse(Inspect, arguments, "rmt-rl inspect", inspect_command.__doc__ or "")
    from rich.console import Console
    from rich.progress import track

    from rmt_rl.analysis.inspection.inspect_run import inspect_run, write_inspection
    from rmt_rl.analysis.inspection.picture import draw_inspection
    from rmt_rl.analysis.inspection.tables import inspection_tables

    console = Console(stderr=True)

    def watched(fillers: Iterator[Segment]) -> Iterable[Segment]:
        shown = console.is_interactive
        return track(fillers, "noise", given.segments, console=console, transient=True) if shown else fillers

    found = inspect_run(
        given.run,
        given.checkpoint,
        segments=given.segments,
        episodes=given.episodes,
        lanes=given.lanes,
        seed=given.seed,
        device=given.device,
        watched=watched,
    )
    print(inspection_tables(found))
    folder = given.run if given.out is None else given.out
    print(write_inspection(found, folder))
    print(draw_inspection(found, folder))
    return 0


class Flops(Frozen):
    """Count the FLOPs of models segment by segment, against full attention over all segments at once."""

    models: Positional[tuple[str, ...]] = Field(
        (), description="folders of runs, agents' names (default options), OPT models (none: all of OPT)"
    )
    segments: int = Field(4096, ge=1, description="segments of the whole input")
    tokens: int = Field(512, ge=1, description="new tokens of a segment, of OPT models; an agent has its own")
    memory_tokens: int = Field(0, ge=0, description="memory tokens, read and written, of OPT models")
    counting: Literal["chinchilla", "matmuls", "causal"] = Field(
        "chinchilla",
        description="of OPT models: matrix products and the softmax (Hoffmann et al. 2022, appendix F); matrix "
        "products alone; or these with half a square of attention",
    )
    plot: Path | None = Field(None, description="a picture to draw, .png or .svg")


def flops_command(arguments: Arguments) -> int:
    """Count FLOPs segment by segment against full attention, of OPT models by formula, of agents as measured."""
    given = parse(Flops, arguments, "rmt-rl flops", flops_command.__doc__ or "")
    from rmt_rl.analysis.flops import COUNTINGS, OPT
    from rmt_rl.analysis.flops_report import draw_flops, flops_table, model_cost

    counting = COUNTINGS[given.counting]
    costs = [model_cost(model, given.tokens, given.memory_tokens, counting) for model in given.models or OPT]
    picture = None if given.plot is None else draw_flops(costs, given.segments, given.plot)
    print(flops_table(costs, given.segments))
    if picture is not None:
        print(picture)
    return 0


def _positionals(
    arguments: Arguments, wanted: tuple[str, ...], command: str, more: str = ""
) -> tuple[list[str], Arguments]:
    """Split off the leading names; none where help is asked for without them.

    Raises:
        UsageError: there are fewer or more names than wanted.
    """
    count = _leading(arguments)
    names, rest = list(arguments[:count]), arguments[count:]
    if not names and {"-h", "--help"} & set(rest):
        docs = COMMANDS[command].__doc__
        print(f"{docs}\n\n{more}\nrmt-rl {command} {' '.join(wanted)} --help shows the options, rmt-rl list the names.")
    elif len(names) != len(wanted):
        raise UsageError(
            f"rmt-rl {command} takes {' '.join(wanted)} before any options, not {' '.join(names) or 'nothing'}; "
            "see rmt-rl list"
        )
    return names, rest


COMMANDS: dict[str, Callable[[Arguments], int]] = {
    "list": list_command,
    "collect": collect_command,
    "train": train_command,
    "evaluate": evaluate_command,
    "plot": plot_command,
    "inspect": inspect_command,
    "flops": flops_command,
}

if __name__ == "__main__":
    sys.exit(main())
