"""Agents, one per file. The file's stem is the agent's name. Import them from `rmt_rl.agents`, never from `agents`."""

if __name__ != "rmt_rl.agents":
    raise ImportError(f"{__name__!r} is not a package of its own: import it as 'rmt_rl.agents'")
