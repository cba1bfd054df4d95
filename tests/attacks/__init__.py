"""Attacks by what is received: run folders, checkpoints, configs, data sets, and files in the current folder.

Each test is one attack. `conftest.py` makes the scene, and checks after every test that nothing ran and that no file
elsewhere was changed. docs/trust.md says what is trusted.
"""
