"""Which class of the data set each class of a model means."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace

from detq.errors import DataError
from detq.records import ModelSpec, placeholder_names


def map_classes(
    spec: ModelSpec, class_names: Sequence[str], *, annotated: Collection[int]
) -> tuple[int | None, ...]:
    """Model class -> index into the data set's ``class_names`` with the same name, None if absent.

    Of several classes of one name, the first means the first. Where the model or the data set names
    no classes, they are taken by order if the numbers agree. ``annotated`` are the data set's
    classes that have objects: raises DataError if the model cannot find one of them, because its
    mAP would then mean something else.
    """
    unnamed = tuple(class_names) == placeholder_names(len(class_names))
    if spec.has_placeholder_names or unnamed or _only_numbered(spec, class_names):
        if spec.class_count != len(class_names):
            raise DataError(
                f"{spec.name}: has {spec.class_count} {'' if unnamed else 'unnamed '}classes, the "
                f"data set {len(class_names)}{' unnamed' if unnamed else ''}; evaluate it on the "
                "data that it was trained for"
            )
        return tuple(range(spec.class_count))
    wanted = [class_names[index] for index in sorted(annotated)]
    missing = [name for name in wanted if name not in spec.class_names]
    if missing:
        raise DataError(
            f"{spec.name}: does not know {len(missing)} of the data set's classes: "
            f"{', '.join(missing)}; its own are: {', '.join(spec.class_names)}"
        )
    theirs, ours = Counter(class_names), Counter(spec.class_names)
    for name in wanted:
        if theirs[name] != ours[name]:
            raise DataError(
                f"{spec.name}: has {ours[name]} classes called {name!r}, the data set "
                f"{theirs[name]}: which is which? Give them different names"
            )
    indices = defaultdict[str, list[int]](list)
    for index, name in enumerate(class_names):
        if theirs[name] == ours[name]:
            indices[name].append(index)
    return tuple(indices[name].pop(0) if indices[name] else None for name in spec.class_names)


def with_names_of(spec: ModelSpec, class_names: Sequence[str]) -> ModelSpec:
    """The spec with a data set's class names in place of placeholders, if there are as many."""
    unnamed = spec.has_placeholder_names or _only_numbered(spec, class_names)
    if not unnamed or spec.class_count != len(class_names):
        return spec
    return replace(spec, class_names=tuple(class_names))


def _only_numbered(spec: ModelSpec, class_names: Sequence[str]) -> bool:
    """True if the model's classes are called 0, 1, 2, …, as exporters do that know no names, and
    none of the data set's is a number of these.
    """
    numbers = tuple(map(str, range(spec.class_count)))
    return spec.class_names == numbers and set(numbers).isdisjoint(class_names)
