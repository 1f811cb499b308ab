from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from detq.benchmark import bench, variants_of
from detq.console.speed import print_bench
from detq.errors import ConfigError
from detq.graph.detector_graph import DetectorGraph
from detq.graph.execute import core
from detq.records import Machine
from detq.runtime import devices, machine
from detq.runtime.detector import CompiledGraph, Detector
from detq.runtime.devices import device_named
from detq.runtime.options import RuntimeOptions
from tests.command_line import Command

RUN_A_MODEL = ["bench", "demo", "eval", "predict", "quantize", "quickstart"]


def _offers(monkeypatch: pytest.MonkeyPatch, *there: str) -> None:
    monkeypatch.setattr(devices, "core", lambda: SimpleNamespace(available_devices=list(there)))


@pytest.mark.parametrize(
    ("there", "named", "found"),
    [
        (["CPU"], "cpu", "CPU"),
        (["CPU"], "auto", "AUTO"),
        (["CPU", "GPU"], "gpu", "GPU"),
        (["CPU", "GPU"], "GPU.0", "GPU.0"),
        (["CPU", "GPU.0", "GPU.1"], "GPU", "GPU"),
        (["CPU", "GPU.0", "GPU.1"], "gpu.1", "GPU.1"),
        (["CPU", "NPU"], " npu ", "NPU"),
    ],
)
def test_devices_that_are_there(
    monkeypatch: pytest.MonkeyPatch, there: list[str], named: str, found: str
) -> None:
    _offers(monkeypatch, *there)
    assert device_named(named) == found


@pytest.mark.parametrize(
    ("there", "named", "message"),
    [
        (["CPU"], "GPU", "OpenVINO finds CPU on this machine"),
        (["CPU", "GPU"], "GPU.1", "OpenVINO finds CPU, GPU on this machine"),
        (["CPU", "GPU.0", "GPU.1"], "GPU.2", "finds CPU, GPU.0, GPU.1 on"),
        (["CPU", "GPU"], "NPU", "OpenVINO finds CPU, GPU on this machine"),
        (["CPU"], "cuda", "expected one of CPU, GPU, NPU, AUTO"),
        (["CPU"], "CPU.0", "expected one of"),
        (["CPU"], "", "expected one of"),
        (["CPU"], "AUTO:GPU,CPU", "expected one of"),
    ],
)
def test_devices_that_are_not(
    monkeypatch: pytest.MonkeyPatch, there: list[str], named: str, message: str
) -> None:
    _offers(monkeypatch, *there)
    with pytest.raises(ConfigError, match=f"--device {named}: .*{message}"):
        device_named(named)


def test_a_device_of_its_own_choice_finds_the_same(colour_graph: DetectorGraph) -> None:
    image = np.zeros((32, 64, 3), np.uint8)
    image[:, :32, 2] = 204
    chosen = Detector(colour_graph, options=RuntimeOptions(device="AUTO"))
    assert chosen.device == "CPU"
    found, expected = chosen.detect(image), Detector(colour_graph).detect(image)
    np.testing.assert_array_equal(found.boxes_xyxy_px, expected.boxes_xyxy_px)
    assert (chosen.executed_precision, chosen.int8_share) == ("fp32", 0)


def test_what_a_device_does_not_say_is_no_figure(
    colour_graph: DetectorGraph, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The words in which a GPU describes its kernels are not those of the CPU."""
    monkeypatch.setattr(CompiledGraph, "device", "GPU.0")
    (speed,) = bench(variants_of(colour_graph)[:1], rounds=1)
    assert (speed.device, speed.precision, speed.int8_share) == ("GPU.0", "unknown", None)
    print_bench([speed], Machine("some CPU", (), 2, 2, None, 1e9, "GPU, some graphics"))
    out = capsys.readouterr().out
    assert "device GPU, some graphics, executed on GPU.0" in out
    assert "%" not in out


def test_precisions_are_those_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    capable = {"CPU": ["FP32", "BF16"], "GPU": ["FP32", "FP16", "INT8"], "NPU": ["FP16", "INT8"]}
    fake = SimpleNamespace(get_property=lambda device, _: capable[device])
    monkeypatch.setattr(machine, "core", lambda: fake)
    assert machine.float_precisions() == ("f32", "bf16")
    assert machine.float_precisions("GPU") == ("f32", "f16")
    assert machine.float_precisions("NPU") == ("f16",)


def test_threads_are_the_cpus() -> None:
    with pytest.raises(ConfigError, match="device GPU: has no threads"):
        RuntimeOptions(device="GPU", threads=2)
    with pytest.raises(ConfigError, match="device NPU: has no threads"):
        RuntimeOptions(device="NPU", pinning=False)
    assert "INFERENCE_PRECISION_HINT" not in RuntimeOptions(device="NPU").properties()
    assert RuntimeOptions(device="AUTO", threads=2).properties()["INFERENCE_NUM_THREADS"] == 2


@pytest.mark.skipif("NPU" in core().available_devices, reason="has one")
@pytest.mark.parametrize("command", RUN_A_MODEL)
def test_absent_device_is_one_line_and_nothing_is_written(
    detq: Command, tmp_path: Path, command: str
) -> None:
    arguments = {
        "eval": ["digits_yolov6n", "--data", "."],
        "predict": ["digits_yolov6n", "."],
        "quantize": ["digits_yolov6n", "--data", "."],
        "quickstart": [],
    }.get(command, ["digits_yolov6n"])
    outcome = detq(command, *arguments, "--device", "npu")
    assert outcome.failed_well
    assert "--device npu: OpenVINO finds" in outcome.err
    assert not any(tmp_path.iterdir())


def test_what_is_about_the_cpu_wants_it(detq: Command, colour_model: Path) -> None:
    assert detq("bench", colour_model, "--device", "auto", "--layers").failed_well
    arguments = ("predict", colour_model, ".", "--engine", "ray", "--device", "auto")
    assert "--device: with --engine ray" in detq(*arguments).err
