"""Recurrent Memory Transformers for reinforcement learning: tasks, agents and memory mechanisms, found by name.

    import rmt_rl

    agent = rmt_rl.train("tmaze", "rate", out="runs/rate-0", updates=500, ageing=12)
    print(rmt_rl.evaluate("runs/rate-0", corridor_length=900).success_rate)
    agent = rmt_rl.load("runs/rate-0")

Importing this package registers its environments with Gymnasium and imports neither PyTorch nor any of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_rl.config import validated
from rmt_rl.errors import UsageError
from rmt_rl.launch import drop_unusable_plot_settings
from rmt_rl.registry import import_named, register_envs

if TYPE_CHECKING:
    from rmt_rl.agent import BaseAgent
    from rmt_rl.language.model import RecurrentMemoryTransformer
    from rmt_rl.language.sequences import RecurrentMemoryTransformerWrapper
    from rmt_rl.runs.evaluation import Evaluation

__all__ = [
    "RecurrentMemoryTransformer",
    "RecurrentMemoryTransformerWrapper",
    "__version__",
    "evaluate",
    "load",
    "train",
]

__version__ = version("rmt-rl")

_MODULES = {  # of names that are imported when they're asked for
    "RecurrentMemoryTransformer": "rmt_rl.language.model",
    "RecurrentMemoryTransformerWrapper": "rmt_rl.language.sequences",
}

register_envs()
drop_unusable_plot_settings()  # before anything imports Matplotlib, as Stable-Baselines3 does


def load(run: str | PathLike[str], checkpoint: str = "last", device: str = "cpu") -> BaseAgent:
    """Load a trained agent, ready to act.

    Args:
        run: the folder of a training run; or `"zoo:NAME"` or `"hf://owner/name"`.
        checkpoint: `"last"` or `"best"`.
        device: where to put the agent, e.g. `"cpu"` or `"cuda:0"`.

    Returns:
        The agent. Its `predict` has the signature of Stable-Baselines3's policies.

    Raises:
        UsageError: the folder is no run, or the checkpoint is missing, corrupted or foreign.

    Example:
        >>> agent = rmt_rl.load("runs/rate-0")
        >>> action, state = agent.predict(observation)
        >>> action, state = agent.predict(observation, state)
    """
    from rmt_rl.runs.checkpoint import load_agent  # only now, since it imports PyTorch
    from rmt_rl.runs.find import find_run

    return load_agent(find_run(run).folder, checkpoint, device)


def train(
    env: str,
    agent: str,
    out: str | PathLike[str],
    *,
    seed: int = 0,
    env_options: Mapping[str, Any] | None = None,
    agent_options: Mapping[str, Any] | None = None,
    recipe: str | PathLike[str] = "default",
    **options: Any,
) -> BaseAgent:
    """Train an agent in a new folder, as `rmt-rl train` does: the same options give the same weights.

    Args:
        env: name of the environment: one of `rmt-rl list`, a Gymnasium id, or `module:Name`, whose module is imported.
        agent: name of the agent: one of `rmt-rl list`, or `module:Name`.
        out: folder of the run, which must not hold a run yet.
        seed: seed of all that is random.
        env_options: options of the environment, e.g. `{"corridor_length": (1, 88)}`.
        agent_options: options of the agent, e.g. `{"width": 64}`.
        recipe: tuned options, which single options override: `"default"` for those of the environment, if it has some,
            `"none"`, the name of another environment's, or a TOML file.
        **options: options of the run by the names of the flags of `rmt-rl train`, with underscores, e.g. `updates`,
            `ageing`, `feed`, `dataset`, `logger`, `eval_episodes`, or `total_timesteps` of an agent that learns by
            acting. Without a `dataset`, or with an empty list of them, the environment's expert collects one.

    Returns:
        The trained agent, as `load` returns it.

    Raises:
        UsageError: a name or an option is unknown, a value is out of range, the folder holds a run, the data or the
            environment don't fit, or training diverged.

    Example:
        >>> agent = rmt_rl.train(
        ...     "tmaze", "rate", out="runs/rate-0", updates=500, ageing=12, agent_options={"width": 64}
        ... )
        >>> agent = rmt_rl.train("CartPole-v1", "ppo", out="runs/ppo-0", total_timesteps=50_000)
    """
    _import_user_names(env=env, agent=agent)
    from rmt_rl.runs.named_options import named_config, names_in
    from rmt_rl.runs.recipes import find_recipe
    from rmt_rl.training.loop import train as train_run

    sections = {"env_options": env_options or {}, "agent_options": agent_options or {}}
    given = {"seed": seed, **sections, **options}
    for name in names_in(given):
        import_named(name)
    tuned = find_recipe(env, agent, str(recipe))
    config = named_config(env, agent, given, tuned)
    train_run(config, Path(out))
    return load(out)


def evaluate(
    run_or_agent: str | PathLike[str] | BaseAgent,
    env: str | None = None,
    *,
    episodes: int = 100,
    seed: int = 1000,
    num_envs: int = 100,
    deterministic: bool = True,
    target_return: float | None = None,
    **env_options: Any,
) -> Evaluation:
    """Play whole episodes with a trained agent and return their results, as `rmt-rl evaluate` does. Write no file.

    Args:
        run_or_agent: a training run as `load` takes it, whose last checkpoint is evaluated; or an agent.
        env: name of the environment. None is the run's environment with the run's options; an agent needs a name.
        episodes: number of episodes, in all environments together.
        seed: seed of the episodes. Environments played at once count up from it, so choose seeds 1000 apart.
        num_envs: environments played at once, at most. Results depend on it, as each draws its own random numbers.
        deterministic: take the likeliest actions; otherwise sample them.
        target_return: return to aim at. None is the best of the data that the agent learnt from.
        **env_options: options of the environment that differ from the run's or, with `env`, from its defaults.

    Returns:
        The evaluation, with `success_rate`, `mean_return` and their 95% intervals, and all episodes.

    Raises:
        UsageError: the folder is no run, an option is unknown or out of range, the environment has other spaces than
            the agent, or a return is given to an agent that isn't conditioned on returns.

    Example:
        >>> rmt_rl.evaluate("runs/rate-0", corridor_length=900).success_rate
        >>> rmt_rl.evaluate(rmt_rl.load("runs/rate-0", "best"), "tmaze", corridor_length=900).success_interval
    """
    from rmt_rl.acting.evaluate_agent import EvaluationSettings, evaluate_elsewhere, evaluate_run_grid
    from rmt_rl.runs.find import find_run
    from rmt_rl.runs.folder import read_config

    given = {"episodes": episodes, "seed": seed, "num_envs": num_envs, "target_return": target_return}
    settings = validated(EvaluationSettings, {**given, "sample": not deterministic})
    run = find_run(run_or_agent).folder if isinstance(run_or_agent, str | PathLike) else None
    agent = _agent(run_or_agent) if run is None else load(run)
    if env is not None:
        _import_user_names(env=env)
        return evaluate_elsewhere(agent, env, env_options, settings)
    if run is None:
        raise UsageError("env=None: an agent doesn't know its environment; name it, e.g. evaluate(agent, 'tmaze')")
    vary = {name: [value] for name, value in env_options.items()}
    return next(evaluate_run_grid(read_config(run), agent, vary, settings))


def _agent(value: object) -> BaseAgent:
    """Return an agent as it is.

    Raises:
        UsageError: it is something else.
    """
    from rmt_rl.agent import BaseAgent

    if not isinstance(value, BaseAgent):
        raise UsageError(f"run_or_agent={value!r}: give the folder of a run, or an agent from rmt_rl.load")
    return value


def _import_user_names(**names: object) -> None:
    """Import the modules of names `module:Name` that the user gave.

    Raises:
        UsageError: an argument is no name, or a module can't be imported.
    """
    for argument, name in names.items():
        if not isinstance(name, str):
            raise UsageError(f"{argument}={name!r}: give a name, one of rmt-rl list or module:Name")
        import_named(name)


def __getattr__(name: str) -> Any:
    """The language model's classes, imported when they're asked for, since they import PyTorch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
