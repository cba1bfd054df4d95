"""Token models: the cores of `rmt_rl.memory` on sequences of token ids."""
