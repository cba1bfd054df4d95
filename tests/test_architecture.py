"""ARCHITECTURE.md's picture and the imports of the code are the same graph."""

from __future__ import annotations

import re
from pathlib import Path

import grimp

PAGE = Path(__file__).parents[1] / "ARCHITECTURE.md"
FACE = "rmt_rl"
Arrow = tuple[str, str]


def picture() -> tuple[dict[str, str], set[Arrow]]:
    """Return the room of every module by name, and the arrows between rooms, as the page draws them."""
    (drawn,) = re.findall(r"```mermaid\n(.*?)```", PAGE.read_text(), re.DOTALL)
    rooms: dict[str, str] = {}
    arrows: set[Arrow] = set()
    for line in drawn.splitlines():
        if node := re.fullmatch(r'\s*(\w+)\["(.*?)<br/>.*"\]', line):
            rooms |= {module: node[1] for module in node[2].split(", ")}
        elif "-->" in line:
            sources, targets = (side.split(" & ") for side in line.strip().split(" --> "))
            arrows |= {(source, target) for source in sources for target in targets}
    return rooms, arrows


def room_of(module: str, rooms: dict[str, str]) -> str:
    """Return the room of a module of the code, e.g. `rmt_rl.data.feeds.windows`."""
    _, _, inside = module.partition(".")
    top = inside.partition(".")[0]
    return rooms["cli" if top == "__main__" else top or FACE]


def imports(rooms: dict[str, str]) -> set[Arrow]:
    """Return the imports of the code between rooms, without those for types alone."""
    graph = grimp.build_graph("rmt_rl", exclude_type_checking_imports=True, cache_dir=None)
    found = set()
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            found.add((room_of(module, rooms), room_of(imported, rooms)))
    return {(source, target) for source, target in found if source != target}


def test_every_arrow_of_the_picture_is_an_import_and_every_import_an_arrow() -> None:
    rooms, drawn = picture()
    found = imports(rooms)
    assert drawn - found == set(), "drawn, but not imported"
    assert found - drawn == set(), "imported, but not drawn"


def test_every_room_of_the_picture_stands_in_the_contract_of_layers() -> None:
    rooms, _ = picture()
    contract = (PAGE.parent / "pyproject.toml").read_text()
    for module in rooms.keys() - {FACE}:
        assert re.search(rf'"[^"]*\b{module}\b[^"]*"', contract), module
