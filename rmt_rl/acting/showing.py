"""Episodes to watch: the first of an evaluation at each setting, drawn step by step while the agent plays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import gymnasium
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rmt_rl.acting.drawing import NoPicturesError, Picture, make_drawn_env, picture
from rmt_rl.acting.evaluate import checked_settings
from rmt_rl.acting.rollout import Env, VecEnv, rollout, with_array_actions
from rmt_rl.errors import UsageError
from rmt_rl.registry import load_task
from rmt_rl.task import Options, Task
from rmt_rl.wrappers import VectorReturnToGo

if TYPE_CHECKING:
    from rmt_rl.acting.evaluate_agent import EvaluationSettings
    from rmt_rl.agent import BaseAgent
    from rmt_rl.runs.options import RunConfig

Show: TypeAlias = Callable[[Picture, float], None]
"""Called with each picture and the time for which to show it, in seconds."""
_PICTURES_A_SECOND = 10.0  # unless the environment says how many


def show_episodes(
    config: RunConfig,
    agent: BaseAgent,
    vary: Mapping[str, Sequence[Any]],
    settings: EvaluationSettings,
    show: Show,
) -> None:
    """Play the first episode of an evaluation at every combination of the varied options' values.

    Args:
        config: the run.
        agent: the run's agent.
        vary: values of environment options.
        settings: those of the evaluation.
        show: shows a picture.

    Raises:
        UsageError: as in `evaluate_run_grid`, or the environment can't be drawn.
    """
    task = load_task(config.env)
    for setting in checked_settings(agent, task, config.env_options, vary):
        agent.set_random_seed(settings.seed)
        shown = partial(_shown, task, setting.config, show)
        env: VecEnv = SyncVectorEnv([shown], autoreset_mode=AutoresetMode.NEXT_STEP)
        target_return = agent.target_return(settings.target_return)
        if target_return is not None:
            env = VectorReturnToGo(env, target_return)
        with closing(env):
            for _ in rollout(agent, env, 1, settings.seed, deterministic=not settings.sample):
                pass


def _shown(task: Task, options: Options, show: Show) -> Env:
    try:
        env = make_drawn_env(task, options)
    except NoPicturesError as error:
        raise UsageError(f"{error}; leave out --render") from None
    return with_array_actions(_Shown(env, show))


class _Shown(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Shows a picture of an environment after its reset and after every step."""

    def __init__(self, env: Env, show: Show) -> None:
        super().__init__(env)
        self._show = show
        self._seconds = 1 / float(env.metadata.get("render_fps") or _PICTURES_A_SECOND)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        begun = self.env.reset(seed=seed, options=options)
        self._show(picture(self.env), self._seconds)
        return begun

    def step(self, action: Any) -> Any:
        made = self.env.step(action)
        self._show(picture(self.env), self._seconds)
        return made
