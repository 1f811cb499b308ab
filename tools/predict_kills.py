"""Predict on many images while all is killed at random: the rows must be those of a quiet run.

    python tools/predict_kills.py MODEL FOLDER --kills 50 --results runs/kills

Runs ``detq predict`` three times: undisturbed; with this process killed at random moments until it
is done; and on Ray with two workers, where a worker or the driver is killed. Prints images per
second and the most memory of the first run and of one on its first 1,000 images, and how the rows
compare.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

CODE = (
    "import resource, sys\nfrom detq.cli.entry import main\ntry: main()\n"
    "finally: print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, 'MB')"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("folder")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--every-s", type=float, default=8.0)
    parser.add_argument("--results", type=Path, required=True)
    arguments = parser.parse_args()
    command = [sys.executable, "-c", CODE, "predict", arguments.model, arguments.folder]
    places = {name: arguments.results / name for name in ("first", "quiet", "killed", "ray")}
    for name, more in (("first", ["--max-images", "1000"]), ("quiet", [])):
        run = [*command, *more, "--output", str(places[name])]
        done = subprocess.run(run, capture_output=True, text=True, check=True)
        print(name, done.stdout.splitlines()[-1], *done.stderr.splitlines()[-2:-1], flush=True)
    chance = random.Random(0)  # noqa: S311
    local = [*command, "--output", str(places["killed"])]
    ray = [*command, "--engine", "ray", "--workers", "2", "--output", str(places["ray"])]
    half = arguments.kills // 2
    for name, run, workers in (("killed", local, False), ("ray", ray, True)):
        kills = _disturbed(run, half, arguments.every_s, chance, workers)
        same = _rows(places[name]) == _rows(places["quiet"])
        print(f"{name}: {kills} kills, {'the same rows' if same else 'OTHER ROWS'}", flush=True)


def _disturbed(
    command: list[str], kills: int, every_s: float, chance: random.Random, workers: bool
) -> dict[str, int]:
    """Start again until it is done; so many kills, of workers and of the process itself."""
    counts = {"driver": 0, "worker": 0}
    while True:
        quiet = subprocess.DEVNULL
        run = subprocess.Popen(command, stdout=quiet, stderr=quiet, start_new_session=True)
        due = time.monotonic() + every_s * (0.5 + chance.random())
        while run.poll() is None:
            time.sleep(0.05)
            if sum(counts.values()) < kills and time.monotonic() > due:
                victims = _workers(run.pid) if workers else []
                if victims and chance.random() < 0.6:
                    _kill(chance.choice(victims))
                    counts["worker"] += 1
                elif victims or not workers:
                    counts["driver"] += 1
                    os.killpg(run.pid, signal.SIGKILL)
                due = time.monotonic() + every_s * (0.5 + chance.random())
        if run.returncode == 0:
            return counts


def _workers(ancestor: int) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(ancestor).children(recursive=True):
        try:
            if "MapWorker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def _kill(process: psutil.Process) -> None:
    with suppress(psutil.Error):
        process.kill()


def _rows(directory: Path) -> list[str]:
    """The digest of every row, sorted."""
    parts = sorted(directory.glob("predictions-*.jsonl"))
    lines = (line for part in parts for line in part.open("rb"))
    return sorted(hashlib.sha256(line).hexdigest() for line in lines)


if __name__ == "__main__":
    main()
