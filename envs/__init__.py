"""Memory tasks, one per file. A file's stem is its task's name. Import it as `rmt_rl.envs`, never as `envs`."""

if __name__ != "rmt_rl.envs":
    raise ImportError(f"{__name__!r} is not a package of its own: import it as 'rmt_rl.envs'")
