"""What is written is whole or not there; leftovers of the dead go, those of the living stay.

``tests/test_artifact.py`` has the same for exported directories.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import detq.files
from detq.files import atomic_write, clear_place, read_bytes, scratch_folder, staged, text_stem

LEFTOVER = ".detq-0123456789ab.part"
HOLDS = """
import sys
from pathlib import Path
from detq.files import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("half")
    print(folder, flush=True)
    sys.stdin.read()
"""


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A living process at work in a scratch folder of ``tmp_path``."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def test_file_appears_with_the_permissions_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    atomic_write(tmp_path / "a/b/file", b"content")
    assert (tmp_path / "a/b/file").read_bytes() == b"content"
    assert names(tmp_path / "a/b") == ["file"]
    assert (tmp_path / "a/b/file").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_permissions_of_a_replaced_file_stay(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    path.chmod(0o640)
    atomic_write(path, b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    for error in (OSError, KeyboardInterrupt):
        with pytest.raises(error), staged(path) as place:
            place.write_text("half")
            raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_longest_name_that_there_is(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    atomic_write(path, b"new")
    assert path.read_bytes() == b"new"


def test_what_a_killed_process_left_is_removed_by_the_next(
    tmp_path: Path, holder: tuple[subprocess.Popen[str], Path]
) -> None:
    process, folder = holder
    atomic_write(tmp_path / "file", b"meanwhile")
    assert (folder / "half").exists()  # it lives
    process.kill()
    process.wait()
    assert (folder / "half").exists()
    atomic_write(tmp_path / "file", b"after")
    assert names(tmp_path) == ["file"]


def test_names_that_a_user_may_give_are_left_alone(tmp_path: Path) -> None:
    kept = (".detq-part", ".detq-1.part", ".detq-0123456789AB.part", "detq-0123456789ab.part")
    for name in kept:
        (tmp_path / name).mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / LEFTOVER).symlink_to("elsewhere")
    atomic_write(tmp_path / "file", b"")
    assert set(names(tmp_path)) == {*kept, "elsewhere", LEFTOVER, "file"}


def test_without_locks_nothing_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows: who lives cannot be told."""
    monkeypatch.setattr(detq.files, "fcntl", None)
    (tmp_path / LEFTOVER).mkdir()
    atomic_write(tmp_path / "file", b"content")
    assert set(names(tmp_path)) == {LEFTOVER, "file"}


def test_folder_swept_before_it_was_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = []
    lock = detq.files.try_lock

    def swept_at_first(descriptor: int) -> bool:
        turns.append(descriptor)
        if len(turns) == 1:
            (folder,) = tmp_path.iterdir()
            folder.rmdir()
        return lock(descriptor)

    monkeypatch.setattr(detq.files, "try_lock", swept_at_first)
    with scratch_folder(tmp_path) as folder:
        assert folder.is_dir()
    assert len(turns) == 2


def test_exchange_is_one_step_here(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if detq.files._exchange(tmp_path / "a", tmp_path / "b"):
        assert (tmp_path / "a/b").exists()
        assert (tmp_path / "b/a").exists()
    else:
        assert (tmp_path / "a/a").exists()


def test_exchange_needs_both(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert not detq.files._exchange(tmp_path / "a", tmp_path / "absent")


def test_failed_second_rename_puts_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/old").touch()
    rename = Path.rename

    def fails(path: Path, target: Path) -> Path:
        if path.name == target.name == "model" and (path / "new").exists():
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(detq.files, "_exchange", lambda first, second: False)
    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="Input/output"), staged(tmp_path / "model") as place:
        place.mkdir()
        (place / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "old"]


@pytest.mark.parametrize(
    ("name", "stem"),
    [(b"a.b.pt", "a.b"), ("süß.pt".encode(), "süß"), (b"n\xff.pt", "n_"), (b"a:b.pt", "a:b")],
)
def test_stem_is_text(name: bytes, stem: str) -> None:
    assert text_stem(Path(os.fsdecode(name))) == stem


@pytest.mark.parametrize("kind", ["file", "folder", "fifo", "dead link", "nothing"])
def test_a_place_is_cleared_of_all_but_a_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "place"
    {
        "file": path.touch,
        "folder": lambda: (path / "below").mkdir(parents=True),
        "fifo": lambda: os.mkfifo(path),
        "dead link": lambda: path.symlink_to("nowhere"),
        "nothing": lambda: None,
    }[kind]()
    clear_place(path)
    assert names(tmp_path) == (["place"] if kind == "file" else [])


def test_a_generous_limit_takes_no_memory(tmp_path: Path) -> None:
    """A buffered read of n bytes takes n bytes before it knows how many there are."""
    (tmp_path / "small").write_bytes(b"abc")
    assert read_bytes(tmp_path / "small", most_bytes=1 << 60) == b"abc"
    with pytest.raises(OSError, match="more than 2 bytes"):
        read_bytes(tmp_path / "small", most_bytes=2)
    assert read_bytes(tmp_path / "small", most_bytes=3) == b"abc"
