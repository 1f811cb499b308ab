from __future__ import annotations

import numpy as np
import pytest

from detq.errors import DataError, DetqError
from detq.evaluation.top_k import same_top1, top_percent
from detq.records import Ranking
from detq.runtime.classifier import rank


def _rankings(*orders: tuple[int, ...]) -> list[Ranking]:
    return [
        Ranking(np.array(order), np.linspace(0.5, 0.1, len(order), dtype=np.float32))
        for order in orders
    ]


def test_top1_and_top5_count_as_their_names_say() -> None:
    rankings = _rankings((3, 1, 2), (1, 3, 2), (2, 1, 0), (0, 1, 2))
    labels = [3, 3, 3, 0]
    assert top_percent(rankings, labels, best=1) == 50.0
    assert top_percent(rankings, labels, best=2) == 75.0
    assert top_percent(rankings, labels, best=5) == 75.0


def test_agreement_compares_the_best_class_alone() -> None:
    one, two = _rankings((3, 1), (1, 3)), _rankings((3, 0), (3, 1))
    assert same_top1(one, two) == 50.0
    assert same_top1(one, one) == 100.0


def test_numbers_of_images_must_be_equal() -> None:
    with pytest.raises(DataError, match="2 rankings, but classes of 1 images"):
        top_percent(_rankings((1,), (2,)), [1], best=1)
    with pytest.raises(DataError, match="0 images"):
        top_percent([], [], best=1)


def test_a_ranking_is_the_five_best_and_the_first_of_equals() -> None:
    scores = np.array([0.1, 0.3, 0.3, 0.05, 0.15, 0.06, 0.04], np.float32)
    ranking = rank(scores)
    assert ranking.class_ids.tolist() == [1, 2, 4, 0, 5]
    np.testing.assert_array_equal(ranking.scores, scores[ranking.class_ids])
    assert [named.label for named in ranking.named("abcdefg")][:2] == ["b", "c"]


def test_a_ranking_checks_itself() -> None:
    with pytest.raises(DetqError, match="class_ids and scores of one shape"):
        Ranking(np.array([1, 2]), np.ones(3, np.float32))
