"""Agents that act, one a file; a file's stem is its name. Imported as `rmt_rl.agents`, never as `agents`."""

if __name__ != "rmt_rl.agents":
    raise ImportError(f"{__name__!r} is not a package of its own: import it as 'rmt_rl.agents'")
