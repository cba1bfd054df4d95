"""Tests; the tree mirrors the library's."""
