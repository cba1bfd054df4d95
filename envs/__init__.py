"""Memory tasks, one a file; a file's stem is its name. Imported as `rmt_rl.envs`, never as `envs`."""

if __name__ != "rmt_rl.envs":
    raise ImportError(f"{__name__!r} is not a package of its own: import it as 'rmt_rl.envs'")
