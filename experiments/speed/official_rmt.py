"""The original code of RMT, run from a checkout around a GPT-2 of Hugging Face's transformers; none of it is here."""

from __future__ import annotations

import importlib
import importlib.util
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.speed.peer_sizes import (
    HEADS,
    MEMORY_TOKENS,
    TOKEN_LAYERS,
    TOKEN_SEGMENT,
    VOCABULARY,
    WIDTH,
    Contestant,
    Generate,
)
from rmt_rl.errors import UsageError

MODULE = Path("modeling_rmt", "language_modeling.py")


class OfficialRMT(Contestant):
    """Memory tokens at both ends of each segment of a decoder.

    Args:
        checkout: folder of a clone of https://github.com/booydar/recurrent-memory-transformer.

    Raises:
        UsageError: the folder doesn't hold the model, or transformers isn't installed.
    """

    def __init__(self, checkout: Path) -> None:
        super().__init__()
        rmt, decoder = _module(checkout), _decoder()
        self.cell = rmt.MemoryCell(decoder, MEMORY_TOKENS)
        self.model = rmt.RecurrentWrapper(self.cell, segment_size=TOKEN_SEGMENT)

    def backward(self, data: Tensor, gradient: str) -> None:
        inputs = data[:, :-1]
        self.model(inputs, labels=inputs)["loss"].backward()

    def look(self, data: Tensor) -> Tensor:
        logits: Tensor = self.model(data)["logits"]
        return logits

    def ways(self) -> dict[str, Generate]:
        return {"generate": partial(self._generate, torch.zeros(1, 1, dtype=torch.long))}

    def _generate(self, first: Tensor, count: int) -> None:
        """Make tokens of one segment with the decoder's cache; the original code begins no other meanwhile."""
        self.model.generate(first, torch.ones_like(first), max_new_tokens=count, do_sample=False)


def _decoder() -> Any:
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise UsageError("the original RMT code needs transformers: pip install 'transformers<5'") from error
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=TOKEN_SEGMENT + 3 * MEMORY_TOKENS,
        n_embd=WIDTH,
        n_layer=TOKEN_LAYERS,
        n_head=HEADS,
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
        attn_implementation="sdpa",
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return transformers.GPT2LMHeadModel(config)


def _module(checkout: Path) -> Any:
    """Import the one file with the model. Its package imports others that the model doesn't need."""
    file = checkout / MODULE
    if not file.is_file():
        raise UsageError(
            f"--official={checkout} has no {MODULE}: give the folder of a clone of "
            "https://github.com/booydar/recurrent-memory-transformer"
        )
    spec = importlib.util.spec_from_file_location("original_rmt", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
