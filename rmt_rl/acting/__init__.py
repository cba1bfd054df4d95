"""Policies that act in environments: rollouts, evaluation and data collection."""
