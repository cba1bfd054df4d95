"""Data sets made by Stable-Baselines3 agents, and trained on as they are."""
