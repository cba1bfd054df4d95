"""Behaviour cloning with an LSTM (1997): sees observations only, no returns and none of its own actions."""

from __future__ import annotations

from rmt_rl.agents.dlstm import DLSTM


class BCLSTM(DLSTM):
    """As the Decision LSTM on the observations alone; not conditioned on returns."""

    tokens = ("observation",)


AGENT = BCLSTM
