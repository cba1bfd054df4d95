"""npz of RATE's repository: one episode a file, with the keys obs, action, reward and done."""

from rmt_rl.data.layout import Layout

FORMAT = Layout(
    {"observations": "obs", "actions": "action", "rewards": "reward", "terminations": "done"},
    optional=frozenset({"terminations"}),  # which its files of Memory Maze lack
)
