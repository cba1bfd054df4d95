"""npz with the columns seen, done and got."""

from rmt_rl.data.layout import Layout

FORMAT = Layout({"observations": "seen", "actions": "done", "rewards": "got"})
