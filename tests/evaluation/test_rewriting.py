"""However a data set is written down, the mAP is the same to the last digit."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from detq.data.dataset import load_split
from detq.data.images import read_image_bgr
from detq.data.layouts import read_data
from detq.evaluation.coco_map import CocoScores
from detq.evaluation.evaluator import Run, score_run
from detq.evaluation.protocol import PROTOCOLS
from detq.records import Detections, ModelSpec

SIDE = 64
CLASSES = ("ant", "bee", "true", "3.10")
SPEC = ModelSpec("m", "test", (*CLASSES, "never seen"), strides=(32,), size_hw=(SIDE, SIDE))


@dataclass(frozen=True)
class Scene:
    """An image, and its objects: class, left, top, width, height in pixels."""

    pixels: np.ndarray[Any, np.dtype[np.uint8]]
    objects: tuple[tuple[int, int, int, int, int], ...]


def _scenes() -> tuple[Scene, ...]:
    """Half of them without an object; two with the same objects."""
    rng = np.random.default_rng(0)
    scenes = []
    for number in range(8):
        corners = rng.integers(0, SIDE // 2, (3 * (number % 2 + number % 3), 2))
        sizes = rng.integers(4, SIDE // 2, corners.shape)
        ids = rng.integers(0, len(CLASSES), len(corners))
        rows = np.concatenate([ids[:, None], corners, sizes], axis=1).tolist()
        pixels = rng.integers(0, 255, (SIDE, SIDE, 3), np.uint8)
        scenes.append(Scene(pixels, tuple(map(tuple, rows))))
    return (*scenes, Scene(255 - scenes[1].pixels, scenes[1].objects))


SCENES = _scenes()


def _found_in(scene: Scene, number: int) -> Detections:
    """Boxes near the objects, and others; scores of two values, so that images tie."""
    rng = np.random.default_rng(number)
    boxes, ids = [], []
    for class_id, left, top, width, height in (*scene.objects, *SCENES[5].objects[:2]):
        boxes.append(np.add([left, top, left + width, top + height], rng.integers(-3, 4, 4)))
        ids.append(class_id if rng.random() < 0.8 else 4)
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.sort(rng.choice([0.3, 0.6], len(ids)).astype(np.float32))[::-1].copy(),
        np.array(ids, np.int64),
    )


FOUND = {scene.pixels.tobytes(): _found_in(scene, i) for i, scene in enumerate(SCENES)}


def _score(data: Path) -> CocoScores:
    """As ``detq eval --preset coco`` does, with detections that depend on the pixels alone."""
    split = load_split(read_data(data), "val")
    found = [FOUND[read_image_bgr(path).tobytes()] for path in split.paths]
    detector: Any = SimpleNamespace(spec=SPEC)
    return score_run(detector, split, Run(tuple(found), 1.0), protocol=PROTOCOLS["coco"])


@dataclass(frozen=True)
class Manner:
    """One way to write a data set down."""

    labels: str
    image_format: str
    encoding: str
    line_end: str
    seed: int
    nested: bool
    linked: str
    listed: bool
    repeated: bool


MANNERS = st.builds(
    Manner,
    labels=st.sampled_from(["yolo", "coco", "coco alone", "voc"]),
    image_format=st.sampled_from([".png", ".bmp", ".tiff", ".PNG"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    seed=st.integers(0, 2**32),
    nested=st.booleans(),
    linked=st.sampled_from(["", "folder", "files"]),
    listed=st.booleans(),
    repeated=st.booleans(),
)
PLAIN = Manner("yolo", ".png", "utf-8", "\n", 0, False, "", False, False)


class Writer:
    """Writes the scenes down in some manner; ``data`` is what ``--data`` names then."""

    def __init__(self, folder: Path, manner: Manner) -> None:
        self.folder, self.manner, self.random = folder, manner, Random(manner.seed)
        self.images = folder / "images"
        self.order = self.random.sample(range(len(CLASSES)), len(CLASSES))
        self.files = self._write_images()
        {"yolo": self._yolo, "coco": self._coco, "coco alone": self._coco, "voc": self._voc}[
            manner.labels
        ]()
        self._link()
        self.data = folder / "val.json" if manner.labels == "coco alone" else self._yaml()

    def _write_images(self) -> dict[Path, Scene]:
        """Names in another order than the scenes; ``manner.seed`` 0 keeps it."""
        names = [f"{number:03} é{number}" for number in range(len(SCENES))]
        if self.manner.seed:
            self.random.shuffle(names)
        files = {}
        for name, scene in zip(names, SCENES, strict=True):
            inside = f"part {len(name) + int(name[:3]) % 2}/" if self.manner.nested else ""
            file = self.images / f"{inside}{name}{self.manner.image_format}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(cv2.imencode(file.suffix.lower(), scene.pixels)[1].tobytes())
            files[file] = scene
        return files

    def _text(self, path: Path, lines: list[str]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        end = self.manner.line_end
        path.write_bytes((end.join(lines) + end).encode(self.manner.encoding))

    def _shuffled(self, objects: Any) -> list[Any]:
        mixed = list(objects)
        self.random.shuffle(mixed)
        return mixed

    def _yolo(self) -> None:
        for file, scene in self.files.items():
            lines = []
            for class_id, left, top, width, height in self._shuffled(scene.objects):
                numbers = (left + width / 2, top + height / 2, width, height)
                shares = " ".join(repr(number / SIDE) for number in numbers)
                lines.append(f"{self.order.index(class_id)} {shares}")
            if self.manner.repeated:
                lines += lines[:2]
            if lines or self.random.random() < 0.5:  # a missing file says the same as an empty one
                label = self.folder / "labels" / file.relative_to(self.images)
                self._text(label.with_suffix(".txt"), lines)

    def _coco(self) -> None:
        ids = self.random.sample(range(1, 1000), len(SCENES))
        separator = self.random.choice(["/", "\\"])
        numbers = self._shuffled(range(1, 1000))
        images, objects = [], []
        for image_id, (file, scene) in zip(ids, self.files.items(), strict=True):
            name = separator.join(file.relative_to(self.images).parts)
            images.append({"id": image_id, "file_name": name})
            for class_id, *box in scene.objects:
                objects.append(
                    {
                        "id": numbers.pop(),
                        "image_id": self.random.choice([image_id, str(image_id), float(image_id)]),
                        "category_id": 10 + self.order.index(class_id),
                        "bbox": box,
                    }
                )
        names: list[Any] = [CLASSES[index] for index in self.order]
        names = [True if name == "true" else name for name in names]
        root = {"id": 0, "name": "insects", "supercategory": "none"}
        document = {
            "images": self._shuffled(images),
            "annotations": self._shuffled(objects),
            "categories": self._shuffled(
                [root]
                + [
                    {"id": 10 + number, "name": name, "supercategory": "insects"}
                    for number, name in enumerate(names)
                ]
            ),
        }
        self._text(self.folder / "val.json", [json.dumps(document)])

    def _voc(self) -> None:
        for file, scene in self.files.items():
            lines = ["<annotation>"]
            for class_id, left, top, width, height in self._shuffled(scene.objects):
                corners = (left + 1, top + 1, left + width, top + height)
                tags = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
                box = "".join(f"<{tag}>{pixel}</{tag}>" for tag, pixel in tags)
                name = f"<name>{CLASSES[class_id]}</name>"
                lines.append(f"<object>{name}<bndbox>{box}</bndbox></object>")
            self._text(self.folder / f"Annotations/{file.stem}.xml", [*lines, "</annotation>"])

    def _link(self) -> None:
        if self.manner.linked == "folder":
            self.images.rename(self.folder / "elsewhere")
            self.images.symlink_to("elsewhere")
        elif self.manner.linked == "files":
            for number, file in enumerate(self.files):
                target = self.folder / "elsewhere" / str(number)
                target.parent.mkdir(exist_ok=True)
                file.rename(target)
                file.symlink_to(target)

    def _yaml(self) -> Path:
        names = {number: CLASSES[index] for number, index in enumerate(self.order)}
        document: dict[str, Any] = {"path": ".", "val": "images", "names": names}
        if self.manner.listed:
            document["val"] = "val.txt"
            lines = [f"./{file.relative_to(self.folder)}" for file in self._shuffled(self.files)]
            self._text(self.folder / "val.txt", lines)
        if self.manner.labels != "yolo":
            place = "Annotations" if self.manner.labels == "voc" else "val.json"
            document["annotations"] = {"val": place}
        path = self.folder / "any.yaml"
        lines = yaml.safe_dump(document, allow_unicode=True).splitlines()
        self._text(
            path, [line.replace("'true'", "true").replace("'3.10'", "3.10") for line in lines]
        )
        return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CocoScores]:
    yield _score(Writer(tmp_path_factory.mktemp("plain"), PLAIN).data)


def test_plain_scores_say_something(plain: CocoScores) -> None:
    assert plain.map is not None
    assert 5 < plain.map < 95


@given(manner=MANNERS)
@settings(max_examples=60)
def test_a_harmless_rewriting_leaves_the_map_as_it_is(plain: CocoScores, manner: Manner) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = _score(Writer(Path(folder), manner).data)
    assert found == plain
