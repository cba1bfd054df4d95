"""Action heads: distributions over the actions of a Gymnasium space, one family a file."""

from rmt_rl.nn.heads.base import Head
from rmt_rl.nn.heads.choice import HeadName, head

__all__ = ["Head", "HeadName", "head"]
