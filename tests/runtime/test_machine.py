from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from command_line import COMMAND

from detq.runtime import machine as machine_module
from detq.runtime.machine import describe_machine


def test_this_machine_is_described() -> None:
    machine = describe_machine()
    assert machine.cpu
    assert machine.cores == machine.threads >= 1
    assert 1e8 < machine.int8_macs_per_s < 1e16


@pytest.mark.parametrize(
    ("text", "cpu", "features"),
    [
        (
            "processor : 0\nmodel name : Some Xeon\nflags : fpu avx2 avx512f avx512_vnni\n\n",
            "Some Xeon",
            ("AVX2", "AVX-512", "AVX-512 VNNI"),
        ),
        ("processor : 0\nFeatures : fp asimd asimddp i8mm\n", None, ("dot product", "I8MM")),
    ],
)
def test_features_are_read_from_cpuinfo(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    cpu: str | None,
    features: tuple[str, ...],
) -> None:
    monkeypatch.setattr(machine_module, "_int8_peak", lambda threads: 1.0)
    (tmp_path / "cpuinfo").write_text(text)
    found = describe_machine(threads=3, cpuinfo=tmp_path / "cpuinfo")
    assert found.features == features
    assert found.threads == 3
    assert cpu is None or found.cpu == cpu
    assert replace(found, cores=2, load=1.5).is_busy
    assert not replace(found, cores=2, load=0.5).is_busy


def test_machine_without_cpuinfo_is_named_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_module, "_int8_peak", lambda threads: 1.0)
    assert describe_machine(cpuinfo=tmp_path / "none").cpu


@pytest.mark.parametrize(
    ("instructions", "features", "precisions"),
    [
        ("avx2", ("AVX2",), ("f32",)),
        ("AVX512_CORE_VNNI", ("AVX2", "AVX-512", "AVX-512 VNNI"), ("f32",)),
        ("AVX512_CORE_BF16", ("AVX2", "AVX-512", "AVX-512 VNNI", "AVX-512 BF16"), ("f32", "bf16")),
        ("ALL", ("AVX2", "AVX-512", "AVX-512 VNNI", "AVX-512 BF16", "AMX"), ("f32", "bf16", "f16")),
    ],
)
def test_a_cpu_that_is_held_to_older_instructions_has_no_others(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    instructions: str,
    features: tuple[str, ...],
    precisions: tuple[str, ...],
) -> None:
    """Whatever OpenVINO says of it."""
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", instructions)
    flags = "avx2 avx512f avx512_vnni avx512_bf16 amx_int8"
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags : {flags}\n")
    assert machine_module.cpu_features(tmp_path / "cpuinfo") == features
    fake = SimpleNamespace(get_property=lambda *_: ["FP32", "BF16", "FP16"])
    monkeypatch.setattr(machine_module, "core", lambda: fake)
    monkeypatch.setattr(machine_module, "_compiles_in", lambda _: True)
    assert machine_module.float_precisions() == precisions


@pytest.mark.parametrize("instructions", ["SSE41", "AVX2", "AVX512_CORE", "ALL"])
def test_every_precision_of_a_float_model_can_be_measured(
    colour_model: Path, instructions: str
) -> None:
    """OpenVINO names bfloat16 on CPUs that are held to older instructions, without kernels."""
    done = subprocess.run(
        [*COMMAND, "bench", str(colour_model), "--rounds", "1", "--bursts", "0"],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": instructions},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "fp32" in done.stdout
