"""A seeded sample of tools/fuzz.py: edited files are read, or refused in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[1] / "tools/fuzz.py"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts what children use")


@pytest.mark.parametrize(
    ("formats", "examples"),
    [(("json", "image", "zip", "cache"), 60), (("checkpoint", "yaml"), 40), (("onnx", "ir"), 4)],
    ids=["data", "models", "graphs"],
)
def test_edited_files_end_well(
    shared: Path, tmp_path: Path, formats: tuple[str, ...], examples: int
) -> None:
    environment = {**os.environ, "DETQ_SHARED": str(shared), "DETQ_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, FUZZ, *formats, "--examples", str(examples), "--keep", tmp_path / "kept"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == list(formats)
