"""What a run of ``detq predict`` left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def rows_of(directory: Path) -> list[dict[str, Any]]:
    parts = sorted(directory.glob("predictions-*.jsonl"))
    return [json.loads(line) for part in parts for line in part.read_text().splitlines()]
