"""Opening what a user names: models, data sets, recipes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from detq.api.own_adapters import open_by_adapter
from detq.api.trial import try_elsewhere
from detq.artifact import read_artifact
from detq.config import DatasetConfig, Recipe, read_dataset, read_recipe
from detq.contract import Task
from detq.data.layouts import read_data
from detq.downloads.cache import forget, obtain_dataset, obtain_model
from detq.downloads.catalog import DATASETS, MODELS
from detq.downloads.digests import check_embedded
from detq.errors import CheckpointError, ConfigError, DownloadError
from detq.extras import EXTRAS, require
from detq.graph.convert import from_torch
from detq.graph.detector_graph import DetectorGraph
from detq.graph.resize import resized
from detq.progress import Progress, silent
from detq.records import SizeHW
from detq.runtime.options import FloatPrecision

if TYPE_CHECKING:
    from torch import nn

    from detq.adapters import StoredModel

EMBEDDED = Path(str(files("detq.weights")))
"""The models that detq brings along, and what belongs to them."""
HANDWRITING = EMBEDDED / "handwriting.jpg"
"""A page of handwriting for the digits model, made without its data set's generator."""
FLOAT: Mapping[FloatPrecision, str] = {"f32": "float", "bf16": "float bf16", "f16": "float f16"}
"""What the rows of the float model are called in a table."""
ModelSource = str | Path | DetectorGraph
DataSource = str | Path | DatasetConfig
RecipeSource = str | Path | Recipe
ImageSize = int | tuple[int, int]


def load(
    model: str | Path,
    *,
    imgsz: ImageSize | None = None,
    layout: str | None = None,
    progress: Progress | None = None,
) -> DetectorGraph:
    """A checkpoint (.pt, .pth, .safetensors), an .onnx, an exported directory or its .xml, or a
    file that a registered adapter knows (:func:`register_adapter`).

    A bare name that is no file is a model that detq knows: its own ``digits_yolov6n``, or an
    official YOLOv6 release, which is downloaded once. ``imgsz`` is a side or (H, W) in pixels; by
    default the size that the file states, or its family's usual one. ``layout`` says what the
    outputs of an .onnx or .xml mean where the file leaves it open (docs/models.md). Raises
    CheckpointError for a file that cannot be read, and nothing in it is executed; DownloadError.
    """
    path, size_hw = _model_file(model, progress), size_of(imgsz)
    graph_file = _graph_file(path)
    if graph_file is not None:
        try_elsewhere(graph_file, size_hw, layout)
    return load_untried(path, size_hw, layout)


def load_untried(path: str | Path, size_hw: SizeHW | None, layout: str | None) -> DetectorGraph:
    """:func:`load` for a file, without another process that reads a graph first."""
    path = Path(path)
    own = open_by_adapter(path, size_hw) if path.is_file() else None
    if own is not None:
        return resized(own, size_hw or own.spec.size_hw)
    if not path.exists() and path.suffix.lower() not in (".onnx", ".xml", ".yaml", ".yml"):
        raise CheckpointError(f"{path}: cannot be read (No such file or directory); check the path")
    require(str(path), *modules_for(path))
    if path.suffix.lower() == ".onnx":
        from detq.graph.foreign import from_onnx  # noqa: PLC0415 - so is onnx, if less

        return from_onnx(path, size_hw=size_hw, layout=layout)
    if path.is_dir() or path.suffix.lower() == ".xml":
        graph = read_artifact(path, layout=layout)
        return resized(graph, size_hw or graph.spec.size_hw)
    if layout is not None:
        raise ConfigError(
            f"{path}: is no .onnx and no .xml, so that layout {layout} says nothing about it"
        )
    from detq.adapters import fuse_model, load_checkpoint  # noqa: PLC0415 - torch takes seconds

    try:
        stored = load_checkpoint(path, size_hw=size_hw)
    except CheckpointError as error:
        if not forget(path):
            raise
        raise DownloadError(f"{error}; the download was removed: try again") from None
    float_model = fuse_model(stored)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TracerWarning: the graph is for this size alone
        return from_torch(float_model.module, float_model.spec)


def adapt(
    module: nn.Module,
    *,
    class_names: Sequence[str],
    strides: Sequence[int] = (1,),
    imgsz: ImageSize,
    name: str = "detector",
    task: Task = "detect",
) -> DetectorGraph:
    """A detector of your own, a ``torch.nn.Module``, fused and ready for every other function.

    Re-parameterized blocks are found by what they are. ``forward`` maps images [B, 3, H, W] (RGB,
    0..1) to predictions [B, 4 + nc, N]: centre x, centre y, width, height in input pixels, then a
    score per class in 0..1; with ``task="classify"`` to scores [B, nc] that add up to 1
    (docs/adapters.md). Raises GraphError, DetqError.
    """
    require(name, "torch")
    from detq.adapters import adapt_module  # noqa: PLC0415 - torch takes seconds

    size_hw = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    model = adapt_module(
        module,
        name=name,
        class_names=class_names,
        strides=strides,
        size_hw=size_hw,
        task=task,
    )
    return from_torch(model.module, model.spec)


def convert(
    checkpoint: str | Path, output: str | Path, *, progress: Progress | None = None
) -> StoredModel:
    """Write a checkpoint that detq reads as ``.safetensors``: nothing in that can be executed.

    The network stays in training form. Raises CheckpointError, ArtifactError.
    """
    require(str(checkpoint), *EXTRAS["torch"])
    from detq.adapters import convert as convert_file  # noqa: PLC0415 - torch takes seconds

    return convert_file(_model_file(checkpoint, progress), Path(output))


def load_dataset(data: str | Path, *, progress: Progress | None = None) -> DatasetConfig:
    """What describes a data set, or a known name (``coco128``, ``coco``), which is downloaded once.

    A description is a YAML, a COCO JSON, a text file that lists images, or a folder: of a YAML, of
    Pascal VOC or COCO files, of images alone, or for a classifier of class folders
    (docs/data.md). Raises ConfigError or DataError for a file that is missing or wrong,
    DownloadError.
    """
    name, path = str(data), Path(data)
    if name not in DATASETS or path.exists():
        return read_data(path)
    folder = obtain_dataset(name, progress=progress or silent)
    config = read_dataset(Path(str(files("detq.configs"))) / "data" / f"{name}.yaml")
    return config.model_copy(update={"path": folder})


def load_recipe(recipe: RecipeSource) -> Recipe:
    """A built-in recipe by name, or a YAML file. Raises ConfigError for anything else."""
    if isinstance(recipe, Recipe):
        return recipe
    names = {path.stem: path for path in builtin_recipes()}
    if str(recipe) in names:
        return read_recipe(names[str(recipe)])
    path = Path(recipe)
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(
            f"recipe {str(recipe)!r}: expected a .yaml file or one of {', '.join(names)}"
        )
    return read_recipe(path)


def load_recipes(recipes: Sequence[RecipeSource]) -> list[Recipe]:
    """Recipes that share a table with the float model. Raises ConfigError as :func:`load_recipe`
    does, and for two of one name.
    """
    if not recipes:
        raise ConfigError("nothing to compare: expected at least one recipe")
    chosen = [load_recipe(recipe) for recipe in recipes]
    names = [*FLOAT.values(), *(recipe.name for recipe in chosen)]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{name!r} would be two rows of the table; rename one recipe")
    return chosen


def builtin_recipes() -> list[Path]:
    """The recipe files that detq ships, sorted by name."""
    folder = Path(str(files("detq.configs")))
    return sorted(folder.glob("*.yaml"))


def open_graph(model: ModelSource, imgsz: ImageSize | None) -> DetectorGraph:
    """:func:`load`, but for a graph that is there already: that one, resized if need be."""
    if not isinstance(model, DetectorGraph):
        return load(model, imgsz=imgsz)
    return resized(model, size_of(imgsz) or model.spec.size_hw)


def open_dataset(data: DataSource) -> DatasetConfig:
    """:func:`load_dataset`, but for a description that is there already."""
    return data if isinstance(data, DatasetConfig) else load_dataset(data)


def size_of(imgsz: ImageSize | None) -> SizeHW | None:
    """A side or (H, W) in pixels -> (H, W); None stays None."""
    return (imgsz, imgsz) if isinstance(imgsz, int) else imgsz


def modules_for(model: str | Path) -> tuple[str, ...]:
    """What has to be installed to read a model, by its name: none for OpenVINO's own files."""
    path = Path(model)
    if path.suffix.lower() == ".onnx":
        return ("onnx",)
    return () if path.is_dir() or path.suffix.lower() == ".xml" else EXTRAS["torch"]


def _graph_file(path: Path) -> Path | None:
    """The ``.onnx``, or the ``.xml`` that a directory holds alone; None for anything else."""
    if path.is_dir():
        found = list(path.glob("*.xml"))
        return found[0] if len(found) == 1 else None
    return path if path.is_file() and path.suffix.lower() in (".onnx", ".xml") else None


def _model_file(model: str | Path, progress: Progress | None) -> Path:
    """The path given, or where the model of that name lies."""
    name, path = str(model), Path(model)
    embedded = EMBEDDED / f"{name}.safetensors"
    if not path.exists() and path.name == name and embedded.is_file():
        require(name, *EXTRAS["torch"])
        path = embedded
    if path.exists():
        if path.suffix == embedded.suffix and path.resolve().parent == EMBEDDED.resolve():
            check_embedded(path)
        return path
    if name in MODELS:
        require(name, *EXTRAS["torch"])  # before the download
        return obtain_model(name, progress=progress or silent)
    if path.name == name and not path.suffix:
        known = sorted({*(file.stem for file in EMBEDDED.glob("*.safetensors")), *MODELS})
        raise CheckpointError(f"{name}: no such file, nor a known model: {', '.join(known)}")
    return path
