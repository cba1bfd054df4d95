"""Hidden actions: some sequences of a batch are learnt without their action tokens.

An expert's action often equals the one before. An agent that sees its last action then learns to repeat it, and errs
where the expert would have changed it (*causal confusion*, de Haan et al., arXiv 1905.11979). The remedy is that of
ChauffeurNet (arXiv 1812.03079), which hides the past motion in half of the training examples.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from gymnasium import spaces
from torch import Tensor

from rmt_rl.agent import Agent
from rmt_rl.data.segment import Batch, moved
from rmt_rl.errors import UsageError
from rmt_rl.registry import agent_class
from rmt_rl.runs.options import AUTOMATIC_HIDING, OfflineRun, TrainingConfig
from rmt_rl.training.optimization import seed_of
from rmt_rl.training.parallel import FabricProcesses
from rmt_rl.trees import leaves


class Hiding:
    """Hides the actions of some sequences of each batch.

    Args:
        config: the run.
        agent: it may see no actions at all.
        processes: the run's processes. A sequence's actions are hidden or not in whichever process it is.
    """

    def __init__(self, config: OfflineRun, agent: Agent, processes: FabricProcesses) -> None:
        self._seed = config.seed
        self._processes = processes
        self.share = hidden_share(config.training, agent)

    def hide(self, update: int, batch: Batch) -> Batch:
        """Return this process's batch with the actions of some sequences hidden, in all segments."""
        if not self.share:
            return batch
        seed = seed_of(self._seed, update, 0, 1)  # a fourth word keeps it apart from the seeds of other draws
        of_all = draw_hidden(self.share, self._processes.batch_size, seed)
        of_all = moved(of_all, self._processes.device)
        own = self._processes.own_state(of_all)
        segments = tuple(replace(segment, hides_actions=own) for segment in batch.segments)
        return replace(batch, segments=segments)


def check_hidden_actions(config: OfflineRun) -> None:
    """Raise a UsageError if a run hides actions of an agent that sees none."""
    share = config.training.hide_actions
    tokens = config.agent_options.tokens or agent_class(config.agent).tokens
    if share not in (0, "auto") and "action" not in tokens:
        raise UsageError(f"hide_actions={share}: the agent sees no actions, only {', '.join(tokens)}; give auto")


def hidden_share(options: TrainingConfig, agent: Agent) -> float:
    """Return the share of a batch's sequences whose actions an agent doesn't see, if it sees any at all."""
    if "action" not in agent.tokens:
        return 0.0
    if options.hide_actions != "auto":
        return options.hide_actions
    are_numbers = all(isinstance(leaf, spaces.Box) for _, leaf in leaves(agent.spec.action_space))
    return AUTOMATIC_HIDING if are_numbers else 0.0


def draw_hidden(share: float, batch_size: int, seed: int) -> Tensor:
    """Return which sequences of a batch hide their actions, bool (batch_size,), each with the probability `share`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch_size, generator=generator) < share
