from __future__ import annotations

import csv
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import COMMAND, Command, running
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from run_files import rows_of

from detq import Workers, predict_many
from detq.artifact import write_artifact
from detq.graph.detector_graph import DetectorGraph
from detq.records import COCO_IDS
from detq.runtime.options import RuntimeOptions
from detq.runtime.tuned import write_tuned
from detq.scale.exports import CocoIds

Images = Callable[[int], Path]


@pytest.fixture
def images(tmp_path: Path) -> Images:
    """So many tiny pictures of coloured halves in a folder ``many``; every tenth is damaged."""

    def make(count: int) -> Path:
        folder = tmp_path / "many"
        folder.mkdir()
        for number in range(count):
            path = folder / f"{number:05d}.png"
            if number % 10 == 9:
                path.write_bytes(b"torn")
            else:
                cv2.imwrite(str(path), halves(number))
        return folder

    return make


def halves(number: int) -> Any:
    image = np.zeros((8, 16, 3), np.uint8)
    image[:, :8, number % 3] = 255
    image[:, 8:, number // 3 % 3] = 255 - number % 50
    return image


def film(path: Path, numbers: Iterable[int]) -> None:
    """20 frames a second of 128x64."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 20.0, (128, 64))
    for number in numbers:
        writer.write(cv2.resize(halves(number), (128, 64), interpolation=cv2.INTER_NEAREST))
    writer.release()


@settings(max_examples=15, deadline=None)
@given(
    damaged=st.lists(st.booleans(), min_size=1, max_size=12),
    size=st.integers(1, 13),
    step=st.integers(1, 3),
)
def test_every_image_has_one_row_whatever_the_shards(
    colour_graph: DetectorGraph, damaged: list[bool], size: int, step: int
) -> None:
    with TemporaryDirectory() as folder:
        names = []
        for number, is_damaged in enumerate(damaged):
            names.append(f"{folder}/{number:02d}.png")
            content = b"torn" if is_damaged else cv2.imencode(".png", halves(number))[1].tobytes()
            Path(names[-1]).write_bytes(content)
        for first in range(step):
            run = predict_many(
                colour_graph,
                folder,
                output=f"{folder}/out",
                workers=Workers(shard=(first, step), shard_images=size),
            )
        rows = list(run.rows())
        assert run.is_complete
        assert [row["id"] for row in rows] == names
        assert [row["error"] is not None for row in rows] == damaged
        assert all(row["boxes"] for row in rows if row["error"] is None)
        for number, row in enumerate(rows):
            if row["error"] is None:
                first_class = {0: "blue", 1: "green", 2: "red"}[number % 3]
                assert first_class in row["class_names"]
                assert (row["width"], row["height"]) == (16, 8)


def test_killed_again_and_again_the_rows_are_those_of_an_undisturbed_run(
    detq: Command, tmp_path: Path, colour_model: Path, images: Images
) -> None:
    images(600)
    arguments = ("predict", str(colour_model), "many", "--shard-images", "20", "--output")
    assert detq(*arguments, "whole").status == 0
    kills, chance = 0, random.Random(0)
    for _ in range(60):
        with running(tmp_path, *arguments, "torn") as run:
            before = len(list(tmp_path.glob("torn/predictions-*")))
            wanted = before + chance.randrange(1, 5)
            while run.poll() is None and kills < 8:
                if len(list(tmp_path.glob("torn/predictions-*"))) >= wanted:
                    run.kill()
                    kills += 1
                    break
                time.sleep(0.001)
            run.communicate()
        if run.returncode == 0:
            break
    assert kills >= 3
    assert rows_of(tmp_path / "torn") == rows_of(tmp_path / "whole")
    assert len(rows_of(tmp_path / "torn")) == 600
    detq(*arguments, "torn")
    assert not list(tmp_path.glob("torn/.detq-*"))  # nor what the killed ones left


def test_rerun_reads_what_is_missing_alone(
    detq: Command, tmp_path: Path, colour_model: Path, images: Images
) -> None:
    images(30)
    arguments = ("predict", colour_model, "many", "--shard-images", "10")
    assert "30 images in" in detq(*arguments).err
    (tmp_path / "predictions/predictions-000001-of-000003.jsonl").unlink()
    again = detq(*arguments)
    assert "10 images in" in again.err
    assert "2 of 3 shards were done before" in again.err
    assert len(rows_of(tmp_path / "predictions")) == 30


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("--confidence", "0.5"), "confidence: 0.25 then, 0.5 now"),
        (("--iou", "0.5"), "iou: 0.45 then, 0.5 now"),
        (("--classes", "red"), "classes: None then, [0] now"),
        (("--max-images", "3"), "max-images: None then, 3 now"),
        (("--format", "parquet"), "format: jsonl then, parquet now"),
        (("--imgsz", "64"), "model: "),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_another_run_is_refused_by_name(
    detq: Command,
    tmp_path: Path,
    bccd_float: Path,
    images: Images,
    change: tuple[str, str],
    words: str,
) -> None:
    images(5)
    size = () if change[0] == "--imgsz" else ("--imgsz", "96")
    start = ("predict", bccd_float, "many", "--imgsz", "96")
    if change[0] == "--classes":
        change, words = ("--classes", "RBC"), "classes: None then, "
    assert detq(*start).status == 0
    before = rows_of(tmp_path / "predictions")
    other = detq("predict", bccd_float, "many", *size, *change)
    assert other.failed_well
    assert words in other.errors[0]
    assert "pass another --output" in other.errors[0]
    assert rows_of(tmp_path / "predictions") == before


def test_images_that_came_later_are_not_left_out_without_a_word(
    detq: Command, tmp_path: Path, colour_model: Path, images: Images
) -> None:
    folder = images(4)
    assert detq("predict", colour_model, "many").status == 0
    cv2.imwrite(str(folder / "new.png"), halves(1))
    other = detq("predict", colour_model, "many")
    assert other.failed_well
    assert "images: 4 in 1 shards then, 5 in 1 shards now" in other.errors[0]


def test_processes_share_the_shards(
    detq: Command, tmp_path: Path, colour_model: Path, images: Images
) -> None:
    images(50)
    arguments = ("predict", colour_model, "many", "--shard-images", "10", "--format", "csv")
    first = detq(*arguments, "--shard", "0/2")
    assert "other shards are left to do" in first.err
    assert not (tmp_path / "predictions/predictions.csv").exists()
    second = detq(*arguments, "--shard", "1/2")
    assert "20 images in" in second.err
    assert (tmp_path / "predictions/predictions.csv").exists()
    assert [row["id"] for row in rows_of(tmp_path / "predictions")] == [
        f"many/{number:05d}.png" for number in range(50)
    ]
    assert "expected I/N" in detq(*arguments, "--shard", "2/2").err
    assert "expected I/N" in detq(*arguments, "--shard", "x").err


# Forms


def test_parquet_holds_what_json_lines_hold(
    detq: Command, tmp_path: Path, colour_model: Path, images: Images
) -> None:
    images(25)
    for format_ in ("jsonl", "parquet"):
        options = ("--format", format_, "--output", format_, "--shard-images", "10")
        assert detq("predict", colour_model, "many", *options).status == 0
    rows = [
        row
        for part in sorted((tmp_path / "parquet").glob("*.parquet"))
        for row in pq.read_table(part).to_pylist()
    ]
    assert rows == rows_of(tmp_path / "jsonl")


def test_coco_results_are_what_pycocotools_takes(
    detq: Command, tmp_path: Path, shared: Path, bccd_float: Path
) -> None:
    truth = shared / "data/bccd/annotations/instances_val.json"
    shutil.copytree(shared / "data/bccd/images/val", tmp_path / "val")
    for path in sorted((tmp_path / "val").iterdir())[6:]:
        path.unlink()
    options = ("--format", "coco", "--annotations", truth, "--imgsz", "160")
    assert detq("predict", bccd_float, "val", *options).status == 0
    coco = COCO(str(truth))
    results = coco.loadRes(str(tmp_path / "predictions/predictions.json"))
    rows = rows_of(tmp_path / "predictions")
    assert len(results.anns) == sum(len(row["scores"]) for row in rows) > 0
    by_name = {image["file_name"]: image["id"] for image in coco.imgs.values()}
    row = next(row for row in rows if row["scores"])
    first = results.loadAnns(results.getAnnIds([by_name[Path(row["id"]).name]]))[0]
    left, top, right, bottom = row["boxes"][0]
    assert first["bbox"] == [left, top, right - left, bottom - top]
    assert coco.cats[first["category_id"]]["name"] == row["class_names"][0]


def test_ids_of_coco_leave_out_what_coco_leaves_out() -> None:
    assert (len(COCO_IDS), COCO_IDS[0], COCO_IDS[-1]) == (80, 1, 90)
    assert {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}.isdisjoint(COCO_IDS)


def test_two_images_are_never_one_to_coco(
    detq: Command, tmp_path: Path, colour_model: Path, images: Images
) -> None:
    """Two folders may number their images alike; frames of a video called 7.avi are no image 7."""
    shutil.copytree(images(3), tmp_path / "again")
    outcome = detq("predict", colour_model, "many", "again", "--format", "coco")
    assert outcome.status == 1
    assert "many/00000.png and again/00000.png are both image 0; predict on them" in outcome.err
    assert not (tmp_path / "predictions/predictions.json").exists()
    assert len(rows_of(tmp_path / "predictions")) == 6
    row = {"id": "7.avi#3", "source": "7.avi", "index": 3}
    assert CocoIds({}, {}).image(row) == "7.avi#3"
    assert CocoIds({}, {}).image({"id": "a.tar/007.jpg", "source": "a.tar", "index": 3}) == 7


def test_labels_and_csv(detq: Command, tmp_path: Path, colour_model: Path, images: Images) -> None:
    images(10)
    for format_ in ("yolo", "csv"):
        assert detq("predict", colour_model, "many", "--format", format_).status == 0
    labels = sorted((tmp_path / "predictions/labels").iterdir())
    assert [path.name for path in labels] == [f"{number:05d}.txt" for number in range(9)]
    rows = rows_of(tmp_path / "predictions")
    for path, row in zip(labels, rows, strict=False):
        lines = [[float(cell) for cell in line.split()] for line in path.read_text().splitlines()]
        assert [line[0] for line in lines] == row["class_ids"]
        for line, (left, top, right, bottom) in zip(lines, row["boxes"], strict=True):
            assert line[1] * 16 == pytest.approx((left + right) / 2, abs=1e-4)
            assert line[4] * 8 == pytest.approx(bottom - top, abs=1e-4)
    with (tmp_path / "predictions/predictions.csv").open(newline="") as file:
        lines_of_csv = list(csv.DictReader(file))
    assert [line["id"] for line in lines_of_csv if line["error"]] == ["many/00009.png"]
    objects = [line for line in lines_of_csv if line["class_name"]]
    assert len(objects) == sum(len(row["scores"]) for row in rows)
    assert float(objects[0]["x2"]) == rows[0]["boxes"][0][2]


def test_video_is_drawn_in_its_own_size_and_rate(
    detq: Command, tmp_path: Path, colour_model: Path
) -> None:
    film(tmp_path / "v.mp4", range(40))
    done = detq("predict", colour_model, "v.mp4", "--draw", "--every", "2", "--start", "1")
    assert done.status == 0, done.err
    rows = rows_of(tmp_path / "predictions")
    assert [row["index"] for row in rows] == list(range(20, 40, 2))
    assert rows[0]["id"] == "v.mp4#20"
    assert rows[1]["time_s"] == pytest.approx(1.1)
    drawn = cv2.VideoCapture(str(tmp_path / "predictions/v.mp4"))
    size = (drawn.get(cv2.CAP_PROP_FRAME_WIDTH), drawn.get(cv2.CAP_PROP_FRAME_HEIGHT))
    assert (*size, drawn.get(cv2.CAP_PROP_FPS)) == (128, 64, 10)
    assert drawn.get(cv2.CAP_PROP_FRAME_COUNT) == 10
    drawn.release()


def test_tracks_fill_the_frames_between(detq: Command, tmp_path: Path, colour_model: Path) -> None:
    """The halves stay where they are: from their second sight on each has its id in every frame."""
    film(tmp_path / "v.mp4", [1] * 20)
    options = ("--track", "--every", "4", "--draw")
    done = detq("predict", colour_model, "v.mp4", *options)
    assert done.status == 0, done.err
    rows = rows_of(tmp_path / "predictions")
    assert [row["index"] for row in rows] == list(range(20))
    assert all(row["track_ids"] == [-1, -1] for row in rows[:1])
    assert all(sorted(row["track_ids"]) == [1, 2] for row in rows[4:])
    boxes = {
        (track, tuple(box))
        for row in rows[4:]
        for track, box in zip(row["track_ids"], row["boxes"], strict=True)
    }
    assert len(boxes) == 2
    drawn = cv2.VideoCapture(str(tmp_path / "predictions/v.mp4"))
    assert (drawn.get(cv2.CAP_PROP_FRAME_COUNT), drawn.get(cv2.CAP_PROP_FPS)) == (20, 20)
    drawn.release()


def test_classes_that_are_kept(
    detq: Command, tmp_path: Path, colour_model: Path, images: Images
) -> None:
    images(9)
    assert detq("predict", colour_model, "many", "--classes", "red,blue").status == 0
    names = {name for row in rows_of(tmp_path / "predictions") for name in row["class_names"]}
    assert names == {"red", "blue"}
    wrong = detq("predict", colour_model, "many", "--classes", "pink", "--output", "o")
    assert wrong.failed_well
    assert "pink: is none of red, green, blue" in wrong.errors[0]


def test_archives_lists_and_patterns_at_once(
    detq: Command, tmp_path: Path, colour_model: Path, images: Images
) -> None:
    folder = images(12)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(folder / "00001.png", "x/1.png")
        archive.add(folder / "00009.png", "x/9.png")
    (tmp_path / "list.txt").write_text("many/00002.png\nmany/none.png\n")
    found = detq("predict", colour_model, "a.tar", "list.txt", "many/0000[34].png")
    assert found.status == 0
    rows = rows_of(tmp_path / "predictions")
    assert [(row["id"], row["error"] is None) for row in rows] == [
        ("a.tar/x/1.png", True),
        ("a.tar/x/9.png", False),
        ("many/00002.png", True),
        ("many/none.png", False),
        ("many/00003.png", True),
        ("many/00004.png", True),
    ]
    assert "2 could not be read" in found.err


# What goes wrong


def test_full_disk_loses_no_finished_shard(
    tmp_path: Path, colour_model: Path, images: Images
) -> None:
    images(60)
    arguments = [*COMMAND, "predict", str(colour_model), "many", "--shard-images", "10"]

    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))

    full = subprocess.run(
        arguments, cwd=tmp_path, capture_output=True, text=True, preexec_fn=small_files, check=False
    )
    assert full.returncode == 1
    assert "cannot be written" in full.stderr.splitlines()[-1]
    assert "Traceback" not in full.stderr
    assert not list(tmp_path.glob("predictions/.detq-*"))
    again = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 0
    assert len(rows_of(tmp_path / "predictions")) == 60


def test_half_a_shard_and_half_a_manifest(
    detq: Command, tmp_path: Path, colour_model: Path, images: Images
) -> None:
    images(5)
    assert detq("predict", colour_model, "many").status == 0
    part = tmp_path / "predictions/predictions-000000-of-000001.jsonl"
    part.write_bytes(part.read_bytes()[:-20])
    torn = detq("predict", colour_model, "many")
    assert torn.status == 1
    assert "delete it, and the same command makes it again" in torn.errors[0]
    (tmp_path / "predictions/_manifest.json").write_text('{"model": 3')
    torn = detq("predict", colour_model, "many")
    assert torn.failed_well
    assert "is no manifest of a run" in torn.errors[0]


def test_images_of_one_name_keep_their_own_pictures_and_labels(
    detq: Command, tmp_path: Path, colour_model: Path
) -> None:
    """They replaced each other without a word."""
    for name in ("a/x.png", "b/x.png", "a/x.bmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), halves(1))
    options = ("--draw", "--format", "yolo", "--output", "o")
    assert detq("predict", colour_model, "a", "b", *options).status == 0
    made = {str(path.relative_to(tmp_path / "o")) for path in (tmp_path / "o").rglob("x.*")}
    pictures = {"a/x.png", "b/x.png", "a/x.bmp"}
    assert made == pictures | {"labels/a/x.txt", "labels/a/x.png.txt", "labels/b/x.txt"}


def test_json_replaces_no_image_and_nothing_of_the_run(
    detq: Command, tmp_path: Path, colour_model: Path, images: Images
) -> None:
    folder = images(3)
    before = (folder / "00000.png").read_bytes()
    for place in ("many/00000.png", "predictions/_manifest.json"):
        refused = detq("predict", colour_model, "many", "--json", place)
        assert refused.failed_well
        assert "is an image or a file of the run" in refused.errors[0]
    assert (folder / "00000.png").read_bytes() == before
    assert not (tmp_path / "predictions").exists()


def test_other_files_of_these_names_are_left_alone(
    detq: Command, tmp_path: Path, colour_model: Path, images: Images
) -> None:
    images(3)
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions/predictions.csv").write_text("mine")
    refused = detq("predict", colour_model, "many", "--format", "csv")
    assert refused.failed_well
    assert "is there already, and of no run" in refused.errors[0]
    assert (tmp_path / "predictions/predictions.csv").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("",), "a source without a name"),
        (("many", "--classes", ","), "--classes: names none"),
        (("many", "--annotations", "a.json"), "is for --format coco"),
        (("many", "--workers", "2"), "are for --engine ray"),
        (("many", "--engine", "ray", "--threads", "6400"), "cores; pass fewer"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_makes_no_sense_is_said_before_the_work(
    tmp_path: Path, colour_model: Path, images: Images, arguments: tuple[str, ...], words: str
) -> None:
    images(2)
    refused = apart(tmp_path, "predict", colour_model, *arguments)
    assert refused.returncode == 1
    assert words in refused.stderr.splitlines()[-1]
    assert not list(tmp_path.glob("predictions/predictions-*"))


def test_truth_of_other_images_is_refused_before_the_work(
    detq: Command, tmp_path: Path, colour_model: Path, images: Images
) -> None:
    images(2)
    truth = {
        "images": [{"id": 1, "file_name": "other.png"}],
        "annotations": [],
        "categories": [{"id": 5, "name": name} for name in ("red", "green", "blue")],
    }
    (tmp_path / "t.json").write_text(json.dumps(truth))
    options = ("--format", "coco", "--annotations", "t.json")
    refused = detq("predict", colour_model, "many", *options)
    assert refused.failed_well
    assert "00000.png: is no image of --annotations" in refused.errors[0]
    assert not (tmp_path / "predictions").exists()


def test_nothing_that_can_be_read_is_an_error(
    detq: Command, tmp_path: Path, colour_model: Path
) -> None:
    (tmp_path / "v.mp4").write_bytes(b"torn")
    torn = detq("predict", colour_model, "v.mp4", "--draw")
    assert torn.status == 1
    assert torn.errors == ["error: nothing could be read; the rows in predictions say why"]
    assert rows_of(tmp_path / "predictions")[0]["error"] is not None
    assert not (tmp_path / "predictions/v.mp4").exists()


def test_interrupt_says_what_is_done(tmp_path: Path, colour_model: Path, images: Images) -> None:
    images(1500)
    arguments = ("predict", colour_model, "many", "--shard-images", "5")
    with running(tmp_path, *arguments) as run:
        while run.poll() is None and len(list(tmp_path.glob("predictions/predictions-*"))) < 3:
            time.sleep(0.001)
        run.send_signal(signal.SIGINT)
        _, said = run.communicate()
    assert run.returncode == 1
    assert "shards are done in predictions: the same command goes on" in said.splitlines()[-1]


def test_missing_library_is_named(tmp_path: Path, colour_model: Path, images: Images) -> None:
    images(2)
    for options, words in (
        (("--format", "parquet"), "pip install 'detq[scale]'"),
        (("--engine", "ray"), "pip install 'detq[ray]'"),
    ):
        without = "import sys; sys.modules.update({'pyarrow': None, 'pyarrow.parquet': None, "
        code = f"{without}'ray': None}}); from detq.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, "predict", str(colour_model), "many", *options],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert words in done.stderr.splitlines()[-1]


def test_memory_does_not_grow_with_the_images(tmp_path: Path, colour_model: Path) -> None:
    """Of ten times as many: less than 40 MB more."""
    peaks = []
    for count in (1_000, 10_000):
        with tarfile.open(tmp_path / f"{count}.tar", "w") as archive:
            content = tmp_path / "x.png"
            cv2.imwrite(str(content), halves(1))
            for number in range(count):
                archive.add(content, f"{number}.png")
        code = (
            "import resource, sys; from detq.cli.entry import main\n"
            "try: main()\n"
            "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run(
            [
                *(sys.executable, "-c", code, "predict", str(colour_model), f"{count}.tar"),
                *("--output", f"o{count}"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        peaks.append(int(done.stdout.splitlines()[-1]) / 1024)
    assert len(rows_of(tmp_path / "o10000")) == 10_000
    assert peaks[1] - peaks[0] < 40


# Ray


@pytest.fixture
def ray_arguments(colour_model: Path) -> Iterator[tuple[str, ...]]:
    """Two workers on a cluster of this machine, which ends with the command."""
    pytest.importorskip("ray")
    yield ("predict", str(colour_model), "many", "--engine", "ray", "--workers", "2")


def test_ray_gives_the_same_rows_although_workers_are_killed(
    detq: Command,
    tmp_path: Path,
    colour_model: Path,
    images: Images,
    ray_arguments: tuple[str, ...],
) -> None:
    images(400)
    plain = ("predict", colour_model, "many", "--shard-images", "10", "--output", "local")
    assert detq(*plain).status == 0
    options = ("--shard-images", "10", "--output", "ray")
    killed = 0
    with running(tmp_path, *ray_arguments, *options) as run:
        while run.poll() is None:
            done = len(list(tmp_path.glob("ray/predictions-*")))
            if killed < 2 and done >= 5 * (killed + 1):
                killed += kill_worker(run.pid)
            time.sleep(0.01)
        _, said = run.communicate()
    assert run.returncode == 0, said
    assert killed >= 1
    assert rows_of(tmp_path / "ray") == rows_of(tmp_path / "local")


def apart(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own: Ray's threads and warnings stay there."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], cwd=folder, capture_output=True, text=True, check=False
    )


def test_ray_evaluates_with_the_same_figures(
    tmp_path: Path, shared: Path, bccd_float: Path, bccd_graph: DetectorGraph
) -> None:
    """Also of a model that was tuned to compute in 16 bits."""
    pytest.importorskip("ray")
    write_artifact(bccd_graph, tmp_path / "tuned")
    write_tuned(tmp_path / "tuned", RuntimeOptions(float_precision="bf16"))
    for engine in ("local", "ray"):
        options = ("--data", shared / "data/bccd/data.yaml", "--imgsz", "160", "--engine", engine)
        wanted = ("--per-class", "--json", f"{engine}.json")
        done = apart(tmp_path, "eval", bccd_float, "tuned", *options, *wanted)
        assert done.returncode == 0, done.stderr
    both = [
        json.loads((tmp_path / f"{engine}.json").read_text())["models"]
        for engine in ("local", "ray")
    ]
    for local, ray in zip(*both, strict=True):
        assert local.pop("seconds") != ray.pop("seconds")
        assert ray == local
        assert local["map"] > 0
        assert local["per_class"]
        assert local["confusion"]["pairs"]


def test_a_tuned_model_finds_the_same_whoever_does_it(
    tmp_path: Path, shared: Path, bccd_graph: DetectorGraph
) -> None:
    """By all cores, by some, and by the workers of a cluster."""
    pytest.importorskip("ray")
    write_artifact(bccd_graph, tmp_path / "tuned")
    write_tuned(tmp_path / "tuned", RuntimeOptions(float_precision="bf16"))
    found = []
    ways: tuple[tuple[str, ...], ...] = ((), ("--threads", "1"), ("--engine", "ray"))
    for number, way in enumerate(ways):
        output = tmp_path / f"o{number}"
        images = shared / "data/bccd/images/test"
        options = ("--output", output, "--imgsz", "160", "--max-images", "8", *way)
        done = apart(tmp_path, "predict", "tuned", images, *options)
        assert done.returncode == 0, done.stderr
        assert "bf16" in done.stderr
        found.append(rows_of(output))
    assert any(row["boxes"] for row in found[0])
    assert found == found[:1] * len(ways)


def kill_worker(ancestor: int) -> bool:
    """Kill one worker of a cluster that a process started; False if there is none yet."""
    import psutil

    for process in psutil.Process(ancestor).children(recursive=True):
        try:
            if "MapWorker" in " ".join(process.cmdline()):
                os.kill(process.pid, signal.SIGKILL)
                return True
        except psutil.Error:
            continue
    return False


def test_cluster_that_is_not_there(
    tmp_path: Path, images: Images, ray_arguments: tuple[str, ...]
) -> None:
    images(3)
    missing = apart(tmp_path, *ray_arguments, "--address", "127.0.0.1:1")
    assert missing.returncode == 1
    assert "no cluster at 127.0.0.1:1" in missing.stderr.splitlines()[-1]
