"""PPO for any agent with a recurrent core: Stable-Baselines3's losses on segments (arXiv 1707.06347)."""
