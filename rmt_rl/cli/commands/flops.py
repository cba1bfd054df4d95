"""Count FLOPs segment by segment against full attention, of OPT models by formula, of agents as measured."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from tyro.conf import Positional

from rmt_rl.cli.arguments import Arguments, ReadsRuns, import_typed
from rmt_rl.flags import parse
from rmt_rl.terminal import say


class Flops(ReadsRuns):
    """Count the FLOPs of models segment by segment, against full attention over all segments at once."""

    models: Positional[tuple[str, ...]] = Field(
        (),
        description="runs (folders, zoo:NAME, hf://owner/name), agents' names (default options), OPT models (none: all "
        "of OPT)",
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


def count_flops(arguments: Arguments) -> int:
    """Print a table of FLOPs, and draw the picture if one is asked for."""
    given = parse(Flops, arguments, "rmt-rl flops", __doc__ or "")
    given.import_modules()
    from rmt_rl.runs.find import find_run, is_run_name

    models = []
    for model in given.models:
        models.append(str(find_run(model).folder) if is_run_name(model) else model)
    import_typed(model for model in models if not Path(model).exists())
    from rmt_rl.analysis.flops import COUNTINGS, OPT
    from rmt_rl.analysis.flops_report import draw_flops, flops_table, model_cost

    counting = COUNTINGS[given.counting]
    costs = [model_cost(model, given.tokens, given.memory_tokens, counting) for model in models or OPT]
    picture = None if given.plot is None else draw_flops(costs, given.segments, given.plot)
    say(flops_table(costs, given.segments))
    if picture is not None:
        say(picture)
    return 0


COMMAND = count_flops
