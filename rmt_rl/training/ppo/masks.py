"""Action masks, as sb3-contrib's MaskablePPO has them: which actions an environment allows.

Dimensions: B environments (lanes), M logits of the action's distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from rmt_rl.environments import ACTION_MASK

Array = NDArray[Any]
METHOD = "action_masks"


class Masks:
    """Reads the masks of the next actions.

    They come from the environments' method `action_masks()`, or else from `action_mask` in infos. An info without a
    mask allows every action.

    Args:
        env: the environments.
        size: M.
    """

    def __init__(self, env: VecEnv, size: int) -> None:
        self.env = env
        self.size = size
        self.from_method = env.has_attr(METHOD)

    def next(self, infos: Sequence[dict[str, Any]], dones: Array) -> Array | None:
        """Return the masks (B, M) of the next actions, bool; None if there are none.

        Args:
            infos: of the last step.
            dones: (B,) whether this step ended the episode, so that the reset's info counts.
        """
        if self.from_method:
            return np.stack([_flat(mask) for mask in self.env.env_method(METHOD)])
        resets = self.env.unwrapped.reset_infos
        current = [reset if done else info for reset, info, done in zip(resets, infos, dones, strict=True)]
        if not any(ACTION_MASK in info for info in current):
            return None
        every = np.ones(self.size, bool)
        return np.stack([_flat(info.get(ACTION_MASK, every)) for info in current])


def _flat(mask: Any) -> Array:
    return np.asarray(mask, bool).reshape(-1)
