"""The interface of players, which play one episode of a POPGym task each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class Player(ABC):
    """Policy that plays one episode."""

    @abstractmethod
    def act(self, observation: Any) -> Any:
        """Return the action for the next observation."""

    def replace(self, action: Any) -> None:  # noqa: B027 - most players needn't know
        """Take note that another action than the last one of `act` is done."""
