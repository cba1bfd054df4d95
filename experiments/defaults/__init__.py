"""Defaults: what plain `rmt-rl train ENV rate` reaches, on several seeds."""
