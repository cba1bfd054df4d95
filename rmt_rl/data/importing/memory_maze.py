"""npz of Memory Maze: one episode a file, with image, and the last action and reward of each image."""

from rmt_rl.data.layout import Layout

FORMAT = Layout(
    {"observations": "image", "actions": "action", "rewards": "reward", "terminations": "terminal"},
    optional=frozenset({"terminations"}),
    of_last_action=True,
)
