"""Encoders of observations, one family a file, found by name; see `rmt_rl.nn.space_encoder` for what they are given."""
