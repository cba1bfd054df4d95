"""Push a run to the Hugging Face Hub, with a model card: rmt-rl push RUN owner/name."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from tyro.conf import Positional

from rmt_rl.cli.arguments import RUN, Arguments, ReadsRuns
from rmt_rl.errors import UsageError
from rmt_rl.flags import parse
from rmt_rl.terminal import say


class Push(ReadsRuns):
    """Push a run to the Hugging Face Hub: config, weights, metrics, evaluation, and a model card made of them."""

    run: Positional[str] = Field("", description=RUN)
    repository: Positional[str] = Field("", description="owner/name on the Hub; made if it is missing")
    private: bool = Field(False, description="make a missing repository private")
    out: Path | None = Field(None, description="write the files into this new folder, and push nothing")
    zoo: str | None = Field(None, description="push the runs of the zoo, to OWNER/rmt-rl-NAME")


def push(arguments: Arguments) -> int:
    """Push one run or the zoo, and print the address of each page; or the folder with what would be pushed."""
    given = parse(Push, arguments, "rmt-rl push", __doc__ or "")
    given.import_modules()
    from rmt_rl.hub.push import push_run, push_zoo, write_folder
    from rmt_rl.runs.huggingface import parse_repository

    if given.zoo is not None:
        if given.run or given.out:
            raise UsageError(f"--zoo {given.zoo} pushes all runs of the zoo; leave out RUN, owner/name and --out")
        for address in push_zoo(given.zoo, private=given.private):
            say(address, flush=True)
        return 0
    if not given.run or not given.repository:
        raise UsageError("name a run and a repository: rmt-rl push RUN owner/name; or push the zoo: --zoo OWNER")
    repository = parse_repository(given.repository)
    if given.out is not None:
        write_folder(given.run, repository, given.out)
        say(given.out)
        return 0
    say(push_run(given.run, repository, private=given.private))
    return 0


COMMAND = push
