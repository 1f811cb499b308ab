from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

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
