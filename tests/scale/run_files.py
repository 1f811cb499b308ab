"""What a run of ``detq predict`` left."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any


def rows_of(directory: Path) -> list[dict[str, Any]]:
    parts = sorted(directory.glob("predictions-*.jsonl"))
    return [json.loads(line) for part in parts for line in part.read_text().splitlines()]


def largest_part(directory: Path) -> int:
    """Bytes of the largest file of rows that a run has begun or written; 0 before there is one.

    What a run writes appears, is renamed and vanishes while it is looked at: that is no error here.
    """
    largest = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            if name.startswith("predictions-"):
                with suppress(FileNotFoundError):
                    largest = max(largest, Path(folder, name).stat().st_size)
    return largest
