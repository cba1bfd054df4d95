"""Decision GRU: a Decision Transformer with GRU layers (arXiv 1406.1078) in attention's place."""

from __future__ import annotations

from rmt_rl.agents.dlstm import DLSTM
from rmt_rl.memory.gated_rnn import GRULayer


class DGRU(DLSTM):
    """As the Decision LSTM, with gated recurrent units."""

    layer = GRULayer


AGENT = DGRU
