"""Three sizes of install: the base runs models, and all else says which extra it needs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from installs import (
    PROJECT,
    Install,
    build_wheel,
    closure,
    make_install,
)
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_layering import MODULES, PEERS, imported_by

from detq import api
from detq.cli.entry import app
from detq.data.digits import write_digits
from detq.errors import MissingLibraryError
from detq.extras import EXTRAS, require

HEAVY = ("torch", "nncf", "onnx", "scipy", "scikit-learn", "matplotlib", "safetensors", "jinja2")
MODEL = "digits_yolov6n_int8_openvino_model"
RUNS = ("predict", "eval", "bench", "demo")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the embedded model as an INT8 directory, and the scenes it was made with."""
    folder = tmp_path_factory.mktemp("made")
    data = write_digits(folder / "digits", split="val", images=12)
    result = api.quantize("digits_yolov6n", data=data, recipe="minmax", split="val")
    result.save(folder / MODEL)
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Install]:
    """Extras -> what ``pip install detq[…]`` gives, from a wheel of this checkout."""
    folder = tmp_path_factory.mktemp("installs")
    wheel = build_wheel(folder)

    def make(*extras: str) -> Install:
        lists = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][e] for e in extras)]
        packages = closure([text for some in lists for text in some])
        return make_install(folder / "-".join(("venv", *extras)), wheel, packages)

    return make


@pytest.fixture(scope="module")
def base(installed: Callable[..., Install]) -> Install:
    """What ``pip install detq`` gives."""
    return installed()


# The lists


def test_no_requirement_is_pinned() -> None:
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    for requirement in (Requirement(text) for some in lists for text in some):
        assert not any(each.operator in ("==", "===") for each in requirement.specifier)


def test_base_brings_nothing_heavy() -> None:
    assert not closure(PROJECT["dependencies"]) & set(HEAVY)


@pytest.mark.parametrize("extra", EXTRAS)
def test_extra_brings_the_modules_that_it_is_said_to(extra: str) -> None:
    packages = packages_distributions()
    listed = closure(PROJECT["optional-dependencies"][extra])
    for module in EXTRAS[extra]:
        assert {canonicalize_name(name) for name in packages[module]} & listed, module


def test_every_module_that_is_imported_comes_with_an_install() -> None:
    lists = [PROJECT["optional-dependencies"][extra] for extra in EXTRAS]
    brought = closure([*PROJECT["dependencies"], *(text for some in lists for text in some)])
    known = {"detq", *PEERS, *sys.stdlib_module_names} | {
        module
        for module, packages in packages_distributions().items()
        if brought & {canonicalize_name(package) for package in packages}
    }
    for module in MODULES:
        roots = {name.partition(".")[0] for name in imported_by(module)}
        assert not roots - known, module


# One line


@pytest.mark.parametrize(
    ("absent", "asked", "line"),
    [
        (("torch",), ("torch", "safetensors"), "needs torch, which is not installed; [torch]"),
        (("safetensors",), EXTRAS["torch"], "needs safetensors, which is not installed; [torch]"),
        (("sklearn",), ("sklearn",), "needs scikit-learn, which is not installed; [quantize]"),
        (
            ("torch", "nncf", "onnx"),
            ("torch", "nncf", "onnx"),
            "needs nncf and torch, which are not installed; [quantize,torch]",
        ),
    ],
)
def test_missing_packages_are_one_line(
    monkeypatch: pytest.MonkeyPatch, absent: tuple[str, ...], asked: tuple[str, ...], line: str
) -> None:
    for name in absent:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingLibraryError) as caught:
        require("x.pt", *asked)
    said, extras = line.split("; ")
    assert str(caught.value) == f"x.pt: {said}; pip install 'detq{extras}'"


def test_what_is_installed_is_no_error() -> None:
    require("x", *(module for modules in EXTRAS.values() for module in modules))


# The base install


def test_base_install_finds_the_same_boxes(base: Install, made: Path, tmp_path: Path) -> None:
    sources = made / "digits/images/val"
    outcome = base.detq("predict", made / MODEL, sources, folder=tmp_path)
    assert outcome.status == 0, outcome.err
    found = next(tmp_path.glob("predictions/*.jsonl")).read_text()
    assert sum(len(json.loads(line)["scores"]) for line in found.splitlines()) > 20
    api.predict_many(made / MODEL, [str(sources)], output=tmp_path / "here")
    assert next(tmp_path.glob("here/*.jsonl")).read_text() == found


@pytest.mark.parametrize(
    ("command", "arguments", "words"),
    [
        ("eval", ("--data", "digits/data.yaml", "--split", "val"), "mAP"),
        ("bench", ("--rounds", "2", "--bursts", "0"), "median ms"),
        ("bench", ("--rounds", "2", "--bursts", "0", "--source", "digits/images/val"), "bare"),
    ],
    ids=["eval", "bench", "bench-source"],
)
def test_base_install_measures(
    base: Install, made: Path, command: str, arguments: tuple[str, ...], words: str
) -> None:
    outcome = base.detq(command, MODEL, *arguments, folder=made)
    assert outcome.status == 0, outcome.err
    assert words in outcome.out


def test_base_install_records_the_demo(base: Install, made: Path, tmp_path: Path) -> None:
    source = next((made / "digits/images/val").iterdir())
    arguments = ("--source", source, "--save", "x.avi")
    outcome = base.detq("demo", made / MODEL, *arguments, folder=tmp_path)
    assert outcome.status == 0, outcome.err
    assert (tmp_path / "x.avi").stat().st_size > 0


def test_base_install_reads_an_ir_of_another_program(
    base: Install, shared: Path, made: Path, tmp_path: Path
) -> None:
    model, images = shared / "models/yolov5n_ir.xml", made / "digits/images/val"
    outcome = base.detq("predict", model, images, folder=tmp_path)
    assert outcome.status == 0, outcome.err
    options = ("--rounds", "1", "--bursts", "0", "--source", images)  # written for its process
    outcome = base.detq("bench", model, *options, folder=tmp_path)
    assert outcome.status == 0, outcome.err


def test_each_extra_does_without_the_other(
    installed: Callable[..., Install], made: Path, tmp_path: Path
) -> None:
    """torch alone reads checkpoints; what quantizes needs no torch."""
    model = tmp_path / "digits_yolov6n_openvino_model"
    api.export("digits_yolov6n", model, format="openvino")
    data, boxes = made / "digits/data.yaml", made / "digits/images/val"
    torch, quantize = installed("torch"), installed("quantize")
    run = torch.detq("predict", "digits_yolov6n", boxes, folder=tmp_path)
    assert run.status == 0, run.err
    options = ("--data", data, "--calib-split", "val", "--recipe", "minmax", "--output", "int8")
    run = quantize.detq("quantize", model, *options, folder=tmp_path)
    assert run.status == 0, run.err
    run = quantize.detq("export", "int8", "--format", "onnx-qdq", folder=tmp_path)
    assert run.status == 0, run.err


NEEDS: dict[str, tuple[tuple[str, ...], str]] = {
    "quantize": ((MODEL, "--data", "digits/data.yaml"), "quantize"),
    "quantize checkpoint": (("x.pt", "--data", "digits/data.yaml"), "quantize,torch"),
    "quickstart": ((), "quantize,torch"),
    "digits": (("more",), "quantize"),
    "export": ((MODEL,), "quantize"),
    "convert": (("digits_yolov6n", "x.safetensors"), "torch"),
    "inspect": (("digits_yolov6n",), "torch"),
    "inspect plot": ((MODEL, "--plot", "x.png"), "quantize"),
    "predict known": (("yolov6s", "digits"), "torch"),
    "predict checkpoint": (("x.pt", "digits"), "torch"),
    "predict description": (("yolov8n.yaml", "digits"), "torch"),
    "predict onnx": (("x.onnx", "digits"), "quantize"),
    "predict track": ((MODEL, "digits", "--track"), "track"),
    "predict parquet": ((MODEL, "digits", "--format", "parquet"), "scale"),
    "predict ray": ((MODEL, "digits", "--engine", "ray"), "ray"),
    "predict store": ((MODEL, "s3://bucket/x.jpg"), "scale"),
    "predict list": ((MODEL, "x.parquet"), "scale"),
    "demo page": ((MODEL, "--web"), "demo"),
}
"""A command, with what tells its uses apart -> its arguments, and the extras that it asks for."""


@pytest.mark.parametrize("use", NEEDS)
def test_base_install_says_in_one_line_what_to_install(base: Install, made: Path, use: str) -> None:
    for name in ("x.pt", "x.onnx", "x.parquet"):
        (made / name).touch()
    before = set(made.iterdir())
    arguments, extras = NEEDS[use]
    outcome = base.detq(use.split(maxsplit=1)[0], *arguments, folder=made)
    assert outcome.failed_well, outcome.err
    assert outcome.err.splitlines()[-1].endswith(f" not installed; pip install 'detq[{extras}]'")
    assert set(made.iterdir()) <= before | {made / "predictions"}


def test_every_command_was_tried() -> None:
    names = {
        command.name or command.callback.__name__
        for command in app.registered_commands
        if command.callback is not None
    }
    assert names == {*RUNS, *(use.split()[0] for use in NEEDS)}


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("detq.quantize", "detq.quantize: needs nncf"),
        ("detq.load('digits_yolov6n')", "digits_yolov6n: needs torch"),
        ("detq.adapt(None, class_names=['a'], imgsz=64)", "detector: needs torch"),
    ],
)
def test_python_user_gets_the_same_line(
    base: Install, tmp_path: Path, code: str, words: str
) -> None:
    caught = f"import detq\ntry: {code}\nexcept detq.DetqError as error: print(error)"
    outcome = base.run("-c", caught, folder=tmp_path)
    assert outcome.out.startswith(words), outcome.err
    assert len(outcome.out.splitlines()) == 1
