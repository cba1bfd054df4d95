"""Write the hashes of today's code: python -m tests.golden."""

from __future__ import annotations

from tests.golden import FILE, printed_hashes

if __name__ == "__main__":
    FILE.write_text(printed_hashes())
