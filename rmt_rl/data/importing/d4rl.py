"""HDF5 of D4RL: steps of all episodes in a row, with observations, actions, rewards, terminals and timeouts."""

from rmt_rl.data.layout import Layout

FORMAT = Layout(
    {
        "observations": "observations",
        "next_observations": "next_observations",
        "actions": "actions",
        "rewards": "rewards",
        "terminations": "terminals",
        "truncations": "timeouts",
    },
    optional=frozenset({"next_observations", "truncations"}),
    cut_at_limit=True,
)
