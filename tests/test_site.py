"""The docs site is built without a warning, so no link or anchor is broken, and it needs no network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[1]
LINK = re.compile(r'<(?:a|img|link|script)\b[^>]*?\b(?:href|src)=(?:"([^"]*)"|([^\s>]+))')
LOADED = re.compile(r'<(?:img|link|script|iframe)\b[^>]*?\b(?:href|src)="?(?:https?:)?//[^>]*>')
PICTURES = ("segments", "tokens", "feeds", "ageing", "gradient")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def pages(site: Path) -> list[Path]:
    """Return the pages of the site, without the one for wrong addresses, whose links are absolute."""
    return [page for page in sorted(site.rglob("*.html")) if page.name != "404.html"]


def test_every_link_leads_to_a_file_and_a_place_in_it(site: Path) -> None:
    texts = {page: page.read_text(encoding="utf-8") for page in pages(site)}
    anchors = {page: set(re.findall(r'\bid="?([^"\s>]+)', text)) for page, text in texts.items()}
    assert len(texts) > 60
    broken = []
    for page, text in texts.items():
        for groups in LINK.findall(text):
            address = urlsplit("".join(groups))
            if address.scheme or address.netloc:
                continue
            target = (page.parent / unquote(address.path)).resolve() if address.path else page
            known = anchors.get(target, set())
            if not target.is_file() or (address.fragment and unquote(address.fragment) not in known):
                broken.append(f"{page.relative_to(site)}: {address.geturl()}")
    assert not broken


def test_pages_load_nothing_from_the_network(site: Path) -> None:
    for page in pages(site):
        text = page.read_text(encoding="utf-8")
        loaded = [tag for tag in LOADED.findall(text) if 'rel="canonical"' not in tag]
        assert not loaded, page
        assert 'data-md-component="source"' not in text  # whose script asks for stars and forks


def test_links_to_files_outside_the_site_lead_to_files_of_the_repository(site: Path) -> None:
    text = (site / "extending.html").read_text(encoding="utf-8")
    paths = re.findall(r'href="?https://github\.com/[\w-]+/rmt-rl/(?:blob|tree)/main/([^"#\s>]+)', text)
    assert "envs/tmaze.py" in paths
    assert all((ROOT / path).exists() for path in paths)


def test_pages_of_experiments_and_notebooks_have_their_pictures(site: Path) -> None:
    for page in (site / "experiments" / "tmaze.html", site / "notebooks" / "demo.html"):
        pictures = re.findall(r'<img [^>]*src="?([\w./-]+\.png)', page.read_text(encoding="utf-8"))
        assert pictures
        assert all((page.parent / picture).is_file() for picture in pictures)


def test_the_search_knows_the_text_of_the_pages(site: Path) -> None:
    index = (site / "search" / "search_index.js").read_text(encoding="utf-8")
    assert index.startswith("var __index = {")
    assert "straight-through" in index


def test_the_pictures_of_the_concepts_are_drawn_by_their_script(tmp_path: Path) -> None:
    script = ROOT / "docs" / "pictures" / "draw.py"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, str(script), str(tmp_path)], env=environment, check=True)
    assert sorted(path.stem for path in tmp_path.iterdir()) == sorted(PICTURES)
    assert sorted(path.stem for path in script.parent.glob("*.svg")) == sorted(PICTURES)
