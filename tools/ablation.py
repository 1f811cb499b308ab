"""What each part of detq brings: recipes on trained models, over several choices of images.

    python tools/ablation.py run CONFIG.yaml --results runs/ablation.jsonl
    python tools/ablation.py table --results runs/ablation.jsonl

``run`` quantizes and measures every (model, recipe, seed) that the results file does not hold yet,
one JSON line each, so that it can be cut off and started again; then it measures latencies, every
recipe of a model in turns. ``table`` prints Markdown. CONFIG lists models::

    models:
      - model: bccd_yolov6n.pt
        data: bccd/data.yaml
        imgsz: 320
        calibrate: train
        split: test
    seeds: [0, 1, 2]
    images: 100
    recipes: [nncf, minmax, cfws_kl, measured]
    variants: [measured/without tune ranges, minmax/equalize_channels=true, minmax/weights.bits=4]
    variant_seeds: [0, 1, 2]

A variant is a recipe without one of its passes, or with a key changed: ``without`` takes a pass out
of `measured`, a key brings one into `minmax`. ``everything`` among the variants stands for one
``measured/without …`` for each pass that it can do without.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import openvino as ov
import yaml
from scipy.stats import spearmanr

from detq import api
from detq.api import judging
from detq.config import Recipe
from detq.data.dataset import load_split
from detq.evaluation.agreement import agreement
from detq.evaluation.evaluator import run_detector
from detq.quant.recipes import NEEDED, passes_of
from detq.runtime.detector import Detector
from detq.runtime.postprocess import EVALUATION

FLOAT = "float"
WITHOUT, EVERYTHING = "without ", "everything"
AGREEMENT_IMAGES = 128
COLUMNS = (
    "recipe",
    "mAP",
    "change",
    "AP75",
    "agreement",
    "held back",
    "split",
    "INT8 work",
    "latency",
    "s",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    run_parser = commands.add_parser("run")
    run_parser.add_argument("config", type=Path)
    run_parser.set_defaults(command=lambda arguments: run(arguments.config, arguments.results))
    table_parser = commands.add_parser("table")
    table_parser.set_defaults(command=lambda arguments: table(arguments.results))
    for each in (run_parser, table_parser):
        each.add_argument("--results", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.command(arguments)


def run(config: Path, results: Path) -> None:
    """Measure what is missing."""
    judging.LEAST_AGREEMENT = 0.0  # the figures of broken models are wanted too
    plan = yaml.safe_load(config.read_text())
    results.parent.mkdir(parents=True, exist_ok=True)
    done = {(row["model"], row["recipe"], row["seed"]) for row in _rows(results)}
    for entry in plan["models"]:
        name = Path(entry["model"]).stem
        graph = api.load(entry["model"], imgsz=entry.get("imgsz"))
        splits = bool(graph.spec.reparameterized)  # else a split recipe is its plain counterpart
        recipes = [each for each in plan["recipes"] if splits or not each.startswith("cfws")]
        wanted = [(recipe, seed) for seed in plan["seeds"] for recipe in recipes]
        seeds = plan.get("variant_seeds", plan["seeds"][:1])
        wanted += [(each, seed) for seed in seeds for each in _variants(plan)]
        if (name, FLOAT, 0) not in done:
            _write(results, {"model": name, "recipe": FLOAT, "seed": 0, **_accuracy(graph, entry)})
        saved = {}
        for recipe, seed in wanted:
            path = results.parent / f"{name}_{recipe.replace('/', '_')}.xml"
            if (name, recipe, seed) not in done:
                row = _quantize(graph, recipe, seed, entry, plan["images"], path)
                _write(results, {"model": name, "recipe": recipe, "seed": seed, **row})
            saved[recipe] = path
        if (name, "latency", 0) not in done:
            plain = [recipe for recipe in saved if saved[recipe].exists()]
            graphs = [graph, *(_read(saved[recipe], graph) for recipe in plain)]
            measured = api.bench(graphs, rounds=100)
            latency = {
                recipe: row.latency_ms
                for recipe, row in zip([FLOAT, *plain], measured, strict=True)
            }
            _write(results, {"model": name, "recipe": "latency", "seed": 0, "ms": latency})


def _quantize(
    graph: api.DetectorGraph, name: str, seed: int, entry: dict[str, Any], images: int, path: Path
) -> dict[str, Any]:
    start = time.perf_counter()
    result = api.quantize(
        graph,
        data=entry["data"],
        recipe=_recipe(name, seed),
        calibration_images=images,
        split=entry["calibrate"],
    )
    seconds = time.perf_counter() - start
    if seed == 0:
        ov.save_model(result.graph.model, path, compress_to_fp16=False)
    return {
        "seconds": seconds,
        "held_back": result.agreement,
        "int8_share": result.int8_share,
        "split": len(result.quantized.split_layers),
        **_accuracy(result.graph, entry, reference=graph),
    }


def _recipe(name: str, seed: int) -> Recipe:
    base, _, variant = name.partition("/")
    keys: dict[str, Any] = api.load_recipe(base).model_dump()
    if variant.startswith(WITHOUT):
        keys["without"] = (variant.removeprefix(WITHOUT),)
    elif variant:
        path, _, value = variant.partition("=")
        *above, last = path.split(".")
        section = keys
        for key in above:
            section = section[key]
        section[last] = yaml.safe_load(value)
    return Recipe.model_validate({**keys, "name": name, "seed": seed})


def _variants(plan: dict[str, Any]) -> list[str]:
    variants = list(plan.get("variants", ()))
    if EVERYTHING in variants:
        variants.remove(EVERYTHING)
        names = dict.fromkeys(one.name for one in passes_of(api.load_recipe("measured")))
        variants += [f"measured/{WITHOUT}{name}" for name in names if name not in NEEDED]
    return variants


def _accuracy(
    graph: api.DetectorGraph, entry: dict[str, Any], reference: api.DetectorGraph | None = None
) -> dict[str, Any]:
    result = api.evaluate(graph, data=entry["data"], split=entry["split"])
    row: dict[str, Any] = {"map": result.map, "map75": result.map75}
    if reference is not None:
        images = load_split(api.load_dataset(entry["data"]), entry["split"])
        paths = images.paths[:AGREEMENT_IMAGES]
        found = [
            run_detector(
                Detector(each, preprocess=api.default_preprocess(each), postprocess=EVALUATION),
                paths,
            ).detections
            for each in (reference, graph)
        ]
        row["agreement"] = agreement(*found, class_count=graph.spec.class_count)
    return row


def table(results: Path) -> None:
    """Print one table per model."""
    rows = _rows(results)
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        ms = next((row["ms"] for row in own if row["recipe"] == "latency"), {})
        floats = next(row for row in own if row["recipe"] == FLOAT)
        print(f"\n### {model}\n")
        print("|", " | ".join(COLUMNS), "|")
        print("|---" * len(COLUMNS), end="|\n")
        figures = [f"{floats['map']:.2f}", "", f"{floats['map75']:.2f}", *[""] * 4]
        print("| float |", " | ".join([*figures, _ratio(ms, FLOAT), ""]), "|")
        for recipe in dict.fromkeys(row["recipe"] for row in own):
            if recipe in (FLOAT, "latency"):
                continue
            some = [row for row in own if row["recipe"] == recipe]
            mean = statistics.mean(row["map"] for row in some)
            cells = [
                f"`{recipe}`",
                _spread([row["map"] for row in some]),
                f"{mean - floats['map']:+.2f}",
                f"{statistics.mean(row['map75'] for row in some):.2f}",
                _spread([row["agreement"] for row in some]),
                f"{statistics.mean(row['held_back'] for row in some):.1f}",
                f"{some[0]['split']}",
                f"{100 * statistics.mean(row['int8_share'] for row in some):.1f}%",
                _ratio(ms, recipe),
                f"{statistics.median(row['seconds'] for row in some):.0f}",
            ]
            print("|", " | ".join(cells), "|")

    _print_prediction(rows)


def _print_prediction(rows: list[dict[str, Any]]) -> None:
    """How well agreement, which needs no labels, predicts the true drop in mAP."""
    floats = {row["model"]: row["map"] for row in rows if row["recipe"] == FLOAT}
    measured = [row for row in rows if "held_back" in row and row["held_back"] is not None]
    bands = [(95, 100.1), (90, 95), (80, 90), (0, 80)]
    print("\n### Agreement on held-back images against the true drop\n")
    print("| agreement | runs | mean drop | worst drop |")
    print("|---|---|---|---|")
    for low, high in bands:
        drops = [
            floats[row["model"]] - row["map"] for row in measured if low <= row["held_back"] < high
        ]
        if drops:
            cells = f"{len(drops)} | {statistics.mean(drops):.2f} | {max(drops):.2f}"
            print(f"| {low} to {min(high, 100)} | {cells} |")
    for model in floats:
        some = [row for row in measured if row["model"] == model]
        if len(some) > 2:
            pair = [row["held_back"] for row in some], [row["map"] for row in some]
            print(f"{model}: Spearman {spearmanr(*pair).statistic:.2f} over {len(some)} runs")


def _ratio(ms: dict[str, float], recipe: str) -> str:
    return f"{ms[recipe] / ms['minmax']:.2f}" if recipe in ms and "minmax" in ms else ""


def _spread(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} [{min(values):.2f}, {max(values):.2f}]"


def _rows(results: Path) -> list[dict[str, Any]]:
    lines = results.read_text().splitlines() if results.exists() else []
    return [json.loads(line) for line in lines]


def _write(results: Path, row: dict[str, Any]) -> None:
    with results.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


def _read(path: Path, graph: api.DetectorGraph) -> api.DetectorGraph:
    return api.DetectorGraph(ov.Core().read_model(path), graph.spec)


if __name__ == "__main__":
    main()
