"""Write the hashes of today's code: python -m tests.golden [--add].

With `--add` those of the file stay, as the hashes of another processor.
"""

from __future__ import annotations

import json
import sys

from tests.golden import FILE, known_hashes, printed_hashes

if __name__ == "__main__":
    others = known_hashes() if "--add" in sys.argv[1:] else []
    FILE.write_text(json.dumps([*others, json.loads(printed_hashes())], indent=1) + "\n")
