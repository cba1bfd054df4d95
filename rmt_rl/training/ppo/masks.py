"""Action masks, as sb3-contrib's MaskablePPO has them: which actions an environment allows.

Dimensions: B environments (lanes), M logits of the action's distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from rmt_rl.environments import ACTION_MASK, stacked_masks

Array = NDArray[Any]
METHOD = "action_masks"


class Masks:
    """Reads the masks of the next actions.

    They come from the environments' method `action_masks()`, or else from `action_mask` in infos. An info without a
    mask allows every action.

    Args:
        env: the environments.
    """

    def __init__(self, env: VecEnv) -> None:
        self.env = env
        self.from_method = env.has_attr(METHOD) and callable(env.get_attr(METHOD, 0)[0])

    def next(self, infos: Sequence[dict[str, Any]], dones: Array) -> Array | None:
        """Return the masks (B, M) of the next actions, bool; None if there are none.

        Args:
            infos: of the last step.
            dones: (B,) whether this step ended the episode, so that the reset's info counts.

        Raises:
            UsageError: the masks differ in size.
        """
        if self.from_method:
            return stacked_masks(self.env.env_method(METHOD))
        resets = self.env.unwrapped.reset_infos
        current = [reset if done else info for reset, info, done in zip(resets, infos, dones, strict=True)]
        return stacked_masks([info.get(ACTION_MASK) for info in current])
