"""Every trained model by every recipe, in one table: accuracy, classes, agreement, speed, cost.

    python tools/zoo.py tools/zoo.yaml --root ../shared > table.md

Measures every (model, recipe, seed) that the results file does not hold yet, one JSON line each, so
that it can be cut off at any moment and started again; passes that several recipes begin with run
once. Then it measures latencies, all of a model in turns, on a machine that does nothing else.
Then it prints the table: means over seeds, [least, greatest] of them, and in the columns of losses
the 95% interval of the bootstrap over test images, paired with float. A model or recipe that fails
has a row that says why. CONFIG lists models::

    models:
      - model: checkpoints/bccd_yolov6n.pt
        data: data/bccd/data.yaml
        imgsz: 320
        calibrate: train
        split: test
    seeds: [0, 1, 2]
    images: 100
    held_back: 100
    recipes: [nncf, minmax, cfws_kl, measured]
    variants: [measured/without equalize channels, minmax/equalize_channels=true]
    variant_seeds: [0, 1, 2]

Paths are below ``--root`` (by default ``$DETQ_SHARED``, else ``../shared``) or where the tool is
run. A variant is a recipe without one of its passes, or with keys changed: ``without`` takes a
pass out of `measured`, a key brings one into `minmax`; commas stand between several. ``everything``
among the variants stands for one ``measured/without …`` for each pass that it can do without;
``--passes`` prints what each brings.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import openvino as ov
from zoo_expected import lines as expected_lines
from zoo_measuring import Quantizer, Subject
from zoo_plan import Entry, Plan, read_plan
from zoo_results import FLOAT, LATENCY, Arrays, Key, Results, Row, key_of
from zoo_table import NOTES, loss_of, passes, table

import detq
from detq import api
from detq.api.sources import FLOAT as FLOAT_LABELS
from detq.benchmark import Variant, bench, variants_of
from detq.cores import core_count
from detq.errors import DetqError, one_line
from detq.records import is_busy
from detq.runtime.machine import cpu_features, cpu_name, float_precisions, load_average
from detq.runtime.options import FloatPrecision, RuntimeOptions

ROUNDS = 100
POLL_S = 10.0


def main() -> None:
    parser = zoo_parser(__doc__)
    parser.add_argument("--only", action="append", metavar="MODEL", help="may be repeated")
    parser.add_argument("--table", action="store_true", help="print what is there; measure nothing")
    parser.add_argument("--passes", action="store_true", help="the same: what each pass brings")
    parser.add_argument("--retry", action="store_true", help="try again what failed")
    parser.add_argument(
        "--swap", action="store_true", help="calibrate on the test split, judge by the other"
    )
    parser.add_argument(
        "--wait", type=float, default=5.0, help="minutes for the machine to be idle"
    )
    given = parser.parse_args()
    with errors_in_one_line(stopped="stopped; the same command goes on"):
        plan, results = read_plan(given.config), results_of(given, swapped=given.swap)
        plan = plan.swapped() if given.swap else plan
        chosen = plan.only(given.only).models
        zoo = Zoo(plan, results, root=given.root, retry=given.retry)
        if not given.table and not given.passes:
            with results.alone():
                _fill(zoo, chosen, wait_s=60 * given.wait)
        rows = zoo.rows()
        if not rows:
            raise DetqError(
                f"{results.path}: nothing of {given.config} is in it; run without --table"
            )
        print("\n".join(passes(rows) if given.passes else page(plan, results, rows)))
        if not any("measure" in row for row in rows.values()):
            raise DetqError(
                f"{given.config}: nothing of it is measured; the table says what failed"
            )


@contextmanager
def errors_in_one_line(*, stopped: str = "stopped") -> Iterator[None]:
    """What was given wrongly, and Ctrl-C, end the program with one line."""
    try:
        yield
    except DetqError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        sys.exit(130)


def _fill(zoo: Zoo, chosen: Sequence[Entry], *, wait_s: float) -> None:
    for entry in chosen:
        zoo.measure(entry)
    for entry in chosen:
        if not zoo.time(entry, wait_s=wait_s):
            break


def zoo_parser(about: str) -> argparse.ArgumentParser:
    """The arguments that say which zoo it is, and where it lies; described by a module's first
    line.
    """
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--results", type=Path, help="JSON lines; runs/CONFIG.jsonl by default")
    parser.add_argument(
        "--root", type=Path, default=Path(os.environ.get("DETQ_SHARED", "../shared"))
    )
    return parser


def results_of(given: argparse.Namespace, *, swapped: bool = False) -> Results:
    """Where what is measured is kept; with swapped splits in a file beside it. Raises DetqError."""
    path = given.results or Path("runs") / f"{given.config.stem}.jsonl"
    return Results(path.with_stem(f"{path.stem}_swapped") if swapped else path)


class Zoo:
    """Fills a results file with the rows of a plan."""

    def __init__(self, plan: Plan, results: Results, *, root: Path, retry: bool = False) -> None:
        self._plan, self._results, self._root, self._retry = plan, results, root, retry
        self._origin = {"detq": _version(), "cpu": f"{cpu_name()} ({', '.join(cpu_features())})"}

    def rows(self) -> dict[Key, Row]:
        """Those of this plan, in its order."""
        stored = self._results.rows()
        wanted = {entry.label: self._plan.fingerprint(entry) for entry in self._plan.models}
        order = list(wanted)
        own = [row for row in stored.values() if row["of"] == wanted.get(row["model"])]
        recipes = [FLOAT, *FLOAT_LABELS.values(), *self._plan.recipes]
        place = {recipe: number for number, recipe in reversed(list(enumerate(recipes)))}
        own.sort(key=lambda row: (order.index(row["model"]), place.get(row["recipe"], len(place))))
        return {key_of(row): row for row in own}

    def measure(self, entry: Entry) -> None:
        """Whatever is missing of a model, but latencies."""
        subject = cache(partial(Subject, entry, self._plan, self._root, self._results.folder))
        for precision in float_precisions():
            measure = partial(_float, subject, precision, self._plan.seeds[0])
            self._row(entry, FLOAT_LABELS[precision], 0, measure)
            exact = self.rows()[entry.label, FLOAT, 0]
            if "error" in exact:
                return
        for seed in self._plan.seeds:
            quantizer = cache(partial(_quantizer, subject, seed))
            for recipe in self._plan.recipes_of(seed, splits=exact["splits"]):
                is_first = seed == self._plan.seeds[0]
                path = self._results.graph_file(entry.label, recipe) if is_first else None
                self._row(entry, recipe, seed, partial(_int8, quantizer, recipe, path))

    def time(self, entry: Entry, *, wait_s: float) -> bool:
        """Latencies of a model's variants, in turns; False, and none, if the machine is busy."""
        rows = self.rows()
        exact = rows.get((entry.label, FLOAT, 0), {"error": ""})
        known = rows.get((entry.label, LATENCY, 0), {}).get("ms", {})
        names = [
            recipe
            for (model, recipe, seed), row in rows.items()
            if model == entry.label and seed == self._plan.seeds[0] and "measure" in row
            if self._results.graph_file(model, recipe).exists()
        ]
        if "error" in exact or set(names) <= set(known):
            return True
        load = _idle_load(wait_s)
        if is_busy(load, core_count()):
            print(
                f"from {entry.label} on latencies are not measured: load average {load:.1f} on "
                f"{core_count()} cores; start again when the machine is idle",
                file=sys.stderr,
            )
            return False
        subject = Subject(entry, self._plan, self._root, self._results.folder)
        spec = subject.graph.spec
        paths = [self._results.graph_file(entry.label, name) for name in names]
        graphs = [api.DetectorGraph(ov.Core().read_model(path), spec) for path in paths]
        floats = variants_of(subject.graph)
        measured = bench([*floats, *map(Variant, graphs)], rounds=ROUNDS)
        labels = [*(FLOAT_LABELS[each.float_precision] for each in floats), *names]
        ms = {name: row.latency_ms for name, row in zip(labels, measured, strict=True)}
        self._write(entry, LATENCY, 0, {"ms": ms, "load": load})
        return True

    def _has(self, entry: Entry, recipe: str, seed: int) -> bool:
        row = self.rows().get((entry.label, recipe, seed))
        return row is not None and not (self._retry and "error" in row)

    def _row(
        self, entry: Entry, recipe: str, seed: int, measure: Callable[[], tuple[Row, Arrays]]
    ) -> None:
        """A row that is missing; if it cannot be had, why."""
        if self._has(entry, recipe, seed):
            return
        try:
            row, arrays = measure()
        except Exception as error:  # the other models go on
            kind = "" if isinstance(error, DetqError) else f"{type(error).__name__}: "
            self._write(entry, recipe, seed, {"error": one_line(f"{kind}{error}")})
        else:
            self._write(entry, recipe, seed, row, arrays)

    def _write(
        self, entry: Entry, recipe: str, seed: int, row: Row, arrays: Arrays | None = None
    ) -> None:
        key = {"model": entry.label, "recipe": recipe, "seed": seed}
        line = {**key, "of": self._plan.fingerprint(entry), **self._origin, **row}
        self._results.add(line, arrays)
        said = row.get("error") or ", ".join(_said(row))
        print(f"{entry.label} {recipe} seed {seed}: {said}", file=sys.stderr, flush=True)


def page(plan: Plan, results: Results, rows: Mapping[Key, Row]) -> list[str]:
    """All that is printed."""
    lines = [*table(results, rows), "", NOTES]
    measured = {key: row for key, row in rows.items() if "measure" in row}
    for what, key in (("CPU", "cpu"), ("Version", "detq")):
        found = sorted({str(row[key]) for row in measured.values()})
        lines += [f"{what}: {'; '.join(found)}."] if found else []
    untimed = {key[0] for key in measured} - {key[0] for key in rows if key[1] == LATENCY}
    if untimed:
        lines.append(f"Latency not measured: {', '.join(sorted(untimed))}.")
    missing = [
        f"{entry.label} {recipe} {seed}"
        for entry in plan.models
        if "splits" in (exact := rows.get((entry.label, FLOAT, 0), {}))
        for seed in plan.seeds
        for recipe in plan.recipes_of(seed, splits=exact["splits"])
        if (entry.label, recipe, seed) not in rows
    ]
    missing += [one.label for one in plan.models if (one.label, FLOAT, 0) not in rows]
    if missing:
        lines.append(f"Rows not measured yet: {len(missing)} ({', '.join(missing[:5])}, …).")
    losses: dict[Key, tuple[float, float]] = {}
    for place, row in measured.items():
        reference = measured.get((place[0], FLOAT, 0))
        if reference is not None and "int8_share" in row and row["held_back"] is not None:
            loss = loss_of(results, reference, [row])
            losses[place] = loss.points, float(loss.resampled.std())
    return [*lines, *expected_lines(rows, losses)]


def _float(
    subject: Callable[[], Subject], precision: FloatPrecision, seed: int
) -> tuple[Row, Arrays]:
    """Of float32 what all others are held against; of another precision, what rounding alone costs
    agreement.
    """
    options = RuntimeOptions(float_precision=precision)
    if precision != "f32":
        return _quantizer(subject, seed).in_float(options)
    scored = subject().score(subject().graph, options, is_float=True)
    return {**scored.row, "splits": subject().splits}, scored.arrays


def _quantizer(subject: Callable[[], Subject], seed: int) -> Quantizer:
    return Quantizer(subject(), seed)


def _int8(quantizer: Callable[[], Quantizer], recipe: str, path: Path | None) -> tuple[Row, Arrays]:
    return quantizer().quantize(recipe, path)


def _said(row: Mapping[str, Any]) -> list[str]:
    if "ms" in row:
        return [f"{name} {value:.2f} ms" for name, value in row["ms"].items()]
    told = [f"{row['measure']} {row['score']:.2f}"]
    if row.get("held_back") is not None:
        told.append(f"agreement {row['held_back']:.1f}")
    if "cpu_seconds" in row:
        told.append(f"{row['cpu_seconds']:.0f} CPU s")
    return told


def _idle_load(wait_s: float) -> float | None:
    """The load average once the machine is idle, or when the time is up."""
    until = time.monotonic() + wait_s
    if wait_s > 0 and is_busy(load := load_average(), core_count()):
        print(
            f"latencies wait {wait_s / 60:.0f} minutes at most for the machine to be idle "
            f"(load average {load:.1f}); --wait 0 leaves them out",
            file=sys.stderr,
            flush=True,
        )
    while is_busy(load := load_average(), core_count()) and time.monotonic() < until:
        time.sleep(POLL_S)
    return load


def _version() -> str:
    """The commit where there is one: figures of two are not to be mixed without a word."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return detq.__version__
    return f"{detq.__version__} {done.stdout.strip()}"


if __name__ == "__main__":
    main()
