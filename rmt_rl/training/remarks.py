"""The remark at the end of a run that is no better than a policy without memory, with what to try."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from gymnasium.spaces import Discrete

from rmt_rl.agent import Agent
from rmt_rl.data.references import read_references
from rmt_rl.data.store import EpisodeStore
from rmt_rl.registry import load_task
from rmt_rl.runs.evaluation import Evaluation
from rmt_rl.runs.options import OfflineRun
from rmt_rl.runs.recipes import find_recipe
from rmt_rl.task import hindsight_classes

EPISODES = 200  # whose decisive actions are counted
MARGIN = 0.1  # of the way from the commonest answer to all answers right
LOW = 0.55  # of the way from random actions to the expert; policies without memory reach 0.5 in many memory tasks


class Finished(NamedTuple):
    """A finished run.

    Attributes:
        config: its options.
        agent: the trained agent.
        store: its data.
        decisive_accuracy: share of right actions at decisive steps in its last updates; None where none are declared.
        evaluation: its last evaluation; None if it made none.
    """

    config: OfflineRun
    agent: Agent
    store: EpisodeStore
    decisive_accuracy: float | None
    evaluation: Evaluation | None


def low_level(run: Finished) -> str | None:
    """Return a remark about a run that ends no better than a policy without memory might, and the remedies; else None.

    The level is that of the last evaluation between the data's reference scores. Where the environment declares
    decisive steps, accuracy at these steps is compared with the commonest answer in the data too.
    """
    reached = _share_of_expert(run)
    if reached is not None and reached.share >= LOW:
        return None
    guess = _like_a_guess(run)
    if guess is None and reached is None:
        return None
    found = [text for text in (guess, reached.text if reached else None) if text]
    begin = "the agent acts as if it had no memory" if guess else "the agent is far from the expert"
    return f"{begin}: {'; '.join(found)}. Try {_listed(_remedies(run))}"


class _Reached(NamedTuple):
    share: float  # of the way from random actions to the expert
    text: str


def _share_of_expert(run: Finished) -> _Reached | None:
    """Return the level of the last evaluation; None without an evaluation or reference scores."""
    references = read_references(run.store.ids)
    if run.evaluation is None or references is None:
        return None
    mean_return = run.evaluation.mean_return
    share = references.normalised(mean_return)
    text = f"mean return {mean_return:.2f}, where random actions reach {references.random:.2f}"
    return _Reached(share, f"{text} and the expert {references.expert:.2f}")


def _like_a_guess(run: Finished) -> str | None:
    """Return the accuracy of decisive actions if it is no better than always giving the commonest answer."""
    accuracy = run.decisive_accuracy
    commonest = None if accuracy is None else commonest_answer(run.store)
    if accuracy is None or commonest is None or accuracy > commonest + MARGIN * (1 - commonest):
        return None
    return f"{accuracy:.2f} of the decisive actions are right, {commonest:.2f} if always the same were given"


def commonest_answer(store: EpisodeStore) -> float | None:
    """Return the share of the commonest action at decisive steps; None unless there are such steps and actions."""
    if not isinstance(store.action_space, Discrete):
        return None
    lengths = store.lengths[:EPISODES].tolist()
    answers = []
    for index, length in enumerate(lengths):
        trajectory = store.span(index, 0, length).trajectory
        if trajectory.decisive is None:
            return None
        answers.append(np.asarray(trajectory.actions)[trajectory.decisive])
    _, counts = np.unique(np.concatenate(answers), return_counts=True)
    return float(counts.max() / counts.sum()) if counts.size else None


def _remedies(run: Finished) -> list[str]:
    """Return what may help, the likeliest first."""
    config = run.config
    training = config.training
    missing = find_recipe(config.env, config.agent).missing(config)
    remedies = [f"the tuned options of this environment: {' '.join(missing)}"] if missing else []
    if not run.agent.core.lasting:
        remedies.append("an agent whose memory lasts, such as rate")
    is_declared = hindsight_classes(load_task(config.env)) > 0
    may_be_learnt = not run.agent.spec.hindsight_classes and config.init is None
    if is_declared and may_be_learnt and "hindsight" not in str(missing):
        remedies.append("--hindsight 1")
    longest = int(run.store.lengths.max())
    read = config.data.segments * config.agent_options.segment_length
    if config.data.feed == "episodes" and read < longest:
        remedies.append(f"more --segments, as an update reads {read} steps of up to {longest}")
    return [*remedies, f"more updates (--updates {2 * training.updates})"]


def _listed(parts: Sequence[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)}, or {last}" if first else last
