"""Pages of memories and environments: one for each, with the code's options, working links, and real commands."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from rmt_rl.cli import main
from rmt_rl.flags import parse
from rmt_rl.registry import KINDS, Kind, NotInstalled, entries, load_task, names
from rmt_rl.runs.named_options import named_config
from rmt_rl.runs.recipes import find_recipe
from tests.pages import FOLDERS, ROOT, documented, pages, refreshed
from tests.pages.pictures import SHOWN, picture
from tests.tiny import work_folder

PAGES = [*pages("agents"), *pages("envs")]
GENERATED = [*PAGES, *(folder / "index.md" for folder in FOLDERS.values())]
LINKED = sorted((ROOT / "docs").rglob("*.md"))
CODE = re.compile(r"```.*?```|`[^`\n]*`|\$\$.*?\$\$", re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
COMMAND = re.compile(r"^    rmt-rl ([^#\n]*)", re.MULTILINE)
DRAWN_IN_NUMPY = (
    "associative_retrieval",
    "bandit",
    "color_cubes",
    "dark_key_to_door",
    "dark_room",
    "endless_tmaze",
    "tmaze",
    "tmaze_without_hint",
)
QUICK = "--updates 2 --collect-episodes 16 --batch-size 4 --eval-episodes 2 --accelerator cpu --agent.width 16"
QUICK_ONLINE = "--total-timesteps 128 --agent.n-steps 64 --n-envs 1 --eval-episodes 2"
LONG = ("atari", "memory_maze", "vizdoom_two_colors")  # their commands are read, not run

relative = [path.relative_to(ROOT).as_posix() for path in GENERATED]


@pytest.mark.parametrize("kind", FOLDERS)
def test_each_environment_and_agent_has_one_page_that_the_index_links(kind: Kind) -> None:
    texts = {path.name: path.read_text(encoding="utf-8") for path in pages(kind)}
    found = sorted(chain.from_iterable(documented(text, kind) for text in texts.values()))
    assert found == own_names(kind), "each needs one block <!-- options KIND NAME -->, see tests/pages"
    index = (FOLDERS[kind] / "index.md").read_text(encoding="utf-8")
    for page, text in texts.items():
        for name in documented(text, kind):
            assert f"[`{name}`]({page})" in index


def own_names(kind: Kind) -> list[str]:
    """Return the names of this repository's files, without those of installed packages."""
    home = KINDS[kind].home
    return [name for name, (entry, *_) in entries(kind).items() if entry.module == f"{home}.{name}"]


@pytest.mark.parametrize("path", GENERATED, ids=relative)
def test_tables_of_options_are_those_of_the_code(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    try:
        current = refreshed(text)
    except NotInstalled as error:
        pytest.skip(str(error))
    assert text == current, "run: python -m tests.pages"


@pytest.mark.parametrize("path", LINKED, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_between_files_lead_somewhere(path: Path) -> None:
    for link in LINK.findall(CODE.sub("", path.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), link


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub gives to a page's headings."""
    headings = HEADING.findall(path.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_each_environment_has_a_small_picture() -> None:
    assert sorted(SHOWN) == own_names("envs")
    for env in SHOWN:
        file = FOLDERS["envs"] / f"{env}.png"
        assert file.stat().st_size < 40_000
        assert f"]({env}.png)" in file.with_suffix(".md").read_text(encoding="utf-8")


@pytest.mark.parametrize("env", DRAWN_IN_NUMPY)
def test_pictures_are_those_that_environments_draw(env: str) -> None:
    with Image.open(FOLDERS["envs"] / f"{env}.png") as stored:
        assert np.array_equal(np.asarray(stored), picture(env)), "run: python -m tests.pages.pictures"


def commands(path: Path) -> list[list[str]]:
    """Return the arguments of the `rmt-rl` commands on a page."""
    return [line.split() for line in COMMAND.findall(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_training_commands_are_understood_and_evaluations_are_of_their_runs(path: Path) -> None:
    runs = set()
    for command, *arguments in commands(path):
        if command == "train":
            env, agent, *flags = arguments
            at = flags.index("--out")
            runs.add(flags[at + 1])
            check_training(env, agent, flags[:at])
        elif command == "evaluate":
            assert arguments[0] in runs
    assert runs


def check_training(env: str, agent: str, flags: list[str]) -> None:
    """Read the options of a training as the command does."""
    try:
        if env in names("envs"):
            load_task(env)
        default = named_config(env, agent, recipe=find_recipe(env, agent))
    except NotInstalled as error:
        pytest.skip(str(error))
    parse(type(default), flags, "rmt-rl train", "", default)


@pytest.mark.slow
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_commands_run(path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    if path.stem in LONG:
        pytest.skip("its episodes are long")
    with work_folder(tmp_path_factory):
        for arguments in commands(path):
            assert main(quick(arguments)) == 0


def quick(arguments: list[str]) -> list[str]:
    """Return a command that takes seconds: the same with fewer updates, episodes and settings."""
    command, *rest = arguments
    line = re.sub(r"--episodes \d+", "--episodes 4", " ".join(rest))
    line = re.sub(r"--total-timesteps \d+", "", line)
    line = re.sub(r"--ageing-updates \d+", "", line)
    line = re.sub(r"(--vary \w+=\d+)[\d,]*", r"\1", line)
    if command == "train":
        is_online = rest[1] in ("ppo", "recurrent_ppo")
        line += f" {QUICK_ONLINE if is_online else QUICK}"
    return [command, *line.split()]
