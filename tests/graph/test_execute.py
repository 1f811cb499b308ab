"""Compiled models and the process that they live in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

PROGRAM = """
import os, signal
import openvino as ov
from openvino import opset15 as ops
from detq.graph.execute import compile_exact, core

def model():
    image = ops.parameter([1, 3, 8, 8], ov.Type.f32)
    return ov.Model([ops.result(ops.relu(image))], [image], "m")

first, second = compile_exact(model()), core().compile_model(model(), "CPU")
del first
del second
signal.signal(signal.SIGUSR1, lambda *_: print("heard"))
os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs the signals of POSIX")
def test_a_signal_after_two_models_does_not_end_the_process() -> None:
    """With a Core for each, the second left the thread with the first one's stack for signals."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**os.environ}, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, b"heard"), done.stderr
