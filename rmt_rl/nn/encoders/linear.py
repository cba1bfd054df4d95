"""A linear map of the flattened value; categories are embedded."""

from rmt_rl.nn.vectors import flat_encoder

ENCODER = flat_encoder
