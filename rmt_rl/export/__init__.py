"""A trained agent's step as one graph that runs without this toolkit, and acting by such a graph."""

from typing import Literal

FormatName = Literal["onnx", "torch"]
"""Formats of files: ONNX, or a program of `torch.export`."""
RuntimeName = Literal["torch", "onnx"]
"""Libraries that compute the steps of an agent: PyTorch by the agent's own code, or ONNX Runtime by its graph."""
