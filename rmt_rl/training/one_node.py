"""The meeting place of a run's processes on one node."""

from __future__ import annotations

import os

from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # PyTorch documents it

_SHARES_STORE = "TORCHELASTIC_USE_AGENT_STORE"  # tells PyTorch that the store is open already; also in new processes


class OneNode(LightningEnvironment):
    """The processes that a run's first process starts.

    The first process opens their store before it tells the port. A port that is only looked up, as Lightning does, may
    be taken by another process before the store is opened, and then all processes wait for one another.
    """

    def __init__(self) -> None:
        super().__init__()
        self._store: TCPStore | None = None

    @property
    def main_port(self) -> int:
        if "MASTER_PORT" in os.environ:
            return int(os.environ["MASTER_PORT"])
        if self._store is None:
            self._store = TCPStore(self.main_address, 0, is_master=True, wait_for_workers=False)
            os.environ[_SHARES_STORE] = str(True)
        return self._store.port
