"""Train an agent: rmt-rl train ENV AGENT, or --dataset ID AGENT, or --config FILE, or --resume RUN."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, TypeAlias

from rmt_rl import registry, signals
from rmt_rl.cli.arguments import (
    HELP,
    IMPORT,
    TRUST,
    Arguments,
    import_typed,
    leading,
    option_values,
    positionals,
    require_values,
)
from rmt_rl.errors import UsageError
from rmt_rl.flags import parse
from rmt_rl.launch import is_first_process
from rmt_rl.plugins import import_modules
from rmt_rl.terminal import complain, say

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec

    from rmt_rl.runs.metrics import Report
    from rmt_rl.runs.options import RunConfig
    from rmt_rl.runs.recipes import Recipe


EnvWithOptions: TypeAlias = tuple[str, dict[str, Any]]


def train_agent(arguments: Arguments) -> int:
    """Train a new run, or go on with one, and print its folder."""
    parser = _parser()
    own, rest = parser.parse_known_args(arguments)
    import_modules(own.modules)
    registry.trust_specs(own.trust_spec)
    from rmt_rl.runs.find import find_run
    from rmt_rl.runs.folder import read_config

    if own.resume is not None:
        if rest or own.config or own.out or own.recipe or own.learner:
            raise UsageError(f"--resume {own.resume} takes no other options; the run's config.toml holds them")
        if find_run(own.resume).out is not None:
            raise UsageError(
                f"--resume {own.resume}: the run is read only and holds weights alone; train another with its options: "
                f"rmt-rl train --config {own.resume}"
            )
        return _watched(read_config(own.resume), own.resume, resumed=True)
    if own.config and own.recipe:
        raise UsageError(f"--recipe {own.recipe}: config {own.config} has all options; leave one of both out")
    if own.config and own.learner:
        raise UsageError(f"--learner {own.learner}: config {own.config} has all options; leave one of both out")
    config = _config(own.config, own.recipe or "default", own.learner, rest, parser.format_help())
    if config is None:
        return 0
    folder = registry.slug(f"{config.env}-{config.agent}-{config.seed}")
    return _watched(config, own.out or Path("runs", folder), resumed=False)


def _parser() -> argparse.ArgumentParser:
    """Return a parser of the options that aren't written into the run's config."""
    parser = argparse.ArgumentParser("rmt-rl train", add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path, metavar="FILE", help="take all options from a config.toml, or a run's")
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="RUN",
        help="go on with a run that was stopped; or prolong one: raise `updates` (`total_timesteps`) in its config",
    )
    parser.add_argument(
        "--recipe",
        metavar="NAME|FILE",
        help="tuned options to begin with: `default` (those of the environment, if it has some), `none`, the name of "
        "another environment's, or a FILE.toml; single options override them",
    )
    parser.add_argument(
        "--learner",
        metavar="NAME",
        help="what trains the agent, in the place of its own learner: `ppo`, by which any agent with a core learns by "
        "acting",
    )
    parser.add_argument("--out", type=Path, metavar="RUN", help="folder to make (default: runs/ENV-AGENT-SEED)")
    parser.add_argument("--import", dest="modules", nargs="+", default=[], metavar="MODULE", help=IMPORT)
    parser.add_argument("--trust-spec", action="store_true", help=TRUST)
    return parser


def _config(file: Path | None, choice: str, learner: str | None, rest: Arguments, own_help: str) -> RunConfig | None:
    """Return the config that the command line asks for; None if the user only asked for help."""
    from rmt_rl.runs.find import find_run
    from rmt_rl.runs.folder import read_config
    from rmt_rl.runs.named_options import named_config, named_flags
    from rmt_rl.runs.recipes import NO_RECIPE, find_recipe

    recipe = NO_RECIPE
    if learner is not None:
        import_typed([learner])
    for flag in named_flags():
        import_typed(option_values(flag, rest))
    count = leading(rest)
    given_init = option_values("--init", rest)
    init = {"init": given_init[-1]} if given_init else {}
    if file is not None:
        default = read_config(find_run(file).folder)
    elif learner is None and count < 2 and any(map(_is_dataset, rest)):
        default, recipe, rest = _of_dataset(rest[:count], rest[count:], choice, init)
    else:
        full_help = f"{__doc__}\n\n{own_help}"
        names, rest = positionals(rest, ("ENV", "AGENT"), "train", full_help)
        if not names:
            return None
        env, agent = names
        recipe = find_recipe(env, agent, choice, learner)
        default = named_config(env, agent, init if learner is None else {"learner": learner, **init}, recipe)
    if HELP & set(rest):
        say(own_help)
    else:
        require_values(
            "--dataset", rest, "name data sets: --dataset ID; or leave it out, and the env's expert collects"
        )
    program = f"rmt-rl train {default.env} {default.agent}"
    described = f"Options of the run, with the defaults of {recipe.title}" if recipe.title else "Options of the run"
    config = parse(type(default), rest, program, f"{described}:", default)
    _tell_recipe(recipe, config)
    return config


def _tell_recipe(recipe: Recipe, config: RunConfig) -> None:
    """Say which tuned options a run has, and where they come from."""
    if not recipe.title or not is_first_process():
        return
    flags = " ".join(recipe.flags(config))
    complain(f"{recipe.title}: {flags}" if flags else recipe.title)


def _is_dataset(argument: str) -> bool:
    """Return True for `--dataset` and `--dataset=ID`."""
    name, _, _ = argument.partition("=")
    return name == "--dataset"


def _of_dataset(
    names: Arguments, options: Arguments, choice: str, init: dict[str, str]
) -> tuple[RunConfig, Recipe, Arguments]:
    """Return the config of a run in the environment that its data sets come from, its recipe and the other arguments.

    The agent stands first, or behind the ids: `rate --dataset ID`, `--dataset ID rate`. `init` holds the option of this
    name, if it is given.
    """
    options = list(chain.from_iterable(map(_separated, options)))
    at = options.index("--dataset")
    before = options[:at]
    after = options[at + 1 :]
    count = leading(after)
    given = [*after[:count], *names]
    if len(given) < 2:
        typed = " ".join(given)
        raise UsageError(
            f"--dataset {typed}: give a data set's id and an agent: rmt-rl train --dataset ID AGENT; see rmt-rl list"
        )
    *ids, agent = given
    import_typed([agent])
    from rmt_rl.runs.named_options import named_config
    from rmt_rl.runs.options import learner_class
    from rmt_rl.runs.recipes import find_recipe

    run_class = learner_class(agent).Run
    if "data" not in run_class.model_fields:
        raise UsageError(f"agent {agent!r} learns by acting, not from data sets: rmt-rl train ENV {agent}")
    env, env_options = _task_of_all(ids, agent)
    recipe = find_recipe(env, agent, choice).without_collecting()
    default = named_config(env, agent, {"env_options": env_options, "dataset": ids, **init}, recipe)
    return default, recipe, [*before, *after[count:]]


def _task_of_all(ids: Sequence[str], agent: str) -> EnvWithOptions:
    """Return the environment and its options that all of these data sets come from."""
    from rmt_rl.data.opening import evaluation_spec, open_dataset

    tasks: dict[str, EnvWithOptions] = {}
    notes = []
    for identity in ids:
        dataset = open_dataset(identity)
        spec = evaluation_spec(dataset)
        if spec is None:
            raise UsageError(f"dataset={identity} doesn't say which environment it is from; give ENV and AGENT")
        tasks[identity] = registry.task_of_spec(spec)
        notes += _evaluated_elsewhere(dataset.env_spec, spec)
    first_id = ids[0]
    first_env, first_options = first = tasks[first_id]
    for identity, (env, options) in tasks.items():
        if (env, options) != first:
            listed = " ".join(ids)
            raise UsageError(
                f"dataset={identity} is played in {env} with {options}, but {first_id} in {first_env} with "
                f"{first_options}; say where to act: rmt-rl train ENV {agent} --dataset {listed}"
            )
    if notes and is_first_process():
        complain(notes[0])
    return first


def _evaluated_elsewhere(recorded: EnvSpec | None, evaluated: EnvSpec) -> list[str]:
    """Return a note if data name another environment for evaluation than the one that they are from."""
    if recorded is None or recorded.to_json() == evaluated.to_json():
        return []
    names = recorded.kwargs.keys() | evaluated.kwargs.keys()
    differing = [name for name in sorted(names) if recorded.kwargs.get(name) != evaluated.kwargs.get(name)]
    if recorded.max_episode_steps != evaluated.max_episode_steps:
        differing.append("max_episode_steps")
    others = f" of other {', '.join(differing)}" if differing else ""
    return [f"note: the agent is evaluated in {evaluated.id}{others}, as the data say, which are from {recorded.id}"]


def _separated(option: str) -> Arguments:
    """Return `--dataset=ID` as two arguments, others as they are."""
    name, equals, value = option.partition("=")
    if equals and name == "--dataset":
        return name, value
    return (option,)


def _watched(config: RunConfig, run: Path, resumed: bool) -> int:
    """Train with a progress bar; a signal ends the run after the update under way, its checkpoint saved."""
    from rmt_rl.cli.progress import TrainingProgress

    try:
        with TrainingProgress(str(run), config.length) as progress:
            made = _learn(config, run, resumed, progress)
    except KeyboardInterrupt:
        _tell_stopped(run, 0)
        raise
    stopped_by = signals.requested()
    if stopped_by is not None:
        _tell_stopped(run, made)
        return signals.status_of(stopped_by)
    if is_first_process():
        say(run)
    return 0


def _tell_stopped(run: Path, made: int) -> None:
    """Say how far a stopped run is, if that is known, and how to go on with it."""
    from rmt_rl.runs.folder import CONFIG

    if not is_first_process():
        return
    message = f"stopped at {made}" if made else "stopped"
    config_file = run / CONFIG
    if config_file.exists():
        message += f"; go on with: rmt-rl train --resume {quote(str(run))}"
    complain(message)


def _learn(config: RunConfig, run: Path, resumed: bool, report: Report) -> int:
    """Train a run, or go on with one; return how far the run is. PyTorch is imported only now."""
    from rmt_rl.training.loop import resume, train

    if resumed:
        return resume(run, report, signals.stop_requested)
    return train(config, run, report, signals.stop_requested)


COMMAND = train_agent
