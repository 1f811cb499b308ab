"""Makes the forged checkpoints of ``tests/adapters``, and ``tests/demo``'s browser, importable."""

import sys
from pathlib import Path

sys.path[:0] = [
    str(Path(__file__).parents[1] / folder) for folder in ("adapters", "models", "demo")
]
