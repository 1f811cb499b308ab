"""Read ground truth from a COCO instances JSON, as its many writers write it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from detq.data.annotation import Annotation, Annotations, GroundTruth, ImageRecord
from detq.data.coco_file import CocoCategory, CocoFile, CocoImage, CocoObject, as_text
from detq.data.file_names import matching_images, normal_name
from detq.errors import DataError, shown
from detq.records import DataCounts

LARGEST_ID = 2**63 - 1
"""Larger numbers are replaced, as names are."""


def read_coco(
    json_file: Path, *, image_files: Sequence[Path], class_names: Sequence[str]
) -> GroundTruth:
    """COCO JSON -> its images, found among ``image_files``, and their objects.

    Category ids may be any numbers: they become indices into ``class_names`` by the category's
    name, and by their order among categories of one name. An image that the JSON does not list is
    left out, because nothing is known about it. An object without ``bbox`` has the box around its
    polygons. Boxes that reach beyond the image, or have no area, stay as they are: so it is in
    pycocotools.

    Raises DataError for a malformed file, an image that is missing on disk or listed twice, and an
    object of an unknown image, an unknown category or a category outside ``class_names``.
    """
    file = CocoFile(json_file)
    images = _find_images(json_file, file.images(), image_files)
    categories = file.categories()
    _check_unique(json_file, "categories", [item.id for item in categories])
    objects = _Objects(images, {item.id: index for index, item in enumerate(categories)})
    annotations = Annotations(objects.read(file))
    used = {categories[index].id for index in annotations.class_ids}
    classes = _classes(json_file, categories, used, class_names)
    rows = annotations.rows
    for index, known in enumerate(classes):
        if isinstance(known, str) and categories[index].id in used:
            first = int(np.argmax(rows["class_id"] == index))
            raise DataError(
                f"{json_file}: annotations[{first}]: category {known!r} is not a class of the data "
                "set; add it to `names` in the YAML"
            )
    class_ids = [-1 if isinstance(known, str) else known for known in classes]
    rows["class_id"] = np.array(class_ids, np.int32)[rows["class_id"]]
    if objects.are_numbered:
        _check_unique(json_file, "annotations", rows["annotation_id"].tolist())
    else:
        rows["annotation_id"] = np.arange(1, len(rows) + 1)
    unlisted = len(set(image_files) - {image.path for image in images.values()})
    return GroundTruth(tuple(images.values()), annotations, DataCounts(unlisted_images=unlisted))


def read_coco_header(json_file: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The classes of a COCO JSON in the order of their ids, and the images that it lists.

    A root category, which has no objects and is but the super category of others, is no class.
    Raises DataError for a malformed file.
    """
    file = CocoFile(json_file)
    categories, used = file.categories(), {item.category_id for item in file.objects()}
    parents = {
        as_text(each.supercategory)
        for each in categories
        if as_text(each.supercategory) != each.name
    }
    names = tuple(
        category.name
        for category in _by_id(categories)
        if category.id in used or category.name not in parents
    )
    return names, tuple(image.file_name for image in file.images())


def read_coco_ids(json_file: Path) -> tuple[dict[str, int | str], dict[str, int | str]]:
    """Of a COCO JSON: image ids by file name, category ids by name. Raises DataError."""
    file = CocoFile(json_file)
    images = {normal_name(image.file_name): image.id for image in file.images()}
    return images, {category.name: category.id for category in file.categories()}


class _Objects:
    """Reads objects; their classes are indices into the file's categories.

    ``are_numbered`` is False, once all are read, if they have no ids that are whole numbers.
    """

    def __init__(
        self, images: Mapping[int | str, ImageRecord], category_ids: Mapping[int | str, int]
    ) -> None:
        self.are_numbered = True
        self._images, self._category_ids = images, category_ids

    def read(self, file: CocoFile) -> Iterator[Annotation]:
        """Raises DataError."""
        for index, item in enumerate(file.objects()):
            try:
                yield self._annotation(item)
            except DataError as error:
                raise DataError(f"{file.path}: annotations[{index}]: {error}") from None

    def _annotation(self, item: CocoObject) -> Annotation:
        if item.image_id not in self._images:
            raise DataError(f"image_id {shown(item.image_id)} is not among the images")
        category = self._category_ids.get(item.category_id)
        if category is None:
            raise DataError(f"category_id {shown(item.category_id)} is not among the categories")
        box = item.bbox or _box_around(item.segmentation)
        if len(box) != 4:
            raise DataError(f"bbox: expected left, top, width, height, got {len(box)} numbers")
        left, top, width, height = box
        is_number = _is_number(item.id)
        self.are_numbered &= is_number
        return Annotation(
            annotation_id=int(item.id or 0) if is_number else 0,
            image_id=self._images[item.image_id].image_id,
            class_id=category,
            box_xywh_px=(left, top, width, height),
            area_px=width * height if item.area is None else item.area,
            is_crowd=item.iscrowd,
        )


def _is_number(value: int | str | None) -> bool:
    return isinstance(value, int) and abs(value) <= LARGEST_ID


def _box_around(segmentation: object) -> list[float]:
    """The box around polygons ``[[x1, y1, x2, y2, …], …]`` in pixels: left, top, width, height.

    Raises DataError for anything else: where the object lies is not said, then.
    """
    polygons = segmentation if isinstance(segmentation, list) else []
    try:
        numbers = [float(number) for polygon in polygons for number in polygon]
    except (TypeError, ValueError):
        numbers = []
    if not numbers or len(numbers) % 2:
        raise DataError("neither a bbox nor polygons that say where the object lies")
    left, top = min(numbers[::2]), min(numbers[1::2])
    return [left, top, max(numbers[::2]) - left, max(numbers[1::2]) - top]


def _find_images(
    json_file: Path, images: Sequence[CocoImage], image_files: Sequence[Path]
) -> dict[int | str, ImageRecord]:
    """Id in the JSON -> image; ids that are no numbers are replaced by some."""
    by_name: dict[str, list[Path]] = defaultdict(list)
    for path in image_files:
        by_name[normal_name(path.name)].append(path)
    _check_unique(json_file, "images", [image.id for image in images])
    numbered = all(_is_number(image.id) for image in images)
    id_of: dict[Path, int | str] = {}
    found = {}
    for number, image in enumerate(images, start=1):
        path = _find_image(json_file, image.file_name, by_name)
        if path in id_of:
            raise DataError(
                f"{json_file}: images {id_of[path]} and {image.id} are the same file {path}"
            )
        id_of[path] = image.id
        found[image.id] = ImageRecord(path, int(image.id) if numbered else number)
    return found


def _find_image(json_file: Path, file_name: str, by_name: Mapping[str, Sequence[Path]]) -> Path:
    found = matching_images(file_name, by_name)
    if not found:
        raise DataError(
            f"{json_file}: image {file_name!r} is not among the split's images; "
            "complete the folder, or correct the split's path in the data set's YAML"
        )
    if len(found) > 1:
        raise DataError(f"{json_file}: image {file_name!r} may be {found[0]} or {found[1]}")
    return found[0]


def _classes(
    json_file: Path,
    categories: Sequence[CocoCategory],
    used: Collection[int | str],
    class_names: Sequence[str],
) -> list[int | str]:
    """Of each category the index into ``class_names``, or its name if it is no class there.

    The first category of a name is the first class of that name. Categories without objects
    (``used`` are those with some) do not count where there are too many: a root category may be
    called like one of its children.
    """
    ordered = _by_id(categories)
    class_ids: dict[int | str, int | str] = {}
    for name, namesakes in _grouped(ordered).items():
        indices = [index for index, known in enumerate(class_names) if known == name]
        alike = namesakes
        if len(alike) != len(indices):
            alike = [item for item in namesakes if item.id in used]
        if alike and indices and len(alike) != len(indices):
            raise DataError(
                f"{json_file}: {len(alike)} categories have the name {name!r}, and "
                f"{len(indices)} classes of the data set; expected as many"
            )
        class_ids.update({item.id: name for item in namesakes})
        class_ids.update({item.id: index for item, index in zip(alike, indices, strict=False)})
    return [class_ids[item.id] for item in categories]


def _grouped(categories: Sequence[CocoCategory]) -> dict[str, list[CocoCategory]]:
    groups: dict[str, list[CocoCategory]] = defaultdict(list)
    for item in categories:
        groups[item.name].append(item)
    return groups


def _by_id(categories: Sequence[CocoCategory]) -> list[CocoCategory]:
    return sorted(categories, key=lambda item: (isinstance(item.id, str), item.id))


def _check_unique(json_file: Path, part: str, values: Sequence[int | str]) -> None:
    if len(set(values)) < len(values):
        value, count = Counter(values).most_common(1)[0]
        raise DataError(f"{json_file}: {count} {part} have the id {value!r}; expected one")
