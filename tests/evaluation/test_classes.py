from __future__ import annotations

import pytest

from detq.errors import DataError
from detq.evaluation.classes import map_classes, with_names_of
from detq.records import ModelSpec, placeholder_names


def _spec(*names: str) -> ModelSpec:
    return ModelSpec("m", "test", names, strides=(32,), size_hw=(32, 32))


def test_classes_meet_by_name_not_by_order() -> None:
    spec = _spec("dog", "horse", "cat")
    assert map_classes(spec, ("cat", "dog"), annotated={0, 1}) == (1, None, 0)


def test_class_without_objects_may_be_unknown_to_the_model() -> None:
    assert map_classes(_spec("cat"), ("cat", "dog"), annotated={0}) == (0,)


def test_annotated_class_unknown_to_the_model_is_an_error_that_lists_it() -> None:
    with pytest.raises(DataError, match="does not know 2 of the data set's classes: cat, ox"):
        map_classes(_spec("dog"), ("cat", "dog", "ox"), annotated={0, 1, 2})


def test_unnamed_classes_are_taken_by_order() -> None:
    unnamed = _spec(*placeholder_names(2))
    assert map_classes(unnamed, ("cat", "dog"), annotated={0}) == (0, 1)
    with pytest.raises(DataError, match="2 unnamed classes, the data set 3"):
        map_classes(unnamed, ("cat", "dog", "ox"), annotated={0})
    named = _spec("dog", "cat")
    assert map_classes(named, placeholder_names(2), annotated={0}) == (0, 1)
    with pytest.raises(DataError, match="has 2 classes, the data set 3 unnamed"):
        map_classes(named, placeholder_names(3), annotated={0})


def test_two_classes_of_one_name_are_told_apart_by_number() -> None:
    """ImageNet has two cranes; the first of the model is the first of the data set."""
    cranes = ("crane", "dog", "crane")
    assert map_classes(_spec(*cranes), cranes, annotated={0, 1, 2}) == (0, 1, 2)
    assert map_classes(_spec("dog", "crane", "crane"), cranes, annotated={0}) == (1, 0, 2)


def test_namesakes_of_another_number_are_an_error_if_they_have_objects() -> None:
    with pytest.raises(DataError, match="has 1 classes called 'crane', the data set 2"):
        map_classes(_spec("crane", "dog"), ("crane", "crane"), annotated={1})
    assert map_classes(_spec("crane", "dog"), ("crane", "crane", "dog"), annotated={2}) == (None, 2)


def test_placeholders_take_the_names_of_a_data_set_with_as_many_classes() -> None:
    unnamed = _spec(*placeholder_names(2))
    assert with_names_of(unnamed, ("cat", "dog")).class_names == ("cat", "dog")
    assert with_names_of(unnamed, ("cat", "dog", "ox")) == unnamed
    named = _spec("a", "b")
    assert with_names_of(named, ("cat", "dog")) == named


def test_numbers_for_names_are_placeholders_unless_the_data_set_has_them() -> None:
    spec = ModelSpec("m", "test", ("0", "1", "2"), (8,), (32, 32))
    assert map_classes(spec, ("a", "b", "c"), annotated={2}) == (0, 1, 2)
    assert with_names_of(spec, ("a", "b", "c")).class_names == ("a", "b", "c")
    assert map_classes(spec, ("2", "1", "0"), annotated={0}) == (2, 1, 0)
    assert with_names_of(spec, ("2", "1", "0")) == spec
