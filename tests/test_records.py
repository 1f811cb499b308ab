"""Values that say what they are."""

from __future__ import annotations

import copy
import pickle
from dataclasses import asdict, replace

import pytest

from detq.errors import DetqError
from detq.records import Classified, EvalResult, NamedClass, NamedDetection, Prediction

RESULT = EvalResult("small", {"map": 46.5, "map50": None}, 72, 1.5, "int8", 4.7)


def test_scores_are_attributes_and_the_first_counts() -> None:
    assert (RESULT.map, RESULT.map50, RESULT.score) == (46.5, None, 46.5)
    with pytest.raises(
        AttributeError, match=r"no attribute and no score 'top1': \['map', 'map50'\]"
    ):
        _ = RESULT.top1


def test_plain_values_have_each_score_by_its_name() -> None:
    document = RESULT.to_dict()
    expected = ["model", "map", "map50", "images", "seconds", "precision", "size_mb", "data"]
    assert list(document) == expected
    assert document["data"] == asdict(RESULT.data)


@pytest.mark.parametrize(
    "again",
    [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value)), replace],
    ids=["copy", "deepcopy", "pickle", "replace"],
)
def test_copies_are_equal(again: object) -> None:
    assert callable(again)
    assert again(RESULT) == RESULT


@pytest.mark.parametrize(("field", "value"), [("scores", {}), ("images", 0)])
def test_result_of_nothing_is_an_error(field: str, value: object) -> None:
    with pytest.raises(DetqError, match="EvalResult of small"):
        replace(RESULT, **{field: value})


def test_what_was_found_in_an_image_is_told_in_a_line() -> None:
    box = (0.0, 0.0, 1.0, 1.0)
    found = tuple(NamedDetection(label, 0.9, box) for label in ("dog", "cat", "cat"))
    assert Prediction("a.png", found).summary == "2 cat, 1 dog"
    assert Prediction("a.png", ()).summary == "nothing found"
    classes = (NamedClass("cat", 0.931), NamedClass("dog", 0.04))
    assert Classified("a.png", classes).summary == "cat 93.1%, dog 4.0%"
