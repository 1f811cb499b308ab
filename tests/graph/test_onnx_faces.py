"""Face detectors with landmarks, SCRFD and YuNet, against ONNX Runtime, numpy and OpenCV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx_detectors import SIZE_HW, STRIDES, Array, Builder, network, raw_maps, save, sigmoid

from detq.errors import CheckpointError
from detq.graph.execute import compile_exact
from detq.graph.foreign import from_onnx
from detq.runtime.detector import Detector
from detq.runtime.postprocess import PostprocessOptions

IMAGE = np.random.default_rng(1).random((1, 3, *SIZE_HW), np.float32)


@dataclass(frozen=True)
class Face:
    """One family's outputs: ``parts`` are name and columns of each prediction."""

    parts: tuple[tuple[str, int], ...]
    per_cell: int
    bias: float

    @property
    def columns(self) -> int:
        return self.per_cell * sum(columns for _, columns in self.parts)


SCRFD = Face((("score", 1), ("bbox", 4), ("kps", 10)), 2, 1.5)
SCRFD_BARE = Face((("score", 1), ("bbox", 4)), 2, 1.5)
YUNET = Face((("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)), 1, 0.0)


def _outputs(build: Builder, face: Face, raw: Sequence[str], *, batched: bool) -> list[str]:
    """All scores, then all boxes, then all landmarks, as both exporters order them."""
    ends: dict[str, list[str]] = {name: [] for name, _ in face.parts}
    for value, stride in zip(raw, STRIDES, strict=True):
        sizes = [columns * face.per_cell for _, columns in face.parts]
        for (name, columns), part in zip(face.parts, build.split(value, sizes, 1), strict=True):
            last = build.transpose(part, [0, 2, 3, 1])
            flat = build.reshape(last, [1, -1, columns] if batched else [-1, columns])
            if columns == 1:
                flat = build.add("Sigmoid", [flat])
            elif face.bias and name == "bbox":
                flat = build.add("Add", [flat, build.constant(face.bias)])
            ends[name].append(build.called(flat, f"{name}_{stride}"))
    return [end for each in ends.values() for end in each]


def _build(face: Face, path: Path, *, batched: bool = True, **options: str) -> tuple[Path, Path]:
    files = []
    for name in (path.name, f"raw_{path.name}"):
        build = Builder(named=True)
        image = options.get("image", "images")
        raw = network(build, image, columns=face.columns, head="head", focus=False, pixels=128.0)
        ends = _outputs(build, face, raw, batched=batched) if name == path.name else raw
        files.append(save(build, path.with_name(name), ends, image=image))
    return files[0], files[1]


def _expected(face: Face, maps: Sequence[Array]) -> Array:
    """[1, 5, N], by the families' own post-processing."""
    tables = []
    for level, stride in zip(maps, STRIDES, strict=True):
        height, width = level.shape[2:]
        ends = np.cumsum([columns * face.per_cell for _, columns in face.parts])[:-1]
        found = {
            name: part.transpose(0, 2, 3, 1).reshape(height * width * face.per_cell, -1)
            for (name, _), part in zip(face.parts, np.split(level, ends, 1), strict=True)
        }
        y, x = np.mgrid[:height, :width]
        corner = np.repeat(np.stack((x, y), -1).reshape(-1, 2), face.per_cell, 0)
        box = found["bbox"] + face.bias
        if "obj" in found:
            score = np.sqrt(sigmoid(found["cls"]) * sigmoid(found["obj"]))
            boxes = np.concatenate([corner + box[:, :2], np.exp(box[:, 2:])], 1) * stride
        else:
            score = sigmoid(found["score"])
            low = corner * stride - box[:, :2] * stride
            high = corner * stride + box[:, 2:] * stride
            boxes = np.concatenate([(low + high) / 2, high - low], 1)
        tables.append(np.concatenate([boxes, score], 1))
    return np.concatenate(tables).T[None].astype(np.float32)


def _rgb_128(rgb: Array) -> Array:
    return (rgb * np.float32(255) - np.float32(127.5)) / np.float32(128)


def _bgr_255(rgb: Array) -> Array:
    return np.ascontiguousarray(rgb[:, ::-1]) * np.float32(255)


@pytest.mark.parametrize("batched", [True, False], ids=["batch", "no batch"])
@pytest.mark.parametrize(
    ("face", "family"),
    [(SCRFD, "scrfd"), (SCRFD_BARE, "scrfd"), (YUNET, "yunet")],
    ids=["scrfd", "scrfd without landmarks", "yunet"],
)
def test_faces_are_what_the_network_means(
    tmp_path: Path, face: Face, family: str, batched: bool
) -> None:
    path, raw = _build(face, tmp_path / "tiny.onnx", batched=batched)
    graph = from_onnx(path)
    assert graph.spec.family == family
    assert graph.spec.class_names == ("face",)
    assert graph.spec.fit == "corner-black"
    assert graph.spec.strides == STRIDES
    assert not graph.spec.end_to_end
    pixels = _rgb_128(IMAGE) if family == "scrfd" else _bgr_255(IMAGE)
    found = np.asarray(compile_exact(graph.model)(IMAGE)[0])
    expected = _expected(face, raw_maps(raw, pixels))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_yunet_finds_what_opencv_finds(tmp_path: Path) -> None:
    """OpenCV's own FaceDetectorYN reads the same file; it rounds boxes before it suppresses."""
    path, _ = _build(YUNET, tmp_path / "tiny.onnx", image="input")
    onnx.save(onnx.shape_inference.infer_shapes(onnx.load(path)), path)  # OpenCV wants them said
    height, width = SIZE_HW
    image = np.random.default_rng(2).integers(0, 256, (height, width, 3), np.uint8)
    theirs = cv2.FaceDetectorYN.create(str(path), "", (width, height), 0.4, 1.0, 5000)
    _, faces = theirs.detect(image)
    options = PostprocessOptions(confidence=0.4, iou=1.0, max_detections=300)
    found = Detector(from_onnx(path), postprocess=options).detect(image)
    order = np.argsort(-faces[:, 14], kind="stable")
    np.testing.assert_allclose(found.scores, faces[order, 14], atol=1e-3)
    low, size = faces[order, :2], faces[order, 2:4]
    corners = np.clip(np.concatenate([low, low + size], 1), 0, [width, height, width, height])
    np.testing.assert_allclose(found.boxes_xyxy_px, corners, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("face", [SCRFD, YUNET], ids=["scrfd", "yunet"])
def test_another_size_is_what_an_export_for_it_is(tmp_path: Path, face: Face) -> None:
    path, _ = _build(face, tmp_path / "tiny.onnx")
    build = Builder(named=True, size_hw=(128, 64))
    raw = network(build, "images", columns=face.columns, head="head", focus=False, pixels=128.0)
    other = save(build, tmp_path / "other.onnx", _outputs(build, face, raw, batched=True))
    image = np.random.default_rng(2).random((1, 3, 128, 64), np.float32)
    found, expected = (
        np.asarray(compile_exact(graph.model)(image)[0])
        for graph in (from_onnx(path, size_hw=(128, 64)), from_onnx(other))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_levels_that_do_not_belong_together_are_an_error(tmp_path: Path) -> None:
    """The landmarks of one level are missing."""
    build = Builder(named=True)
    raw = network(build, "images", columns=SCRFD.columns, head="head", focus=False)
    ends = _outputs(build, SCRFD, raw, batched=True)
    path = save(build, tmp_path / "tiny.onnx", ends[:-1])
    with pytest.raises(CheckpointError, match="are of no known layout"):
        from_onnx(path)
