"""Write the generated blocks of all pages: python -m tests.pages."""

from __future__ import annotations

from tests.pages import FOLDERS, refreshed

if __name__ == "__main__":
    for folder in FOLDERS.values():
        for path in sorted(folder.glob("*.md")):
            text = path.read_text(encoding="utf-8")
            path.write_text(refreshed(text), encoding="utf-8")
