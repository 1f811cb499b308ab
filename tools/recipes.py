"""mAP of every built-in recipe on one model, over several choices of calibration images.

    python tools/recipes.py MODEL --data DATA.yaml --imgsz 320 --images 100 --splits test val

Prints a Markdown table: mean over seeds, and the range in brackets.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from detq import api
from detq.config import Recipe, read_recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--imgsz", type=int, required=True)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--splits", nargs="+", default=["test", "val"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()

    graph = api.load(arguments.model, imgsz=arguments.imgsz)
    print("| recipe | what |", " | ".join(arguments.splits), "| agreement with float |")
    print("|---|---|" + "---|" * (len(arguments.splits) + 1))
    float_maps = [_map(graph, arguments.data, split) for split in arguments.splits]
    print("| float | |", " | ".join(f"{value:.2f}" for value in float_maps), "| |", flush=True)
    for path in api.builtin_recipes():
        recipe = read_recipe(path)
        rows = [_measure(graph, recipe, seed, arguments) for seed in arguments.seeds]
        cells = " | ".join(_cell(column) for column in zip(*rows, strict=True))
        print(f"| `{recipe.name}` | {recipe.description} | {cells} |", flush=True)


def _measure(
    graph: api.DetectorGraph, recipe: Recipe, seed: int, arguments: argparse.Namespace
) -> list[float]:
    """mAP on each split, then the agreement with float."""
    result = api.quantize(
        graph,
        data=arguments.data,
        recipe=recipe.model_copy(update={"seed": seed}),
        calibration_images=arguments.images,
    )
    print(f"{recipe.name} seed {seed} done", file=sys.stderr)
    maps = [_map(result.graph, arguments.data, split) for split in arguments.splits]
    return [*maps, result.agreement or 0.0]


def _map(graph: api.DetectorGraph, data: Path, split: str) -> float:
    return api.evaluate(graph, data=data, split=split).map or 0.0


def _cell(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


if __name__ == "__main__":
    main()
