"""Decision GRU: a Decision Transformer with GRU layers (arXiv 1406.1078) in place of attention."""

from __future__ import annotations

from rmt_rl.agents.dlstm import DLSTM
from rmt_rl.memory.gated_rnn import GRULayer


class DGRU(DLSTM):
    """The Decision LSTM with gated recurrent units (GRU) instead."""

    layer = GRULayer


AGENT = DGRU
