"""Judged in parts, in any order, what is found scores as pycocotools scores all at once."""

from __future__ import annotations

import contextlib
import io
import pickle
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detq.data.annotation import Annotation, Annotations, ImageRecord
from detq.data.dataset import Split
from detq.evaluation import evaluator
from detq.evaluation.coco_map import score_detections, score_matches
from detq.evaluation.evaluator import PROTOCOLS, Run, Truth, score_run
from detq.evaluation.matches import match
from detq.records import Detections, ModelSpec

CLASSES = ("ant", "bee", "cat")
SPEC = ModelSpec("m", "test", CLASSES, strides=(32,), size_hw=(64, 64))
SIDES_PX = st.sampled_from([3.0, 20.0, 33.5, 50.0, 97.0, 200.0])
BOXES = st.tuples(st.integers(0, 40), st.integers(0, 40), SIDES_PX, SIDES_PX)
SCORES = st.sampled_from([0.1, 0.25, 0.5, 0.5, 0.90001])
OBJECTS = st.lists(st.tuples(st.integers(0, 2), BOXES, st.booleans()), max_size=5)
FOUND = st.lists(st.tuples(st.integers(0, 2), BOXES, SCORES), max_size=8)
IMAGES = st.lists(st.tuples(OBJECTS, FOUND), min_size=1, max_size=6)
"""Of each image its objects (class, box, is crowd) and what was found (class, box, score)."""
Images = list[tuple[list[Any], list[Any]]]


def _document(images: Images) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    objects = [(n, *one) for n, (own, _) in enumerate(images, 1) for one in own]
    found = [(n, *one) for n, (_, own) in enumerate(images, 1) for one in own]
    truth = [
        {
            **{"id": number, "image_id": image, "category_id": class_id, "bbox": list(box)},
            **{"area": box[2] * box[3], "iscrowd": int(is_crowd)},
        }
        for number, (image, class_id, box, is_crowd) in enumerate(objects, 1)
    ]
    entries = [
        {"image_id": image, "category_id": class_id, "bbox": list(box), "score": score}
        for image, class_id, box, score in found
    ]
    categories = [{"id": n, "name": name} for n, name in enumerate(CLASSES)]
    document = {"images": [{"id": n + 1} for n in range(len(images))], "categories": categories}
    return {**document, "annotations": truth}, entries


def _by_pycocotools(document: dict[str, Any], entries: list[dict[str, Any]]) -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = COCO(), COCO()
        truth.dataset = document
        found.dataset = {
            **document,
            "annotations": [
                {**one, "id": n, "area": one["bbox"][2] * one["bbox"][3], "iscrowd": 0}
                for n, one in enumerate(entries, 1)
            ],
        }
        truth.createIndex()
        found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def _percent(value: float) -> float | None:
    return None if value < 0 else 100 * float(value)


def _mean(values: np.ndarray) -> float | None:
    known = values[values > -1]
    return _percent(known.mean()) if known.size else None


@given(IMAGES)
@settings(max_examples=60, deadline=None)
def test_scores_are_those_of_pycocotools_bit_for_bit(images: Images) -> None:
    document, entries = _document(images)
    own = score_detections(document, entries)
    theirs = _by_pycocotools(document, entries)
    assert [getattr(own, key) for key in evaluator.SCORES] == [*map(_percent, theirs.stats)]
    for place, one in enumerate(own.per_class.values()):
        precision = theirs.eval["precision"][:, :, place, 0, 2]
        assert one.map == _mean(precision)
        assert one.map50 == _mean(precision[0])
        assert one.mar100 == _mean(theirs.eval["recall"][:, place, 0, 2])
        assert one.precision == (tuple(precision[0]) if one.objects else ())
        assert one.objects == sum(
            item["category_id"] == place and not item["iscrowd"] for item in document["annotations"]
        )


@given(IMAGES, st.integers(1, 6), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_parts_in_any_order_score_as_the_whole(images: Images, size: int, random: Random) -> None:
    """Also images that nothing but their place tells apart."""
    images = [*images, images[0]]
    objects = [(n, *one) for n, (own, _) in enumerate(images, 1) for one in own]
    split = Split(
        "val",
        tuple(ImageRecord(Path(f"{n}.png"), n) for n in range(1, len(images) + 1)),
        CLASSES,
        Annotations(
            Annotation(number, image, class_id, box, box[2] * box[3], is_crowd)
            for number, (image, class_id, box, is_crowd) in enumerate(objects)
        ),
    )
    found = [
        Detections(
            np.array([(x, y, x + w, y + h) for _, (x, y, w, h), _ in own], np.float32).reshape(
                -1, 4
            ),
            np.array([score for *_, score in own], np.float32),
            np.array([class_id for class_id, *_ in own], np.int64),
        )
        for _, own in images
    ]
    detector: Any = SimpleNamespace(spec=SPEC)
    whole = score_run(detector, split, Run(tuple(found), 1.0))
    truth = Truth.of(SPEC, split, PROTOCOLS["yolov6"])
    pieces = []
    for number, part in enumerate(split.parts(size)):
        own = found[number * size : (number + 1) * size]
        pieces.append(pickle.loads(pickle.dumps(truth.match(part, Run(tuple(own), 1.0)))))
    random.shuffle(pieces)
    assert truth.score(pieces) == whole


def test_only_the_hundred_best_of_a_class_in_an_image_count() -> None:
    """Although all images are accumulated as one."""
    box = (0, 0, 50.0, 50.0)
    noise = [(0, (300, 300, 20.0, 20.0), 0.9)] * 100
    images: Images = [([(0, box, False)], [*noise, (0, box, 0.5)]), ([], noise)]
    document, entries = _document(images)
    scores = score_detections(document, entries)
    assert scores.map == _by_pycocotools(document, entries).stats[0] == 0


def test_a_row_takes_few_bytes() -> None:
    document, entries = _document([([], [(0, (0, 0, 9.0, 9.0), 0.5)] * 7)] * 3)
    matches = match(document, entries)
    assert matches.rows.nbytes == 21 * 26
    assert score_matches([matches], dict(enumerate(CLASSES))).map is None
