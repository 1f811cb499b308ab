"""Read ground truth from a COCO instances JSON."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from detq.data.annotation import Annotation, ImageRecord
from detq.errors import DataError


class _Image(BaseModel):
    id: int
    file_name: str


class _Category(BaseModel):
    id: int
    name: str


class _Object(BaseModel):
    id: int
    image_id: int
    category_id: int
    bbox: Annotated[list[float], Field(min_length=4, max_length=4)]
    area: float | None = None
    iscrowd: bool = False


class _Document(BaseModel):
    images: Annotated[list[_Image], Field(min_length=1)]
    annotations: list[_Object]
    categories: Annotated[list[_Category], Field(min_length=1)]


def read_coco(
    json_file: Path, *, image_files: Sequence[Path], class_names: Sequence[str]
) -> tuple[tuple[ImageRecord, ...], tuple[Annotation, ...]]:
    """COCO JSON -> its images, found among ``image_files``, and their objects.

    Category ids may be any numbers: they become indices into ``class_names`` by the category's
    name. An image that the JSON does not list is left out, because nothing is known about it.
    Raises DataError for a malformed file, an image that is missing on disk or listed twice, and an
    object of an unknown image, an unknown category or a category outside ``class_names``.
    """
    document = _parse(json_file)
    images = _find_images(json_file, document.images, image_files)
    image_ids = {image.image_id for image in images}
    class_ids = _class_ids(json_file, document.categories, class_names)
    _check_unique(json_file, "annotations", "id", [item.id for item in document.annotations])
    annotations = []
    for index, item in enumerate(document.annotations):
        try:
            annotations.append(_convert(item, image_ids, class_ids))
        except DataError as error:
            raise DataError(f"{json_file}: annotations[{index}]: {error}") from None
    return images, tuple(annotations)


def _convert(
    item: _Object, image_ids: Container[int], class_ids: Mapping[int, int | str]
) -> Annotation:
    if item.image_id not in image_ids:
        raise DataError(f"image_id {item.image_id} is not among the images")
    class_id = class_ids.get(item.category_id)
    if class_id is None:
        raise DataError(f"category_id {item.category_id} is not among the categories")
    if isinstance(class_id, str):
        raise DataError(
            f"category {class_id!r} is not a class of the data set; add it to `names` in the YAML"
        )
    left, top, width, height = item.bbox
    return Annotation(
        annotation_id=item.id,
        image_id=item.image_id,
        class_id=class_id,
        box_xywh_px=(left, top, width, height),
        area_px=width * height if item.area is None else item.area,
        is_crowd=item.iscrowd,
    )


def _parse(json_file: Path) -> _Document:
    try:
        return _Document.model_validate_json(json_file.read_bytes())
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
) -> tuple[ImageRecord, ...]:
    by_name: dict[str, list[Path]] = defaultdict(list)
    for path in image_files:
        by_name[path.name].append(path)
    id_of: dict[Path, int] = {}
    for image in images:
        path = _find_image(json_file, image.file_name, by_name)
        if path in id_of:
            raise DataError(
                f"{json_file}: images {id_of[path]} and {image.id} are the same file {path}"
            )
        id_of[path] = image.id
    _check_unique(json_file, "images", "id", list(id_of.values()))
    return tuple(ImageRecord(path, image_id) for path, image_id in id_of.items())


def _find_image(json_file: Path, file_name: str, by_name: dict[str, list[Path]]) -> Path:
    """The image whose path ends like ``file_name``; exporters disagree on where that starts."""
    parts = PurePosixPath(file_name).parts
    namesakes = by_name.get(parts[-1] if parts else "", [])
    found = [path for path in namesakes if path.parts[-len(parts) :] == parts] or namesakes
    if not found:
        raise DataError(
            f"{json_file}: image {file_name!r} is not among the split's images; "
            "complete the folder, or correct the split's path in the data set's YAML"
        )
    if len(found) > 1:
        raise DataError(f"{json_file}: image {file_name!r} may be {found[0]} or {found[1]}")
    return found[0]


def _class_ids(
    json_file: Path, categories: Sequence[_Category], class_names: Sequence[str]
) -> dict[int, int | str]:
    """Category id -> index into ``class_names``, or the category's name if it is no class there."""
    index_of = {name: index for index, name in enumerate(class_names)}
    _check_unique(json_file, "categories", "id", [item.id for item in categories])
    _check_unique(json_file, "categories", "name", [item.name for item in categories])
    return {item.id: index_of.get(item.name, item.name) for item in categories}


def _check_unique(json_file: Path, part: str, field: str, values: Sequence[int | str]) -> None:
    if len(set(values)) < len(values):
        value, count = Counter(values).most_common(1)[0]
        raise DataError(f"{json_file}: {count} {part} have the {field} {value!r}; expected one")
