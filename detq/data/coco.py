"""Read ground truth from a COCO instances JSON, as its many writers write it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from detq.data.annotation import Annotation, GroundTruth, ImageRecord
from detq.data.file_names import matching_images, normal_name
from detq.errors import DataError, shown
from detq.files import read_text
from detq.records import DataCounts

MAX_JSON_BYTES = 2 << 30
"""COCO's own of train2017 have 450 MB."""


def _id(value: Any) -> Any:
    """``"1"`` and ``1.0`` are 1; other text stays: some programs number images by a hash."""
    if isinstance(value, bool) or not isinstance(value, str | float):
        return value
    try:
        number = float(value)
        return int(value) if isinstance(value, str) and "." not in value else _whole(number, value)
    except (ValueError, OverflowError):
        return value


def _whole(number: float, value: Any) -> Any:
    return int(number) if number.is_integer() else value


def _text(value: Any) -> Any:
    """A category may be called ``1`` or ``true`` without quotes."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


def _flag(value: Any) -> Any:
    return False if value is None else value


_Id = Annotated[int | str, BeforeValidator(_id)]


class _Image(BaseModel):
    id: _Id
    file_name: str


class _Category(BaseModel):
    id: _Id
    name: Annotated[str, BeforeValidator(_text)]
    supercategory: Any = None


class _Object(BaseModel):
    id: _Id | None = None
    image_id: _Id
    category_id: _Id
    bbox: list[float] | None = None
    area: float | None = None
    iscrowd: Annotated[bool, BeforeValidator(_flag)] = False


class _Document(BaseModel):
    images: Annotated[list[_Image], Field(min_length=1)]
    annotations: list[_Object]
    categories: Annotated[list[_Category], Field(min_length=1)]


class _Outlines(BaseModel):
    """Read only where there is need: COCO's own outlines would take gigabytes."""

    class Item(BaseModel):
        segmentation: Any = None

    annotations: list[Item]


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
    document = _read(json_file, _Document)
    images = _find_images(json_file, document.images, image_files)
    class_ids = _class_ids(json_file, document, class_names)
    ids = _object_ids(json_file, document.annotations)
    outlines: Sequence[_Outlines.Item] = ()
    if not all(item.bbox for item in document.annotations):
        outlines = _read(json_file, _Outlines).annotations
    annotations = []
    for index, (item, annotation_id) in enumerate(zip(document.annotations, ids, strict=True)):
        try:
            box = tuple(item.bbox) if item.bbox else _box_around(outlines[index].segmentation)
            annotations.append(_convert(item, annotation_id, box, images, class_ids))
        except DataError as error:
            raise DataError(f"{json_file}: annotations[{index}]: {error}") from None
    unlisted = len(set(image_files) - {image.path for image in images.values()})
    return GroundTruth(
        tuple(images.values()), tuple(annotations), DataCounts(unlisted_images=unlisted)
    )


def read_coco_header(json_file: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The classes of a COCO JSON in the order of their ids, and the images that it lists.

    A root category, which has no objects and is but the super category of others, is no class.
    Raises DataError for a malformed file.
    """
    document = _read(json_file, _Document)
    used = {item.category_id for item in document.annotations}
    parents = {
        _text(each.supercategory)
        for each in document.categories
        if _text(each.supercategory) != each.name
    }
    names = tuple(
        category.name
        for category in _by_id(document.categories)
        if category.id in used or category.name not in parents
    )
    return names, tuple(image.file_name for image in document.images)


def read_coco_ids(json_file: Path) -> tuple[dict[str, int | str], dict[str, int | str]]:
    """Of a COCO JSON: image ids by file name, category ids by name. Raises DataError."""
    document = _read(json_file, _Document)
    images = {normal_name(image.file_name): image.id for image in document.images}
    return images, {category.name: category.id for category in document.categories}


def _convert(
    item: _Object,
    annotation_id: int,
    box: tuple[float, ...],
    images: Mapping[int | str, ImageRecord],
    class_ids: Mapping[int | str, int | str],
) -> Annotation:
    if item.image_id not in images:
        raise DataError(f"image_id {shown(item.image_id)} is not among the images")
    class_id = class_ids.get(item.category_id)
    if class_id is None:
        raise DataError(f"category_id {shown(item.category_id)} is not among the categories")
    if isinstance(class_id, str):
        raise DataError(
            f"category {class_id!r} is not a class of the data set; add it to `names` in the YAML"
        )
    if len(box) != 4:
        raise DataError(f"bbox: expected left, top, width, height, got {len(box)} numbers")
    left, top, width, height = box
    return Annotation(
        annotation_id=annotation_id,
        image_id=images[item.image_id].image_id,
        class_id=class_id,
        box_xywh_px=(left, top, width, height),
        area_px=width * height if item.area is None else item.area,
        is_crowd=item.iscrowd,
    )


def _box_around(segmentation: object) -> tuple[float, ...]:
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
    return left, top, max(numbers[::2]) - left, max(numbers[1::2]) - top


_ModelT = TypeVar("_ModelT", bound=BaseModel)


def _read(json_file: Path, kind: type[_ModelT]) -> _ModelT:
    try:
        return kind.model_validate_json(read_text(json_file, most_bytes=MAX_JSON_BYTES))
    except OSError as error:
        raise DataError(f"{json_file}: cannot be read ({error.strerror}); check the path") from None
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(step) for step in problem["loc"]) or "file"
        raise DataError(
            f"{json_file}: not a COCO instances file ({where}: {problem['msg']})"
        ) from None


def _find_images(
    json_file: Path, images: Sequence[_Image], image_files: Sequence[Path]
) -> dict[int | str, ImageRecord]:
    """Id in the JSON -> image; ids that are no numbers are replaced by some."""
    by_name: dict[str, list[Path]] = defaultdict(list)
    for path in image_files:
        by_name[normal_name(path.name)].append(path)
    _check_unique(json_file, "images", "id", [image.id for image in images])
    numbered = all(isinstance(image.id, int) for image in images)
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


def _class_ids(
    json_file: Path, document: _Document, class_names: Sequence[str]
) -> dict[int | str, int | str]:
    """Category id -> index into ``class_names``, or the category's name if it is no class there.

    The first category of a name is the first class of that name. Categories without objects do not
    count where there are too many: a root category may be called like one of its children.
    """
    categories = _by_id(document.categories)
    _check_unique(json_file, "categories", "id", [item.id for item in categories])
    used = {item.category_id for item in document.annotations}
    class_ids: dict[int | str, int | str] = {}
    for name, namesakes in _grouped(categories).items():
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
    return class_ids


def _grouped(categories: Sequence[_Category]) -> dict[str, list[_Category]]:
    groups: dict[str, list[_Category]] = defaultdict(list)
    for item in categories:
        groups[item.name].append(item)
    return groups


def _by_id(categories: Sequence[_Category]) -> list[_Category]:
    return sorted(categories, key=lambda item: (isinstance(item.id, str), item.id))


def _object_ids(json_file: Path, objects: Sequence[_Object]) -> list[int]:
    """The objects' own ids, or their numbers from 1 on if some have none or no number."""
    ids = [item.id for item in objects]
    if not all(isinstance(each, int) for each in ids):
        return list(range(1, len(ids) + 1))
    numbers = [each for each in ids if isinstance(each, int)]
    _check_unique(json_file, "annotations", "id", numbers)
    return numbers


def _check_unique(json_file: Path, part: str, field: str, values: Sequence[int | str]) -> None:
    if len(set(values)) < len(values):
        value, count = Counter(values).most_common(1)[0]
        raise DataError(f"{json_file}: {count} {part} have the {field} {value!r}; expected one")
