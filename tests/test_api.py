from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

import detq
from detq import api
from detq.api.judging import LEAST_JUDGES, expected_loss
from detq.config import DatasetConfig, Recipe
from detq.data.images import read_image_bgr
from detq.errors import CalibrationError, CheckpointError, ConfigError, DataError, DetqError
from detq.graph.detector_graph import DetectorGraph
from detq.records import ModelSpec
from detq.runtime.machine import float_precisions


def _config(folder: Path, **splits: str) -> DatasetConfig:
    return DatasetConfig(path=folder, names={0: "red", 1: "green", 2: "blue"}, **splits)


# The package


def test_no_module_has_the_name_of_a_function() -> None:
    """A module ``detq.evaluate`` took the place of the function as soon as it was imported."""
    code = (
        "import pkgutil, detq; modules = pkgutil.iter_modules(detq.__path__); "
        "assert not {module.name for module in modules} & set(detq.__all__)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


# Loading


def test_exported_directory_and_its_xml_are_the_same(colour_model: Path) -> None:
    by_directory, by_xml = detq.load(colour_model), detq.load(str(colour_model / "colours.xml"))
    assert by_directory.spec == by_xml.spec
    assert by_directory.spec.class_names == ("red", "green", "blue")


def test_checkpoint_is_loaded_for_any_size(bccd_graph: DetectorGraph, shared: Path) -> None:
    path = shared / "checkpoints/bccd_yolov6n.pt"
    wide = detq.load(path, imgsz=(192, 320))
    assert bccd_graph.spec.size_hw == (320, 320)
    assert wide.spec.size_hw == (192, 320)
    assert list(wide.model.inputs[0].get_shape()) == [1, 3, 192, 320]
    assert list(wide.model.outputs[0].get_shape()) == [1, 7, 192 * 320 * 21 // 1024]
    assert wide.spec.class_names == ("RBC", "WBC", "Platelets")
    assert len(wide.spec.reparameterized) == 35
    with pytest.raises(DetqError, match="multiples of the largest stride 32"):
        detq.load(path, imgsz=(192, 330))


def test_onnx_is_loaded(shared: Path) -> None:
    graph = detq.load(shared / "checkpoints/yolov6lite_s_det.onnx")
    assert (graph.spec.size_hw, graph.spec.class_count) == ((320, 320), 80)
    assert graph.spec.has_placeholder_names


def test_fixed_graph_refuses_another_size(colour_model: Path) -> None:
    """Its cells lie in one row, so that nobody can tell where a second one would be."""
    with pytest.raises(DetqError, match=r"32x64"):
        detq.load(colour_model, imgsz=320)


@pytest.mark.parametrize("name", ["absent.pt", "absent.onnx", "absent.xml", "absent"])
def test_missing_model_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=name):
        detq.load(tmp_path / name)


# Recipes


def test_every_built_in_recipe_is_read_by_its_name() -> None:
    names = [path.stem for path in api.builtin_recipes()]
    assert names == sorted(names)
    assert {api.DEFAULT_RECIPE, "minmax", "nncf"} <= set(names)
    for name in names:
        assert api.load_recipe(name).name == name
        assert api.load_recipe(name).description


def test_recipe_is_a_name_a_file_or_a_value(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\nranges: {head: mse}\n")
    recipe = api.load_recipe(tmp_path / "mine.yaml")
    assert (recipe.name, recipe.ranges.head) == ("mine", "mse")
    assert api.load_recipe(recipe) is recipe
    with pytest.raises(ConfigError, match=r"expected a \.yaml file or one of cfws_kl"):
        api.load_recipe("mine")


# Quantization


def test_arguments_are_not_changed(colour_graph: DetectorGraph, colour_images: Path) -> None:
    def operations() -> list[str]:
        return [node.get_friendly_name() for node in colour_graph.model.get_ordered_ops()]

    before = operations()
    config, recipe = _config(colour_images, train="."), api.load_recipe("minmax")
    result = detq.quantize(colour_graph, data=config, recipe=recipe, calibration_images=1)
    assert operations() == before
    assert result.quantized.recipe.calibration_images == 1
    assert recipe.calibration_images == 300
    assert len(result.calibration) == 1
    assert result.graph.spec == colour_graph.spec


def test_stages_are_reported_from_nothing_to_all(
    colour_graph: DetectorGraph, colour_images: Path
) -> None:
    reports: dict[str, list[tuple[int, int]]] = {}
    detq.quantize(
        colour_graph,
        data=_config(colour_images, train="."),
        progress=lambda stage, done, total: reports.setdefault(stage, []).append((done, total)),
    )
    assert list(reports)[:2] == ["reading images", "placing quantizers"]
    assert "observing" in reports
    assert list(reports)[-2:] == ["running float", "running INT8"]
    for stage, steps in reports.items():
        assert steps == sorted(steps), stage
        done, total = steps[-1]
        assert done == total, stage
        assert total <= 4, stage  # two images, or the network and its three parts


def test_a_second_recipe_finds_what_the_first_one_observed(
    colour_graph: DetectorGraph, colour_images: Path
) -> None:
    stages: list[str] = []
    config, again = _config(colour_images, train="."), []
    for recipe in ("minmax", "kl", "minmax"):
        stages.clear()
        result = detq.quantize(
            colour_graph,
            data=config,
            recipe=recipe,
            progress=lambda stage, done, total: stages.append(stage),
        )
        again.append((result.quantized.quantizers, "observing" in stages))
    (first, observed), *others = again
    assert observed
    assert not any(observed for _, observed in others)
    assert others[-1][0] == first


def test_broken_int8_model_is_not_handed_out(
    bccd_graph: DetectorGraph, few_blood_cells: Path
) -> None:
    """Ranges that keep half of the activations: everything large is clipped away."""
    ranges = {"backbone": "percentile", "neck": "percentile", "head": "percentile"}
    absurd = Recipe.model_validate({"name": "absurd", "ranges": {**ranges, "percentile": 51}})
    with pytest.raises(CalibrationError, match=r"agrees with float to .*% only: it is broken"):
        detq.quantize(
            bccd_graph,
            data=few_blood_cells,
            recipe=absurd,
            calibration_images=8,
        )


def test_float_model_that_finds_nothing_is_not_contradicted(
    colour_graph: DetectorGraph, tmp_path: Path
) -> None:
    cv2.imwrite(str(tmp_path / "black.png"), np.zeros((64, 128, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "dim.png"), np.full((64, 128, 3), 20, np.uint8))
    result = detq.quantize(colour_graph, data=_config(tmp_path, train="."))
    assert result.agreement is None
    result.save(tmp_path / "out")
    details = yaml.safe_load((tmp_path / "out/metadata.yaml").read_text())["detq"]
    assert details["agreement_with_float"] is None
    assert "measured" not in details


def test_overlap_is_by_content(
    colour_graph: DetectorGraph, colour_images: Path, tmp_path: Path
) -> None:
    """A renamed copy of an evaluation image is that image all the same."""
    (tmp_path / "train").mkdir()
    (tmp_path / "train/renamed.png").write_bytes((colour_images / "b.png").read_bytes())
    cv2.imwrite(str(tmp_path / "train/own.png"), np.full((64, 128, 3), 90, np.uint8))
    config = _config(tmp_path, train="train", val="images/val")
    result = detq.quantize(colour_graph, data=config)
    assert api.calibration_overlap(result, config, "val") == 1
    assert api.calibration_overlap(result, config, "train") == 2


# Evaluation


def test_unknown_preset_lists_the_known(colour_model: Path, colour_data: Path) -> None:
    with pytest.raises(ConfigError, match=r"preset 'voc': expected one of yolov6, coco"):
        detq.evaluate(colour_model, data=colour_data, preset="voc")


def test_missing_classes_are_said_before_any_image_is_read(
    colour_graph: DetectorGraph, colour_data: Path, colour_images: Path
) -> None:
    spec = ModelSpec("mono", "test", ("red", "grey", "white"), (32,), (32, 64))
    reports: list[str] = []
    with pytest.raises(DataError, match="does not know 2 of the data set's classes: green, blue"):
        detq.evaluate(
            DetectorGraph(colour_graph.model, spec),
            data=colour_data,
            progress=lambda stage, done, total: reports.append(stage),
        )
    assert not reports


def test_data_is_a_file_or_a_value(colour_model: Path, colour_data: Path) -> None:
    config = _config(colour_data.parent, val="images/val")
    by_value = detq.evaluate(colour_model, data=config)
    by_file = detq.evaluate(colour_model, data=str(colour_data))
    assert (by_value.map, by_value.images) == (by_file.map, 2)


def test_protocol_changes_what_is_counted(colour_model: Path, colour_data: Path) -> None:
    """Three right boxes; YOLOv6's numbering from 0 loses the first of them."""
    official = detq.evaluate(colour_model, data=colour_data)
    counted = detq.evaluate(colour_model, data=colour_data, preset="coco")
    assert official.map == pytest.approx(200 / 3)
    assert counted.map == pytest.approx(100)


# Prediction


def _picture(path: Path, colour: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.zeros((64, 128, 3), np.uint8)
    image[:, :64, 2 - colour] = 230
    cv2.imwrite(str(path), image)


def test_images_of_one_name_keep_their_own_pictures(colour_model: Path, tmp_path: Path) -> None:
    """``a/x.png``, ``b/x.png`` and ``b/x.jpg`` once overwrote each other as ``x.jpg``."""
    names = ("a/x.png", "b/x.jpg", "b/x.png", "x.png")
    for colour, name in enumerate(names):
        _picture(tmp_path / "photos" / name, colour % 3)
    found = detq.predict(colour_model, tmp_path / "photos", output=tmp_path / "out")
    assert [each.file for each in found] == [str(tmp_path / "photos" / name) for name in names]
    assert [each.detections[0].label for each in found] == ["red", "green", "blue", "red"]
    written = (path for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert sorted(str(path.relative_to(tmp_path / "out")) for path in written) == sorted(names)
    for name in names:
        drawn, image = (read_image_bgr(tmp_path / top / name) for top in ("out", "photos"))
        assert drawn.shape == image.shape
        assert (drawn != image).any()


def test_single_image(colour_model: Path, tmp_path: Path) -> None:
    _picture(tmp_path / "photos/x.png", 2)
    detq.predict(colour_model, tmp_path / "photos/x.png", output=tmp_path / "a b/ü")
    assert [path.name for path in (tmp_path / "a b/ü").iterdir()] == ["x.png"]


def test_images_are_never_replaced_by_their_pictures(colour_model: Path, tmp_path: Path) -> None:
    _picture(tmp_path / "photos/x.png", 2)
    (tmp_path / "link").symlink_to("photos")
    before = (tmp_path / "photos/x.png").read_bytes()
    for source, output in (("photos", "photos"), ("photos", "link"), ("photos/x.png", "photos")):
        with pytest.raises(DataError, match=r"x\.png: is an image of .*pass another --output"):
            detq.predict(colour_model, tmp_path / source, output=tmp_path / output)
    assert (tmp_path / "photos/x.png").read_bytes() == before


def test_pictures_of_an_earlier_run_are_no_input(colour_model: Path, tmp_path: Path) -> None:
    """``detq predict MODEL .`` twice, with its pictures in ``./predictions``."""
    _picture(tmp_path / "x.png", 2)
    for _ in range(2):
        found = detq.predict(colour_model, tmp_path, output=tmp_path / "predictions")
        assert [each.file for each in found] == [str(tmp_path / "x.png")]
    (tmp_path / "x.png").unlink()
    with pytest.raises(DataError, match="no images but the pictures in"):
        detq.predict(colour_model, tmp_path, output=tmp_path / "predictions")


@pytest.mark.parametrize(
    "image",
    [
        np.full((48, 100), 200, np.uint8),
        np.full((48, 100, 4), 200, np.uint8),
        np.full((48, 100, 3), 50000, np.uint16),
        np.full((1, 1, 3), 200, np.uint8),
        np.full((3, 2000, 3), 200, np.uint8),
    ],
    ids=["grey", "transparent", "16 bit", "one pixel", "sliver"],
)
def test_any_kind_of_image(colour_model: Path, tmp_path: Path, image: np.ndarray) -> None:
    cv2.imwrite(str(tmp_path / "x.png"), image)
    (found,) = detq.predict(colour_model, tmp_path / "x.png", output=tmp_path / "out")
    height, width = image.shape[:2]
    for detection in found.detections:
        left, top, right, bottom = detection.box_xyxy_px
        assert 0 <= left <= right <= width
        assert 0 <= top <= bottom <= height
    assert read_image_bgr(tmp_path / "out/x.png").shape == (height, width, 3)


# Latency


def test_bench_opens_models_and_keeps_their_order(colour_model: Path) -> None:
    graph = detq.load(colour_model)
    results = detq.bench(
        [colour_model / "colours.xml", graph], rounds=1, options=detq.RuntimeOptions(threads=1)
    )
    assert {result.model for result in results} == {"colours"}
    assert [result.float_precision for result in results] == [*float_precisions()] * 2


def _printed(code: str, **environment: str) -> str:
    """What a fresh interpreter prints, which must succeed."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("statement", ["import detq", "import detq.cli"])
def test_import_is_light(statement: str) -> None:
    """``detq --help`` must not wait for torch, OpenVINO and NNCF."""
    code = (
        f"{statement}; import sys; "
        "print(*{'torch', 'openvino', 'nncf', 'cv2', 'matplotlib'} & set(sys.modules))"
    )
    assert _printed(code, PYTHONWARNINGS="error") == ""


def test_no_run_is_reported_to_anyone() -> None:
    """OpenVINO and NNCF send usage statistics; their processes for it broke Ctrl-C."""
    code = (
        "import detq.api, nncf, openvino.tools.ovc, sys; "
        "print([name for name in sys.modules if name.startswith('openvino_telemetry.')])"
    )
    assert _printed(code) == "[]"


def test_running_a_model_imports_nothing_that_quantizes() -> None:
    code = (
        "import detq, sys; detq.detector; detq.detect_stream; detq.draw_detections; "
        "heavy = {'torch', 'nncf', 'onnx', 'scipy', 'pandas', 'detq.quant.quantizer'}; "
        "print(heavy & set(sys.modules))"
    )
    assert _printed(code) == "set()"


def test_an_expected_loss_is_an_interval_that_grows_as_agreement_falls() -> None:
    intervals = [expected_loss(percent, LEAST_JUDGES) for percent in (99.0, 96.0, 91.0, 85.0)]
    assert None not in intervals
    highest = [high for _, high in filter(None, intervals)]
    assert highest == sorted(highest)
    assert all(low < high for low, high in filter(None, intervals))
    assert expected_loss(99.0, LEAST_JUDGES - 1) is None  # agreement is too noisy itself
    assert expected_loss(30.0, 100) is None  # whatever is lost then
