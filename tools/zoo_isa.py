"""The same INT8 files on other instructions of this CPU: how far mAP differs.

    python tools/zoo_isa.py tools/zoo.yaml --root ../shared

Takes the INT8 graphs that ``tools/zoo.py`` kept (recipe ``measured``, the first seed) and measures
each with ``ONEDNN_MAX_CPU_ISA`` at AVX2, AVX-512 without and with VNNI, and all that the CPU has.
That is in processes of their own, because oneDNN reads the variable once. Prints one table.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

import openvino as ov
from zoo import errors_in_one_line, results_of, zoo_parser
from zoo_measuring import Subject
from zoo_plan import read_plan
from zoo_table import markdown_head, markdown_row

from detq import api

SETS = {"AVX2": "AVX2", "AVX-512": "AVX512_CORE", "VNNI": "AVX512_CORE_VNNI", "all": "DEFAULT"}
RECIPE = "measured"


def main() -> None:
    parser = zoo_parser(__doc__)
    parser.add_argument("--only", help="measure this model here, on the instructions as they are")
    given = parser.parse_args()
    with errors_in_one_line():
        _compare(given)


def _compare(given: argparse.Namespace) -> None:
    results, plan = results_of(given), read_plan(given.config)
    if given.only:
        (entry,) = plan.only([given.only]).models
        subject = Subject(entry, plan, given.root, results.folder)
        model = ov.Core().read_model(results.graph_file(entry.label, RECIPE))
        graph = api.DetectorGraph(model, subject.graph.spec)
        print(subject.score(graph, is_float=True).row["score"])
        return
    print("\n".join(markdown_head(["model", *SETS, "greatest difference"])))
    for entry in plan.models:
        if not results.graph_file(entry.label, RECIPE).exists():
            print(f"{entry.label}: no INT8 graph; tools/zoo.py makes it", file=sys.stderr)
            continue
        scores = [_score(entry.label, value) for value in SETS.values()]
        figures = [f"{score:.2f}" for score in (*scores, max(scores) - min(scores))]
        print(markdown_row([entry.label, *figures]), flush=True)


def _score(label: str, instructions: str) -> float:
    command = [sys.executable, *sys.argv, "--only", label]
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": instructions}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(f"{label} on {instructions}: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    main()
