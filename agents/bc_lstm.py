"""Behaviour cloning with an LSTM (1997): sees only observations, no returns and no actions."""

from __future__ import annotations

from rmt_rl.agents.dlstm import DLSTM


class BCLSTM(DLSTM):
    """The Decision LSTM on observations alone, not conditioned on returns."""

    tokens = ("observation",)


AGENT = BCLSTM
