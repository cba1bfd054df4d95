"""Runs in one HTML page that needs no network: curves, tables, differences of configs, and memory over an episode."""
