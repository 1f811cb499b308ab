"""The bootstrap's average precision is that of a data set in which images are repeated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_matches import BOXES, OBJECTS, Images, _by_pycocotools, _document

from detq.errors import DataError
from detq.evaluation.coco_map import score_matches
from detq.evaluation.matches import Matches, match
from detq.evaluation.resampling import (
    ImageMatches,
    average_precisions,
    draw,
    interval,
    mean_over_classes,
)

SCORES = st.integers(1, 20)
"""Equal ones are made different in :func:`_apart`, but for those of different images."""
FOUND = st.lists(st.tuples(st.integers(0, 2), BOXES, SCORES), max_size=8)
IMAGES = st.lists(st.tuples(OBJECTS, FOUND), min_size=1, max_size=6)


def _apart(images: Images) -> Images:
    """Within an image no two scores are equal; across images they may be."""
    return [
        (objects, [(*one[:2], one[2] / 100 + n / 10000) for n, one in enumerate(found)])
        for objects, found in images
    ]


def _parts(images: Images) -> list[Matches]:
    """Each image alone; its place in the list is its key."""
    return [
        match(*_document([image]), keys=[n.to_bytes(8, "big")]) for n, image in enumerate(images)
    ]


@given(IMAGES, st.data())
@settings(max_examples=60, deadline=None)
def test_weighted_images_score_as_repeated_ones(images: Images, data: st.DataObject) -> None:
    images = _apart(images)
    counts = data.draw(st.lists(st.integers(0, 3), min_size=len(images), max_size=len(images)))
    repeated = [image for image, count in zip(images, counts, strict=True) for _ in range(count)]
    found = average_precisions(ImageMatches.of(_parts(images)), np.array([counts]))
    if not repeated:
        assert np.isnan(found).all()
        return
    precision = _by_pycocotools(*_document(repeated)).eval["precision"][..., 0, 2]
    for place in range(3):
        own, theirs = found[0, place], precision[:, :, place]
        if theirs.max(initial=-1) < 0:
            assert np.isnan(own)
        else:
            assert own == pytest.approx(100 * theirs.mean(), abs=1e-9)
    known = precision[precision > -1]
    if known.size:
        assert mean_over_classes(found)[0] == pytest.approx(100 * known.mean(), abs=1e-9)


@given(IMAGES)
@settings(max_examples=30, deadline=None)
def test_every_image_once_is_the_evaluation(images: Images) -> None:
    parts = _parts(_apart(images))
    found = average_precisions(ImageMatches.of(parts), np.ones((1, len(parts)), np.int64))
    whole = score_matches(parts, {0: "ant", 1: "bee", 2: "cat"})
    if whole.map is None:
        assert np.isnan(mean_over_classes(found)[0])
    else:
        assert mean_over_classes(found)[0] == pytest.approx(whole.map, abs=1e-9)


def test_resamples_in_pieces_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    image = ([(0, (0, 0, 20.0, 20.0), False)], [(0, (0, 0, 20.0, 20.0), 0.5)])
    empty = ([], [(0, (0, 0, 20.0, 20.0), 0.6)])
    matches = ImageMatches.of(_parts([image, empty, image]))
    weights = draw(3, resamples=40)
    whole = average_precisions(matches, weights)
    assert np.isnan(whole[weights[:, [0, 2]].sum(axis=1) == 0, 0]).all()
    monkeypatch.setattr("detq.evaluation.resampling._MOST_VALUES", 7)
    np.testing.assert_array_equal(average_precisions(matches, weights), whole)


def test_draws_as_many_images_as_there_are() -> None:
    weights = draw(5, resamples=200, seed=1)
    assert weights.shape == (200, 5)
    assert (weights.sum(axis=1) == 5).all()
    assert not np.array_equal(weights, draw(5, resamples=200, seed=2))


def test_interval_leaves_out_resamples_without_objects() -> None:
    values = np.array([*range(101), np.nan])
    assert interval(values, percent=90) == pytest.approx((5, 95))
    with pytest.raises(DataError, match="no resample"):
        interval(np.array([np.nan]))


def test_wants_one_image_at_a_time() -> None:
    parts = _parts([([], []), ([], [])])
    with pytest.raises(DataError, match="one image"):
        ImageMatches.of([match(*_document([([], []), ([], [])]))])
    with pytest.raises(DataError, match="weights"):
        average_precisions(ImageMatches.of(parts), np.ones((4, 3), np.int64))
