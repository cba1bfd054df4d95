"""Hooks of MkDocs, which let one set of Markdown files serve GitHub and the site.

Pages are named by their paths in the repository, so relative links between docs/, experiments/ and notebooks/ work on
both. Links to other files of the repository lead to its address, `repo_url` of mkdocs.yml. Notebooks become pages, and
formulas become MathML, which browsers draw without a script.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path, PurePosixPath
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor

ROOT = Path(__file__).parents[1]
FOLDERS = ("docs", "experiments", "notebooks")
SUFFIXES = {".md", ".png", ".svg", ".css", ".js"}
TOP_PAGES = ("CHANGELOG.md", "CONTRIBUTING.md")
LINK = re.compile(r"(?<=\]\()(?P<path>[\w./-]+)(?P<anchor>#[\w-]+)?(?=\))")
FORMULA = re.compile(r'<(?:span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P<tag>span|div)>', re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace the files of docs/ by those of all folders of the site, each under its path in the repository."""
    for file in list(files):
        if file.src_dir == config.docs_dir:
            files.remove(file)
    for path in _site_paths():
        files.append(_repository_file(path, config))
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for file in _notebook_files(notebook, config):
            files.append(file)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return the page with links that work in the site."""
    folder = posixpath.dirname(page.file.src_uri)
    if page.is_homepage:
        page.meta["hide"] = ["navigation"]

    def site_link(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match["path"]))
        return _link(match, target, config, files)

    return LINK.sub(site_link, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return the page with its formulas as MathML."""
    return FORMULA.sub(_mathml, html)


def _site_paths() -> Iterator[str]:
    """Yield the paths in the repository of the files that the site shows as they are."""
    yield from TOP_PAGES
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in SUFFIXES:
                yield path.relative_to(ROOT).as_posix()


def _repository_file(path: str, config: MkDocsConfig) -> File:
    """Return a file of the repository as one of the site, where pages of docs/ stand at the top.

    The README of an experiment is the page `experiments/NAME.html`. As an index, it would give its name to its section.
    """
    file = File(path, str(ROOT), config.site_dir, config.use_directory_urls)
    if path.count("/") > 1 and path.endswith("/README.md"):
        folder = path.removesuffix("/README.md")
        file.name = posixpath.basename(folder)
        file.dest_uri = f"{folder}.html"
    file.dest_uri = file.dest_uri.removeprefix("docs/")
    return file


def _notebook_files(path: Path, config: MkDocsConfig) -> Iterator[File]:
    """Yield a notebook as a page, and the pictures in its outputs."""
    exporter: Any = MarkdownExporter(preprocessors=[CoalesceStreamsPreprocessor])  # type: ignore[no-untyped-call]
    text, resources = exporter.from_filename(str(path))
    page = path.relative_to(ROOT).with_suffix(".md")
    for name, picture in resources["outputs"].items():
        unique = f"{page.stem}-{name}"
        text = text.replace(f"]({name})", f"]({unique})")
        yield File.generated(config, page.with_name(unique).as_posix(), content=picture)
    file = File.generated(config, page.as_posix(), content=text)
    file.edit_uri = path.relative_to(ROOT).as_posix()
    yield file


def _link(match: re.Match[str], target: str, config: MkDocsConfig, files: Files) -> str:
    """Return a link to a notebook as one to its page, to a file outside the site as its address; others as they are."""
    if PurePosixPath(target).suffix == ".ipynb":
        return match[0].replace(".ipynb", ".md")
    if files.get_file_from_path(target) is not None or not (ROOT / target).exists():
        return match[0]  # MkDocs checks the link
    kind = "tree" if (ROOT / target).is_dir() else "blob"
    return f"{config.repo_url}/{kind}/main/{target}{match['anchor'] or ''}"


def _mathml(match: re.Match[str]) -> str:
    """Return a formula of LaTeX as MathML."""
    display = "block" if match["tag"] == "div" else "inline"
    return convert(unescape(match["latex"]).strip(), display=display)
