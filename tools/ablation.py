"""What each part of detq brings: recipes on trained models, over several choices of images.

    python tools/ablation.py run CONFIG.yaml --results runs/ablation.jsonl
    python tools/ablation.py table --results runs/ablation.jsonl
    python tools/ablation.py passes --results runs/ablation.jsonl

``run`` quantizes and measures every (model, recipe, seed) that the results file does not hold yet,
one JSON line each, so that it can be cut off and started again; passes that several recipes begin
with run once. Then it measures latencies, every recipe of a model in turns. ``table`` prints
Markdown, ``passes`` what each pass of `measured` brings over all models. CONFIG lists models::

    models:
      - model: bccd_yolov6n.pt
        data: bccd/data.yaml
        imgsz: 320
        calibrate: train
        split: test
    seeds: [0, 1, 2]
    images: 100
    recipes: [nncf, minmax, cfws_kl, measured]
    variants: [measured/without equalize channels, minmax/equalize_channels=true]
    variant_seeds: [0, 1, 2]

A variant is a recipe without one of its passes, or with a key changed: ``without`` takes a pass out
of `measured`, a key brings one into `minmax`. ``everything`` among the variants stands for one
``measured/without …`` for each pass that it can do without.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import openvino as ov
import yaml
from scipy.stats import spearmanr

from detq import api
from detq.api.judging import agreement as held_back_agreement
from detq.benchmark import Variant, bench
from detq.config import Recipe
from detq.data.calibration import readable_images
from detq.data.dataset import load_split, sample_images
from detq.evaluation.agreement import agreement
from detq.evaluation.evaluator import run_detector
from detq.progress import silent
from detq.quant.network import Image, Network
from detq.quant.pipeline import run_passes
from detq.quant.recipes import NEEDED, passes_of
from detq.runtime.detector import Detector
from detq.runtime.postprocess import EVALUATION
from detq.tasks import strategy_of

FLOAT = "float"
WITHOUT, EVERYTHING = "without ", "everything"
AGREEMENT_IMAGES, HELD_BACK = 128, 32
CHANGES = ("agreement", "held_back", "map")
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
    passes_parser = commands.add_parser("passes")
    passes_parser.set_defaults(command=lambda arguments: passes(arguments.results))
    for each in (run_parser, table_parser, passes_parser):
        each.add_argument("--results", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.command(arguments)


def run(config: Path, results: Path) -> None:
    """Measure what is missing."""
    plan = yaml.safe_load(config.read_text())
    results.parent.mkdir(parents=True, exist_ok=True)
    done = {(row["model"], row["recipe"], row["seed"]) for row in _rows(results)}
    for entry in plan["models"]:
        name = Path(entry["model"]).stem
        graph = api.load(entry["model"], imgsz=entry.get("imgsz"))
        splits = bool(graph.spec.reparameterized)  # else a split recipe is its plain counterpart
        recipes = [each for each in plan["recipes"] if splits or not each.startswith("cfws")]
        variants = [each for each in _variants(plan) if splits or "split weights" not in each]
        variant_seeds = plan.get("variant_seeds", plan["seeds"][:1])
        wanted = {seed: recipes + variants * (seed in variant_seeds) for seed in plan["seeds"]}
        if (name, FLOAT, 0) not in done:
            _write(results, {"model": name, "recipe": FLOAT, "seed": 0, **_accuracy(graph, entry)})
        saved = {
            recipe: _path(results, name, recipe) for some in wanted.values() for recipe in some
        }
        for seed, some in wanted.items():
            quantizer = None
            for recipe in some:
                if (name, recipe, seed) not in done:
                    quantizer = quantizer or _Quantizer(graph, entry, plan["images"], seed)
                    row = quantizer.quantize(recipe, saved[recipe])
                    _write(results, {"model": name, "recipe": recipe, "seed": seed, **row})
        if (name, "latency", 0) not in done:
            plain = [recipe for recipe in saved if saved[recipe].exists()]
            graphs = [graph, *(_read(saved[recipe], graph) for recipe in plain)]
            measured = bench([Variant(each) for each in graphs], rounds=100)
            latency = {
                recipe: row.latency_ms
                for recipe, row in zip([FLOAT, *plain], measured, strict=True)
            }
            _write(results, {"model": name, "recipe": "latency", "seed": 0, "ms": latency})


class _Quantizer:
    """One model by many recipes with the same images; passes that they begin with run once."""

    def __init__(
        self, graph: api.DetectorGraph, entry: dict[str, Any], images: int, seed: int
    ) -> None:
        self._graph, self._entry, self._seed = graph, entry, seed
        split = load_split(api.load_dataset(entry["data"]), entry["calibrate"])
        paths = sample_images(split, images, seed)
        more = sample_images(split, images + HELD_BACK, seed)
        preprocess = strategy_of(graph.spec).preprocess(graph.spec)
        self._calibration = readable_images(paths, preprocess)
        self._held_back = readable_images(sorted(set(more) - set(paths)), preprocess).paths
        self._known = {(): (Network.of(graph), ())}
        self._images = images

    def quantize(self, name: str, path: Path) -> dict[str, Any]:
        """Measure what a recipe makes; the INT8 model of seed 0 is kept for latencies."""
        passes = passes_of(_recipe(name, self._seed, self._images))
        start = max(n for n in range(len(passes) + 1) if passes[:n] in self._known)
        network, steps = self._known[passes[:start]]
        ends = [n for n in range(start + 1, len(passes)) if not passes[n - 1].keeps_float]
        for begin, end in pairwise([start, *ends, len(passes)]):  # what shares a run stays together
            network, more = run_passes(network, passes[begin:end], self._read)
            steps = (*steps, *more)
            self._known[passes[:end]] = network, steps
        int8 = strategy_of(self._graph.spec).compiled(network.graph)
        if self._seed == 0:
            ov.save_model(network.model, path, compress_to_fp16=False)
        return {
            "seconds": sum(step.seconds for step in steps),
            "passes": {step.name: [round(step.seconds, 2), step.did] for step in steps},
            "held_back": held_back_agreement(self._graph, int8, self._held_back, silent),
            "int8_share": int8.int8_share,
            "split": len(network.splits),
            **_accuracy(network.graph, self._entry, reference=self._graph),
        }

    def _read(self, purpose: str, count: int | None) -> Iterator[Image]:
        return self._calibration.inputs(count)


def _path(results: Path, model: str, recipe: str) -> Path:
    return results.parent / f"{model}_{recipe.replace('/', '_')}.xml"


def _recipe(name: str, seed: int, images: int) -> Recipe:
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
    return Recipe.model_validate({**keys, "name": name, "seed": seed, "calibration_images": images})


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


def passes(results: Path) -> None:
    """Print what changes if a pass is left out: agreement on the evaluated images and mAP, seed by
    seed against the whole recipe; the mean over models, then each model's agreement.
    """
    rows = _rows(results)
    whole = {(row["model"], row["seed"]): row for row in rows if row["recipe"] == "measured"}
    names = dict.fromkeys(row["recipe"] for row in rows if WITHOUT in row["recipe"])
    models = list(dict.fromkeys(model for model, _ in whole))
    print("| left out | agreement | held back | mAP |", " | ".join(models), "|")
    print("|---" * (4 + len(models)), end="|\n")
    cells = [
        f"{_mean(whole[key]['agreement'] for key in whole if key[0] == m):.1f}" for m in models
    ]
    print("| nothing | | | |", " | ".join(cells), "|")
    for name in names:
        changes: dict[str, dict[str, float]] = {key: {} for key in CHANGES}
        for model in models:
            some = [row for row in rows if (row["model"], row["recipe"]) == (model, name)]
            pairs = [(row, whole[model, row["seed"]]) for row in some]
            for key in CHANGES if pairs else ():
                changes[key][model] = _mean(row[key] - all_[key] for row, all_ in pairs)
        means = [f"{_mean(changes[key].values()):+.2f}" for key in CHANGES]
        own = changes["agreement"]
        cells = [f"{own[model]:+.1f}" if model in own else "" for model in models]
        print("|", name.partition(WITHOUT)[2], "|", " | ".join([*means, *cells]), "|")


def _mean(values: Iterable[float]) -> float:
    return statistics.mean(values)


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
