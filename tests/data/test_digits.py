"""The data set that detq makes: what is on disk agrees with itself, and splits share nothing."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from detq.config import read_dataset
from detq.data.dataset import SPLIT_NAMES, load_split
from detq.data.digit_scenes import CLASS_NAMES, MOST_HIDDEN, render_digit
from detq.data.digits import SHARES, make_scene, sources, write_digits
from detq.data.fingerprint import content_overlap, fingerprint
from detq.errors import DataError

COUNT = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    for split in SPLIT_NAMES:
        write_digits(folder, split=split, images=COUNT)
    return folder


def test_same_seed_same_bytes(folder: Path, tmp_path: Path) -> None:
    write_digits(tmp_path / "again", split="test", images=COUNT)
    before = sorted((folder / "images/test").iterdir())
    after = sorted((tmp_path / "again/images/test").iterdir())
    assert [path.read_bytes() for path in before] == [path.read_bytes() for path in after]
    for name in ("annotations/test.json", "labels/test/000003.txt"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_scene_does_not_depend_on_how_many_are_made(folder: Path, tmp_path: Path) -> None:
    write_digits(tmp_path, split="test", images=3)
    for name in ("000000", "000002"):
        short = tmp_path / f"images/test/{name}.jpg"
        assert short.read_bytes() == (folder / f"images/test/{name}.jpg").read_bytes()


def test_other_seed_other_scenes(folder: Path, tmp_path: Path) -> None:
    write_digits(tmp_path, split="test", images=COUNT, seed=1)
    old, new = ([*(root / "images/test").iterdir()] for root in (folder, tmp_path))
    assert not content_overlap(old, new)
    assert fingerprint(old) != fingerprint(new)


@pytest.mark.parametrize("split", SPLIT_NAMES)
def test_coco_json_and_label_files_say_the_same(folder: Path, split: str) -> None:
    config = read_dataset(folder / "data.yaml")
    from_json = load_split(config, split)
    from_labels = load_split(config.model_copy(update={"annotations": {}}), split)
    assert from_json.annotations is not None
    assert from_labels.annotations is not None
    assert len(from_json.images) == COUNT
    assert len(from_json.annotations) == len(from_labels.annotations) > COUNT
    for one, other in zip(from_json.annotations, from_labels.annotations, strict=True):
        assert one.class_id == other.class_id
        np.testing.assert_allclose(one.box_xywh_px, other.box_xywh_px, atol=0.01)


def test_every_size_class_and_digit_occurs() -> None:
    material = sources("test")
    scenes = [make_scene(i, "test", material, seed=0, size_px=256) for i in range(60)]
    objects = [item for scene in scenes for item in scene.objects]
    assert {class_id for class_id, _ in objects} == set(range(10))
    areas = np.array([(x2 - x1) * (y2 - y1) for _, (x1, y1, x2, y2) in objects])
    shares = np.histogram(areas, [0, 32**2, 96**2, 1e9])[0] / len(areas)
    assert (shares > 0.01).all(), shares


def test_boxes_lie_inside_and_hide_little_of_each_other() -> None:
    material = sources("val")
    for index in range(30):
        scene = make_scene(index, "val", material, seed=0, size_px=256)
        boxes = [box for _, box in scene.objects]
        for number, (x1, y1, x2, y2) in enumerate(boxes):
            assert 0 < x1 < x2 < 256
            assert 0 < y1 < y2 < 256
            for a1, b1, a2, b2 in boxes[:number]:
                shared = max(0, min(x2, a2) - max(x1, a1)) * max(0, min(y2, b2) - max(y1, b1))
                smaller = min((x2 - x1) * (y2 - y1), (a2 - a1) * (b2 - b1))
                assert shared <= MOST_HIDDEN * smaller


def test_box_touches_the_ink_on_all_sides() -> None:
    rng = np.random.default_rng(0)
    for number, scan in enumerate(sources("train").scans[:50]):
        opacity = render_digit(rng, scan, height_px=20.0 + 3 * number)
        inked = opacity > 0.3
        assert inked[0].any()
        assert inked[-1].any()
        assert inked[:, 0].any()
        assert inked[:, -1].any()


def test_a_digit_is_about_as_high_as_asked() -> None:
    rng = np.random.default_rng(0)
    scans = sources("train").scans
    for height in (16, 40, 120):
        heights = [render_digit(rng, scan, height).shape[0] for scan in scans[:40]]
        assert 0.8 * height < np.median(heights) < 1.35 * height


def test_handwriting_and_photographs_are_shared_out_by_split() -> None:
    assert sum(SHARES.values()) == pytest.approx(1)
    of = {split: sources(split) for split in SPLIT_NAMES}
    assert sum(len(each.scans) for each in of.values()) == 1797
    written = {split: {scan.ink.tobytes() for scan in each.scans} for split, each in of.items()}
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not written[one] & written[other]
    widths = [photo.shape[1] for each in of.values() for photo in each.photographs]
    assert sum(widths) == 2 * 640
    for each in of.values():
        assert {scan.class_id for scan in each.scans} == set(range(len(CLASS_NAMES)))


def test_yaml_lists_the_splits_that_are_there(tmp_path: Path) -> None:
    config = read_dataset(write_digits(tmp_path, split="val", images=2))
    assert (config.train, config.val, config.test) == (None, "images/val", None)
    config = read_dataset(write_digits(tmp_path, split="test", images=2))
    assert (config.val, config.test) == ("images/val", "images/test")
    assert config.class_names == CLASS_NAMES


def test_split_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    write_digits(tmp_path, split="val", images=2)
    before = (tmp_path / "annotations/val.json").read_bytes()
    with pytest.raises(DataError, match="has a split 'val' already"):
        write_digits(tmp_path, split="val", images=3)
    assert (tmp_path / "annotations/val.json").read_bytes() == before
    assert len([*(tmp_path / "images/val").iterdir()]) == 2


def test_interrupted_run_leaves_no_split(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_digits(tmp_path, split="val", images=5, progress=interrupt)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("options", "words"), [({"split": "best"}, "one of"), ({"size_px": 32}, "too small")]
)
def test_wrong_options_are_refused(tmp_path: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(DataError, match=words):
        write_digits(tmp_path, **{"split": "val", "images": 1, **options})  # type: ignore[arg-type]


def test_scene_can_be_of_another_size(tmp_path: Path) -> None:
    write_digits(tmp_path, split="val", images=1, size_px=640)
    assert cv2.imread(str(tmp_path / "images/val/000000.jpg")).shape == (640, 640, 3)
    document = json.loads((tmp_path / "annotations/val.json").read_text())
    assert document["images"][0]["width"] == 640
