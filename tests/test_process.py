"""The command line on odd machines, each in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from command_line import COMMAND, Outcome

HANG_S = 300
"""Longer than anything here takes on any machine."""
INSPECT = ("inspect", "digits_yolov6n", "--imgsz", "64")
WHOLE_JOB = (
    *("quantize", "digits_yolov6n", "--data", "digits/data.yaml", "--imgsz", "64", "--recipe"),
    *("minmax", "--calib-images", "4", "--calib-split", "val", "--output", "out"),
)
BREAKS = "import detq.api as a; a.load = lambda *_, **__: {body}"

Run = Callable[..., Outcome]


def _environment(tmp_path: Path, **changes: str | None) -> dict[str, str]:
    chosen = {**os.environ, "DETQ_CACHE": str(tmp_path / "cache"), **changes}
    return {name: value for name, value in chosen.items() if value is not None}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs the command line in ``tmp_path``. ``first`` is Python that runs before it."""

    def run(
        *arguments: str | Path,
        first: str = "",
        flags: tuple[str, ...] = (),
        wrapped: str = 'exec "$@"',
        **environment: str | None,
    ) -> Outcome:
        python, minus_c, code = COMMAND
        command = [python, *flags, minus_c, f"{first}\n{code}", *map(str, arguments)]
        done = subprocess.run(
            ["bash", "-c", wrapped, "bash", *command],
            cwd=tmp_path,
            env=_environment(tmp_path, **environment),
            capture_output=True,
            timeout=HANG_S,
            check=False,
        )
        return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from detq.data.digits import write_digits

    folder = tmp_path_factory.mktemp("scenes") / "digits"
    write_digits(folder, split="val", images=12, size_px=64)
    return folder


@pytest.fixture
def digits(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "digits").symlink_to(scenes)


# The last resort


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("{}['x']", "KeyError: 'x'"),
        ("[][:10**30][0]", "IndexError"),
        ("bytes(1 << 60)", "out of memory"),
        ("(f := lambda n: f(n) + 1)(1)", "RecursionError: maximum recursion depth"),
        ("exec('raise BaseException(chr(27))')", r"BaseException: \\x1b"),
        ("exec('raise OSError(\\'two\\\\nlines\\')')", "OSError: two lines"),
        ("__import__('asyncio').run(__import__('asyncio').sleep('x'))", "TypeError"),
    ],
)
def test_any_error_is_one_line_and_a_report(run: Run, tmp_path: Path, body: str, said: str) -> None:
    outcome = run(*INSPECT, first=BREAKS.format(body=body), TMPDIR=str(tmp_path))
    assert outcome.failed_well, outcome.err
    assert re.search(said, outcome.errors[0])
    (report,) = tmp_path.glob("detq-report-*.txt")
    assert outcome.errors[0].endswith(f"please report it with {report}")
    text = report.read_text()
    assert "Traceback (most recent call last)" in text
    assert "inspect digits_yolov6n --imgsz 64" in text
    assert re.search(r"^openvino \d", text, re.MULTILINE)
    assert str(os.environ.get("PATH")) not in text


def test_report_that_cannot_be_written_is_said(run: Run) -> None:
    nowhere = "import tempfile; tempfile._candidate_tempdir_list = lambda: ['/proc']\n"
    outcome = run(*INSPECT, first=nowhere + BREAKS.format(body="{}[1]"))
    assert outcome.failed_well
    assert "KeyError: 1" in outcome.errors[0]
    assert "no report could be written" in outcome.errors[0]


def test_error_of_a_thread_ends_the_command(run: Run, tmp_path: Path) -> None:
    """Whoever waits for the thread would wait for ever."""
    waits = "(__import__('threading').Thread(target=lambda: {}['x']).start(), "
    waits += "__import__('threading').Event().wait())"
    outcome = run(*INSPECT, first=BREAKS.format(body=waits), TMPDIR=str(tmp_path))
    assert outcome.failed_well
    assert "KeyError: 'x'" in outcome.errors[0]
    assert len(list(tmp_path.glob("detq-report-*.txt"))) == 1


# Standard streams


@pytest.mark.parametrize(
    "streams",
    ["| head -1", ">&- 2>&- <&-", "2> >(exec 0<&-)"],
)
def test_results_are_written_whoever_reads_along(run: Run, tmp_path: Path, streams: str) -> None:
    outcome = run(*INSPECT, "--json", "out.json", wrapped=f'set -o pipefail; "$@" {streams}')
    assert outcome.status == 0
    assert "Traceback" not in outcome.err
    assert (tmp_path / "out.json").read_text().endswith("}\n")
    assert os.listdir(tmp_path) == ["out.json"]  # noqa: PTH208


@pytest.mark.parametrize("unbuffered", ["1", None])
def test_full_disk_behind_standard_output(run: Run, unbuffered: str | None) -> None:
    outcome = run("--help", wrapped='"$@" >/dev/full', PYTHONUNBUFFERED=unbuffered)
    assert outcome.failed_well
    assert outcome.errors == ["error: No space left on device"]


# Places


def test_whole_job_without_home_few_files_no_asserts_and_an_ascii_locale(
    run: Run, digits: None, tmp_path: Path
) -> None:
    nobody = "import pwd; pwd.getpwuid = lambda uid: {}[uid]"
    outcome = run(
        *(*WHOLE_JOB, "--json", "out.json"),
        first=nobody,
        flags=("-O",),
        wrapped='ulimit -n 64; exec "$@"',
        **{"HOME": None, "DETQ_CACHE": None, "XDG_CACHE_HOME": None, "LC_ALL": "C"},
        **{"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "OMP_NUM_THREADS": "1"},
    )
    assert outcome.status == 0, outcome.err
    assert {path.name for path in tmp_path.iterdir()} == {"digits", "out", "out.json"}


def test_deleted_working_directory(run: Run, tmp_path: Path) -> None:
    gone = 'mkdir gone; cd gone; rmdir ../gone; exec "$@"'
    assert run(*INSPECT, "--json", tmp_path / "out.json", wrapped=gone).status == 0
    assert (tmp_path / "out.json").exists()
    outcome = run(*INSPECT, "--json", "out.json", wrapped=gone)
    assert outcome.failed_well
    assert "out.json: cannot be written" in outcome.errors[0]


def test_system_calls_that_other_systems_lack(run: Run) -> None:
    """macOS and Windows have no CPU affinity, Windows no fcntl, no SIGHUP, no load average."""
    lacking = (
        "import os, signal, sys; sys.modules['fcntl'] = None\n"
        "for name in ('sched_getaffinity', 'getloadavg', 'mkfifo', 'O_NONBLOCK', 'O_DIRECTORY'):"
        " delattr(os, name)\n"
        "for name in ('SIGHUP', 'SIGALRM', 'pthread_kill', 'alarm'): delattr(signal, name)\n"
        "import ctypes; ctypes.CDLL = type('CDLL', (ctypes.CDLL,),"
        " {'renameat2': property(lambda self: {}[0])})\n"
    )
    first = lacking.replace("{}[0]", "self.none")
    for _ in range(2):  # the second one replaces the first one's directory
        arguments = ("export", *INSPECT[1:], "--format", "openvino", "--output", "out")
        assert run(*arguments, first=first).status == 0
    outcome = run("bench", "out", "--rounds", "2", "--bursts", "0", first=lacking)
    assert outcome.status == 0, outcome.err
    assert "load -" in outcome.out


# OpenCV


@pytest.mark.parametrize("caller", ["detq", "python"])
def test_opencv_that_cannot_be_loaded_is_one_line_with_both_cures(run: Run, caller: str) -> None:
    lacking = (
        "import sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'cv2':\n"
        "            raise ImportError('libGL.so.1: cannot open shared object file')\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    if caller == "python":
        lacking += (
            "import detq\n"
            "try:\n"
            "    detq.load('digits_yolov6n')\n"
            "except detq.DetqError as error:\n"
            "    print(f'error: {error}', file=sys.stderr); sys.exit(1)\n"
        )
    outcome = run(*INSPECT, first=lacking)
    assert outcome.failed_well, outcome.err
    for word in ("libGL.so.1", "libgl1", "libglib2.0-0", "opencv-python-headless"):
        assert word in outcome.errors[0]


# Ends


@pytest.fixture
def measuring(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], psutil.Process]]:
    """``detq bench --source`` at work, and the process that it has started."""
    from detq.data.images import write_image

    write_image(tmp_path / "picture.png", np.zeros((64, 64, 3), np.uint8))
    command = [*COMMAND, "bench", "digits_yolov6n", "--imgsz", "64", "--rounds", "1"]
    with subprocess.Popen(
        [*command, "--bursts", "4", "--source", "picture.png"],
        cwd=tmp_path,
        env=_environment(tmp_path, TMPDIR=str(tmp_path)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield process, _until(lambda: psutil.Process(process.pid).children())[0]
        finally:
            process.kill()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGKILL"])
def test_what_a_command_started_ends_with_it(
    measuring: tuple[subprocess.Popen[bytes], psutil.Process], tmp_path: Path, name: str
) -> None:
    process, child = measuring
    process.send_signal(getattr(signal, name))
    _, errors = process.communicate(timeout=HANG_S)
    child.wait(HANG_S)
    if name != "SIGKILL":
        assert process.returncode == 1
        assert errors.decode().splitlines()[-1] == "error: interrupted; nothing was written"
        left = {path.name for path in tmp_path.iterdir()} - {"cache"}
        assert left == {"picture.png"}


def _until(condition: Callable[[], list[psutil.Process]]) -> list[psutil.Process]:
    end_s = time.monotonic() + HANG_S
    while time.monotonic() < end_s:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("it does not happen")


@pytest.mark.parametrize(("stated", "threads"), [(None, 1), ("2", 2)])
def test_opencv_keeps_to_one_thread_unless_told(
    tmp_path: Path, stated: str | None, threads: int
) -> None:
    code = (
        "import sys; from detq.cli import main; sys.argv = ['detq', '--version']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "from detq.opencv import cv2; print(cv2.getNumThreads())"
    )
    environment = _environment(tmp_path, OPENCV_FOR_THREADS_NUM=stated)
    said = subprocess.check_output([COMMAND[0], "-c", code], env=environment, text=True)
    assert int(said.splitlines()[-1]) == threads
