"""Heads: what each action head reaches on tasks with bounded continuous actions."""
