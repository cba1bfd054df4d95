"""FLOPs of models by name, segment by segment and with full attention: a table for the terminal, and a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from rmt_rl.agent import Agent, BaseAgent
from rmt_rl.analysis.figures import COLOURS, DASHES, finish, new_figure, picture_format, save_figure
from rmt_rl.analysis.flops import CHINCHILLA, MATMULS, OPT, Counting, Shape, full, measured_segment, recurrent
from rmt_rl.analysis.markdown import markdown_table
from rmt_rl.analysis.sizes import SPEC
from rmt_rl.errors import UsageError, nearest
from rmt_rl.nn.decoder import DecoderConfig
from rmt_rl.plugins import is_object_name
from rmt_rl.registry import agent_class, names
from rmt_rl.runs.checkpoint import load_agent

LETTERS = (
    "n positions, m of them new tokens; d width; h heads, a width of all together; f hidden width and g matrices of",
    "the feed-forward net (2, or 3 if gated); v vocabulary",
)
MEASURED = (
    "Segments of agents: PyTorch's count of the core for one lane, attention as whole squares; without encoders, the",
    "action's head and all that works element by element (norms, softmax, activations, gates, scans). Their full",
    "attention: the formula for a plain decoder of the same sizes:",
)


@dataclass(frozen=True)
class Cost:
    """What a model computes in a segment, and what its decoder would over several at once.

    Attributes:
        name: the model's.
        tokens: new tokens of a segment.
        steps: environment steps of a segment; of a language model, its tokens.
        segment: FLOPs of a segment.
        shape: the decoder that full attention is counted of; None where the model isn't made of one.
        counting: how `full` counts.
        measured: `segment` is PyTorch's count, not the formula's.
    """

    name: str
    tokens: int
    steps: int
    segment: int
    shape: Shape | None
    counting: Counting
    measured: bool

    def full(self, segments: int) -> int | None:
        """FLOPs with full attention over so many segments; None without a shape."""
        return None if self.shape is None else full(self.shape, segments * self.tokens, self.counting)

    def ratio(self, segments: int) -> float | None:
        """How many times fewer FLOPs segment by segment; None without a shape."""
        whole = self.full(segments)
        return None if whole is None else whole / (segments * self.segment)


def cost(model: str, tokens: int = 512, memory: int = 0, counting: Counting = CHINCHILLA) -> Cost:
    """Of an OPT model by the formula, or, as measured, of the core of an agent: of a run's, or a new one by its name.

    Args:
        model: a name of `OPT`; a run's folder; or an agent's name, for its default options.
        tokens: of a segment of an OPT model.
        memory: memory tokens of an OPT model.
        counting: of an OPT model.

    Raises:
        UsageError: there is no such model, or it learns by acting and has no segments.
    """
    if model in OPT:
        segment = recurrent(OPT[model], 1, tokens, memory, counting)
        return Cost(model, tokens, tokens, segment, OPT[model], counting, measured=False)
    agent, shape = _agent(model), None
    if isinstance(agent.config, DecoderConfig):
        shape = Shape.of(agent.config)
        # All kernels compute the same, but on a CPU PyTorch's counter can't do with flex.
        config: Any = agent.config.model_copy(update={"attention": "sdpa"})
        agent = type(agent)(config, agent.spec).eval()
    segment = measured_segment(agent.core, agent.capacity)
    return Cost(model, agent.capacity, agent.config.segment_length, segment, shape, MATMULS, measured=True)


def _agent(model: str) -> Agent:
    if Path(model).is_dir():
        agent: BaseAgent | None = load_agent(model)
    elif model in (known := names("agents")) or is_object_name(model):
        cls = agent_class(model)
        agent = cls(cls.Config(), SPEC).eval() if issubclass(cls, Agent) else None
    else:
        raise UsageError(
            f"model {model!r} is no folder of a run, no agent (see rmt-rl list) and no OPT model (known: "
            f"{', '.join(OPT)}){nearest(model, [*OPT, *known])}"
        )
    if not isinstance(agent, Agent):
        raise UsageError(f"model {model!r} learns by acting and has no segments; choose one that learns from data")
    return agent


def table(costs: Sequence[Cost], segments: int) -> str:
    """Return a Markdown table of all models, and below it what was counted."""
    across = f"full attention, {segments:,} segments"
    head = ["model", "segment", "FLOPs a segment", "a step or token", across, "segment by segment", "fewer"]
    rows = [_row(cost, segments) for cost in costs]
    return "\n".join([markdown_table(head, rows, padded=True), "", *_notes(costs)])


def _notes(costs: Sequence[Cost]) -> Iterator[str]:
    """What was counted."""
    for counting in dict.fromkeys(cost.counting for cost in costs if not cost.measured):
        yield f"OPT: {counting}"
    if any(cost.measured for cost in costs):
        yield from MEASURED
        yield f"{MATMULS}, with v = 0"
    yield from LETTERS


def _row(cost: Cost, segments: int) -> list[str]:
    full, ratio = cost.full(segments), cost.ratio(segments)
    unit = f"{cost.steps:,} steps" if cost.measured else f"{cost.tokens:,} tokens"
    flops = (cost.segment, cost.segment / cost.steps, full, segments * cost.segment)
    return [cost.name, unit, *map(_short, flops), "-" if ratio is None else f"x{ratio:.1f}"]


def _short(flops: float | None) -> str:
    """Three digits and a prefix of the SI: 26.3 M."""
    if flops is None:
        return "-"
    power = min((len(str(int(flops))) - 1) // 3, 8)
    return f"{flops / 1000**power:.3g} {['', 'k', 'M', 'G', 'T', 'P', 'E', 'Z', 'Y'][power]}".rstrip()


def draw(costs: Sequence[Cost], segments: int, out: Path) -> Path:
    """Draw full attention's FLOPs over the recurrent model's, from 1 to `segments` segments, and return `out`.

    Raises:
        UsageError: no model has a full attention to compare with, or `out` is no .png or .svg or can't be written.
    """
    drawn = [cost for cost in costs if cost.shape is not None]
    if not drawn:
        raise UsageError("none of these models is made of a decoder to compare with; name one that is, as OPT-125M")
    picture_format(out)  # before anything is drawn
    figure = new_figure(7.4, 4.6)
    axes = figure.subplots()
    counts = sorted(set(np.geomspace(1, segments, 60).round().astype(int).tolist()))
    for cost, colour, dashes in zip(drawn, cycle(COLOURS), cycle(DASHES), strict=False):
        ratios = [ratio for count in counts if (ratio := cost.ratio(count))]
        label = f"{cost.name}: x{ratios[-1]:.3g}"
        axes.plot(counts, ratios, color=colour, linestyle=dashes, label=label)
        axes.plot(counts[-1:], ratios[-1:], "o", color=colour, markeredgecolor="white", clip_on=False)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.yaxis.set_major_formatter(lambda value, _: f"x{value:,g}")
    finish(axes, "FLOPs of full attention, over those segment by segment", _across(drawn), "fewer FLOPs")
    figure.legend(loc="outside right upper", frameon=False, title=f"at {segments:,} segments", fontsize=9)
    save_figure(figure, out, dpi=160)
    return out


def _across(costs: Sequence[Cost]) -> str:
    tokens = {cost.tokens for cost in costs}
    return f"segments of {tokens.pop():,} tokens" if len(tokens) == 1 else "segments"
