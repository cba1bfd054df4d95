"""Compares the options of the token model on English text."""
