"""FLOPs of models by name, segment by segment and with full attention: a table for the terminal, and a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from rmt_rl.agent import Agent
from rmt_rl.analysis.figures import COLOURS, DASHES, finish, in_default_style, new_figure, picture_format, save_figure
from rmt_rl.analysis.flops import (
    CHINCHILLA,
    MATMULS,
    OPT,
    Counting,
    Shape,
    counted_segment_flops,
    full_attention_flops,
    segmented_flops,
)
from rmt_rl.analysis.markdown import markdown_table
from rmt_rl.analysis.sizes import SPEC
from rmt_rl.errors import UsageError, nearest
from rmt_rl.nn.decoder import DecoderConfig
from rmt_rl.plugins import is_object_name
from rmt_rl.registry import agent_class, names
from rmt_rl.runs.checkpoint import load_agent

LETTERS = (
    "Letters: n positions, m of them new tokens; d width; h heads, a width of all together; f hidden width and",
    "g matrices of the feed-forward net (2, or 3 if gated); v vocabulary.",
)
COUNTED = (
    "Agents, segment by segment: PyTorch's count of the core for one environment, attention as whole squares; without",
    "encoders, the action's head and all that works element by element (norms, softmax, activations, gates, scans).",
    "Agents, full attention: the formula for a plain decoder of the same sizes:",
)
PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")  # of the SI
POINTS = 60  # of a curve


@dataclass(frozen=True)
class ModelCost:
    """FLOPs of a model in a segment, and of its decoder over several segments at once.

    Attributes:
        name: the model's.
        tokens: new tokens of a segment.
        steps: environment steps of a segment; of a language model, its tokens.
        segment: FLOPs of a segment.
        shape: the decoder that full attention is counted for; None where the model isn't made of one.
        counting: the way in which full attention is counted.
        measured: `segment` is PyTorch's count, not the formula's.
    """

    name: str
    tokens: int
    steps: int
    segment: int
    shape: Shape | None
    counting: Counting
    measured: bool

    def full_attention(self, segments: int) -> int | None:
        """Return the FLOPs with full attention over so many segments; None without a shape."""
        if self.shape is None:
            return None
        return full_attention_flops(self.shape, segments * self.tokens, self.counting)

    def ratio(self, segments: int) -> float | None:
        """Return the FLOPs with full attention over those segment by segment; None without a shape."""
        whole = self.full_attention(segments)
        return None if whole is None else whole / (segments * self.segment)


def model_cost(
    model: str,
    tokens: int = 512,
    memory: int = 0,
    counting: Counting = CHINCHILLA,
) -> ModelCost:
    """Return the cost of an OPT model by the formula, or of an agent's core as PyTorch counts it.

    Args:
        model: a name of `OPT`; a run's folder; or an agent's name, for its default options.
        tokens: of a segment of an OPT model.
        memory: memory tokens of an OPT model.
        counting: of an OPT model.

    Raises:
        UsageError: there is no such model, or it is an agent that has no segments.
    """
    if model in OPT:
        shape = OPT[model]
        segment = segmented_flops(shape, 1, tokens, memory, counting)
        return ModelCost(model, tokens, tokens, segment, shape, counting, measured=False)
    agent = _agent(model)
    return ModelCost(
        name=model,
        tokens=agent.capacity,
        steps=agent.config.segment_length,
        segment=counted_segment_flops(_countable(agent).core, agent.capacity),
        shape=Shape.of(agent.config) if isinstance(agent.config, DecoderConfig) else None,
        counting=MATMULS,
        measured=True,
    )


def _countable(agent: Agent) -> Agent:
    """Return the agent with an attention kernel that PyTorch counts on a CPU; all kernels compute the same."""
    if not isinstance(agent.config, DecoderConfig):
        return agent
    config: Any = agent.config.model_copy(update={"attention": "sdpa"})
    return type(agent)(config, agent.spec).eval()


def _agent(model: str) -> Agent:
    """Return the agent of a run's folder, or a new one by its name."""
    known = names("agents")
    if Path(model).is_dir():
        agent = load_agent(model)
        if isinstance(agent, Agent):
            return agent
    elif model in known or is_object_name(model):
        cls = agent_class(model)
        if issubclass(cls, Agent):
            new: Agent = cls(cls.Config(), SPEC)
            return new.eval()
    else:
        raise UsageError(
            f"model {model!r} is no folder of a run, no agent (see rmt-rl list) and no OPT model (known: "
            f"{', '.join(OPT)}){nearest(model, [*OPT, *known])}"
        )
    raise UsageError(f"model {model!r} learns by acting and has no segments; choose one that learns from data")


# Table


def flops_table(costs: Sequence[ModelCost], segments: int) -> str:
    """Return a Markdown table of all models, and below it the ways of counting."""
    head = [
        "model",
        "segment",
        "FLOPs / segment",
        "FLOPs / step or token",
        f"FLOPs of {segments:,} segments: full attention",
        "segment by segment",
        "ratio",
    ]
    rows = [_row(cost, segments) for cost in costs]
    return "\n".join([markdown_table(head, rows, padded=True), "", *_notes(costs)])


def _row(cost: ModelCost, segments: int) -> list[str]:
    ratio = cost.ratio(segments)
    length = f"{cost.steps:,} steps" if cost.measured else f"{cost.tokens:,} tokens"
    return [
        cost.name,
        length,
        _short(cost.segment),
        _short(cost.segment / cost.steps),
        _short(cost.full_attention(segments)),
        _short(segments * cost.segment),
        "-" if ratio is None else f"x{ratio:.1f}",
    ]


def _notes(costs: Sequence[ModelCost]) -> Iterator[str]:
    """Yield lines on the ways of counting."""
    formulas = [cost.counting for cost in costs if not cost.measured]
    for counting in dict.fromkeys(formulas):
        yield f"OPT: {counting}"
    if len(formulas) < len(costs):
        yield from COUNTED
        yield f"{MATMULS}, with v = 0"
    yield from LETTERS


def _short(flops: float | None) -> str:
    """Return three digits and a prefix of the SI: 26.3 M."""
    if flops is None:
        return "-"
    digits = len(str(int(flops)))
    power = min((digits - 1) // 3, len(PREFIXES) - 1)
    return f"{flops / 1000**power:.3g} {PREFIXES[power]}".rstrip()


# Picture


@in_default_style
def draw_flops(costs: Sequence[ModelCost], segments: int, out: Path) -> Path:
    """Draw full attention's FLOPs over those segment by segment, from 1 to `segments` segments, and return `out`.

    Raises:
        UsageError: no model has a full attention to compare with, or `out` is no .png or .svg or can't be written.
    """
    drawn = [cost for cost in costs if cost.shape is not None]
    if not drawn:
        raise UsageError("none of these models is made of a decoder to compare with; name one that is, as OPT-125M")
    picture_format(out)  # raises an error before anything is drawn
    figure = new_figure(7.4, 4.6)
    axes = figure.subplots()
    counts = np.unique(np.geomspace(1, segments, POINTS).round().astype(int)).tolist()
    for cost, colour, dashes in zip(drawn, cycle(COLOURS), cycle(DASHES), strict=False):
        ratios = [cost.ratio(count) or 0.0 for count in counts]
        label = f"{cost.name}: x{ratios[-1]:.3g}"
        axes.plot(counts, ratios, color=colour, linestyle=dashes, label=label)
        axes.plot(
            counts[-1:],
            ratios[-1:],
            marker="o",
            color=colour,
            markeredgecolor="white",
            clip_on=False,
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.yaxis.set_major_formatter(lambda value, _: f"x{value:,g}")
    finish(axes, "FLOPs of full attention over those segment by segment", _across(drawn), "ratio")
    figure.legend(
        loc="outside right upper",
        frameon=False,
        title=f"at {segments:,} segments",
        fontsize=9,
    )
    save_figure(figure, out, dpi=160)
    return out


def _across(costs: Sequence[ModelCost]) -> str:
    tokens = {cost.tokens for cost in costs}
    if len(tokens) > 1:
        return "number of segments"
    return f"number of segments of {tokens.pop():,} tokens"
