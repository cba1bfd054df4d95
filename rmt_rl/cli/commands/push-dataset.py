"""Push a Minari data set to the Hugging Face Hub, from where Minari downloads it: rmt-rl push-dataset ID OWNER."""

from __future__ import annotations

from pydantic import Field
from tyro.conf import Positional

from rmt_rl.cli.arguments import Arguments
from rmt_rl.config import Frozen
from rmt_rl.flags import parse
from rmt_rl.terminal import say


class PushDataset(Frozen):
    """Push a Minari data set to the Hugging Face Hub, into the repository OWNER/FIRST-PART-OF-THE-ID."""

    dataset: Positional[str] = Field(description="id of a local data set")
    owner: Positional[str] = Field(description="user or organisation on the Hub")


def push_dataset_to_hub(arguments: Arguments) -> int:
    """Push the data set and print the address of its page."""
    given = parse(PushDataset, arguments, "rmt-rl push-dataset", __doc__ or "")
    from rmt_rl.hub.datasets import push_dataset

    say(push_dataset(given.dataset, given.owner))
    return 0


COMMAND = push_dataset_to_hub
