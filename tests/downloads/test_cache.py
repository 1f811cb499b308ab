"""A name becomes a path once; what is in the cache needs no network and is never half there."""

from __future__ import annotations

import hashlib
import io
import os
import pwd
import shutil
import sys
import threading
import time
import zipfile
from collections import namedtuple
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
from file_server import FileServer

from detq.downloads import cache
from detq.downloads.cache import cache_folder, forget, is_cached, obtain_dataset, obtain_model
from detq.downloads.catalog import MODELS, Archive
from detq.errors import DownloadError

COCO = {
    "annotations_trainval2017.zip": {"annotations/instances_val2017.json": b"{}"},
    "val2017.zip": {"val2017/1.jpg": b"one" * 1000, "val2017/2.jpg": b"two"},
    "train2017.zip": {"train2017/3.jpg": b"three"},
}
COCO128 = {
    "coco128/LICENSE": b"terms",
    "coco128/images/train2017/1.jpg": b"one" * 100_000,
    "coco128/labels/train2017/1.txt": b"0 .5 .5 1 1",
}


def zipped(files: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def home(tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a server that has small files under the names of the real ones."""
    monkeypatch.setenv("DETQ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DETQ_MIRROR", server.address)
    server.files = {name: zipped(files) for name, files in COCO.items()}
    server.files |= {"yolov6n.pt": b"weights", "coco128.zip": zipped(COCO128)}
    return tmp_path / "cache"


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


# Models


def test_model_is_downloaded_once(
    server: FileServer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages: list[tuple[str, int, int]] = []
    path = obtain_model("yolov6n", progress=lambda *stage: stages.append(stage))
    assert path == home / "models/yolov6n.pt"
    assert path.read_bytes() == b"weights"
    assert stages == [("downloading yolov6n", 7, 7)]
    assert server.names == ["yolov6n.pt"]
    monkeypatch.setenv("DETQ_MIRROR", "no address")  # an error as soon as anybody looks at it
    assert obtain_model("yolov6n") == path
    assert len(server.requests) == 1
    record = f"{hashlib.sha256(b'weights').hexdigest()}  yolov6n.pt\n".encode()
    assert tree(home) == {"models/yolov6n.pt": b"weights", "models/yolov6n.pt.sha256": record}


@pytest.mark.parametrize(
    ("mirror", "address"),
    [
        (None, MODELS["yolov6n"].url),
        ("", MODELS["yolov6n"].url),
        ("http://inner/weights", "http://inner/weights/yolov6n.pt"),
        ("http://inner/weights/", "http://inner/weights/yolov6n.pt"),
    ],
)
def test_address(
    home: Path, monkeypatch: pytest.MonkeyPatch, mirror: str | None, address: str
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(cache, "download", lambda url, *_, **__: asked.append(url))
    if mirror is None:
        monkeypatch.delenv("DETQ_MIRROR")
    else:
        monkeypatch.setenv("DETQ_MIRROR", mirror)
    obtain_model("yolov6n")
    assert asked == [address]


def test_mirror_that_is_no_address(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETQ_MIRROR", "inner/weights")
    with pytest.raises(DownloadError, match=r"inner/weights/yolov6n.pt: not an http.*DETQ_MIRROR"):
        obtain_model("yolov6n")


def test_unknown_name(server: FileServer, home: Path) -> None:
    with pytest.raises(DownloadError, match="known: yolov6n"):
        obtain_model("../yolov6n")
    with pytest.raises(DownloadError, match="known: coco128"):
        obtain_dataset("yolov6n")
    assert server.requests == []
    assert not home.exists()


def test_model_that_does_not_load_is_forgotten(server: FileServer, home: Path) -> None:
    path = obtain_model("yolov6n")
    assert is_cached(path)
    assert forget(path)
    assert not path.exists()
    assert not forget(path)
    assert obtain_model("yolov6n") == path
    assert len(server.requests) == 2


def test_a_file_of_the_user_is_never_deleted(home: Path, tmp_path: Path) -> None:
    obtain_model("yolov6n")
    for path in (tmp_path / "yolov6n.pt", home / "yolov6n.pt", home / "models/own/yolov6n.pt"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"mine")
        assert not is_cached(path)
        assert not forget(path)
        assert path.exists()


DAMAGES = {
    "bit": lambda path: path.write_bytes(b"weightt"),
    "cut": lambda path: path.write_bytes(b"weig"),
    "folder": lambda path: (path.unlink(), (path / "folder").mkdir(parents=True)),
    "fifo": lambda path: (path.unlink(), os.mkfifo(path)),
    "dead link": lambda path: (path.unlink(), path.symlink_to("nowhere")),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_model_is_fetched_again(
    server: FileServer, home: Path, damage: Callable[[Path], object]
) -> None:
    path = obtain_model("yolov6n")
    damage(path)
    assert obtain_model("yolov6n") == path
    assert path.read_bytes() == b"weights"
    assert server.names == ["yolov6n.pt"] * 2


@pytest.mark.parametrize("record", [b"", b"no digest", b"0" * 64 + b"  yolov6n.pt\n"])
def test_damaged_record_of_a_digest_makes_the_model_be_fetched_again(
    server: FileServer, home: Path, record: bytes
) -> None:
    path = obtain_model("yolov6n")
    path.with_name("yolov6n.pt.sha256").write_bytes(record)
    obtain_model("yolov6n")
    assert len(server.requests) == 2
    obtain_model("yolov6n")
    assert len(server.requests) == 2


def test_file_put_there_by_hand_is_taken_and_watched_from_then_on(
    server: FileServer, home: Path
) -> None:
    path = home / "models/yolov6n.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"by hand")
    assert obtain_model("yolov6n").read_bytes() == b"by hand"
    assert not server.requests
    path.write_bytes(b"by hanD")
    assert obtain_model("yolov6n").read_bytes() == b"weights"


def test_known_digest_decides(
    server: FileServer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = hashlib.sha256(b"weights").hexdigest()
    known = {**MODELS, "yolov6n": replace(MODELS["yolov6n"], digest=digest)}
    monkeypatch.setattr("detq.downloads.catalog.MODELS", known)
    server.files["yolov6n.pt"] = b"another"
    with pytest.raises(DownloadError, match="sent another file than the one"):
        obtain_model("yolov6n")
    assert tree(home) == {}
    server.files["yolov6n.pt"] = b"weights"
    path = obtain_model("yolov6n")
    path.write_bytes(b"weighty")
    assert obtain_model("yolov6n").read_bytes() == b"weights"


@pytest.mark.parametrize("digest", ["", "abc", "G" * 64, "A" * 64])
def test_digest_in_the_catalogue_is_checked(digest: str) -> None:
    with pytest.raises(DownloadError, match="expected a SHA-256"):
        replace(MODELS["yolov6n"], digest=digest)
    with pytest.raises(DownloadError, match="expected a SHA-256"):
        Archive("http://host/a.zip", holds="a", digest=digest)


def test_part_that_is_a_folder_and_note_that_is_a_fifo(server: FileServer, home: Path) -> None:
    (home / "models/yolov6n.pt.part/folder").mkdir(parents=True)
    os.mkfifo(home / "models/yolov6n.pt.part.json")
    assert obtain_model("yolov6n").read_bytes() == b"weights"


# Where


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {"DETQ_CACHE": "/big/cache"}, "/big/cache"),
        ("linux", {"DETQ_CACHE": "~/big"}, "HOME/big"),
        ("darwin", {"DETQ_CACHE": "/big/cache"}, "/big/cache"),
        ("linux", {}, "HOME/.cache/detq"),
        ("linux", {"XDG_CACHE_HOME": "/xdg"}, "/xdg/detq"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "HOME/.cache/detq"),
        ("darwin", {"XDG_CACHE_HOME": "/xdg"}, "HOME/Library/Caches/detq"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/detq"),
        ("win32", {}, "HOME/AppData/Local/detq"),
    ],
)
def test_cache_folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    platform: str,
    environment: dict[str, str],
    expected: str,
) -> None:
    for key in ("DETQ_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(key, raising=False)
    for key, value in {**environment, "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert cache_folder() == Path(expected.replace("HOME", str(tmp_path)))


@pytest.mark.parametrize("chosen", [None, "~/here", "~nobody_of_that_name/here"])
def test_no_home_directory_is_said(monkeypatch: pytest.MonkeyPatch, chosen: str | None) -> None:
    """A container whose user is in no list of users."""
    for key in ("HOME", "DETQ_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(key, raising=False)
    if chosen is not None:
        monkeypatch.setenv("DETQ_CACHE", chosen)
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])
    with pytest.raises(DownloadError, match=r"no home directory .* set DETQ_CACHE"):
        cache_folder()
    assert not is_cached(Path(__file__))


def test_relative_cache_folder_becomes_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETQ_CACHE", "here")
    assert cache_folder() == tmp_path / "here"


# Data sets


def test_coco128(server: FileServer, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages: list[tuple[str, int, int]] = []
    folder = obtain_dataset("coco128", progress=lambda *stage: stages.append(stage))
    assert folder == home / "data/coco128"
    expected = {name.replace("coco128/", ""): content for name, content in COCO128.items()}
    assert tree(folder) == expected
    assert [path.name for path in (home / "data").iterdir()] == ["coco128"]
    assert {stage for stage, _, _ in stages} == {
        "downloading coco128.zip",
        "unpacking coco128.zip",
    }
    total = sum(map(len, COCO128.values()))
    assert stages[-1] == ("unpacking coco128.zip", total, total)
    monkeypatch.setenv("DETQ_MIRROR", "http://127.0.0.1:9")
    assert obtain_dataset("coco128") == folder


def test_coco(server: FileServer, home: Path) -> None:
    folder = obtain_dataset("coco")
    assert set(tree(folder)) == {
        "annotations/instances_val2017.json",
        "images/val2017/1.jpg",
        "images/val2017/2.jpg",
        "images/train2017/3.jpg",
    }
    assert [path.name for path in (home / "data").iterdir()] == ["coco"]


@pytest.mark.parametrize("stage", ["downloading", "unpacking"])
def test_stopped_run_goes_on_where_it_was(server: FileServer, home: Path, stage: str) -> None:
    def stop(current: str, done: int, total: int) -> None:
        if current == f"{stage} val2017.zip":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        obtain_dataset("coco", progress=stop)
    assert not (home / "data/coco").exists()
    assert server.names == ["annotations_trainval2017.zip", "val2017.zip"]
    server.requests.clear()
    folder = obtain_dataset("coco")
    assert len(tree(folder)) == 4
    assert "annotations_trainval2017.zip" not in server.names
    kept = len(server.files["val2017.zip"])
    assert server.ranges == ([f"bytes={kept}-", None] if stage == "downloading" else [None])
    assert [path.name for path in (home / "data").iterdir()] == ["coco"]


def test_leftovers_of_a_killed_run_do_not_get_into_the_data_set(home: Path) -> None:
    stale = home / "data/.coco128.unpacking/archive/coco128/images/train2017/stale.jpg"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"half")
    assert set(tree(obtain_dataset("coco128"))) == {
        name.replace("coco128/", "") for name in COCO128
    }


def test_archive_of_a_finished_step_is_removed_after_a_kill(server: FileServer, home: Path) -> None:
    """Killed between the rename of what was unpacked and the removal of its archive."""
    (home / "data/.coco.unpacking/dataset/annotations").mkdir(parents=True)
    (home / "data/annotations_trainval2017.zip").write_bytes(b"left")
    obtain_dataset("coco")
    assert server.names == ["val2017.zip", "train2017.zip"]
    assert [path.name for path in (home / "data").iterdir()] == ["coco"]


def damaged_content() -> bytes:
    stored = zipped(COCO128, zipfile.ZIP_STORED)
    return stored.replace(b"0 .5 .5 1 1", b"9 .5 .5 1 1")


def damaged_deflate() -> bytes:
    content = bytearray(zipped({"coco128/a": bytes(range(256)) * 99}))
    content[60:80] = b"\xff" * 20
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<html>Please log in</html>", "not a zip file"),
        (b"", "not a zip file"),
        (zipped(COCO128)[:-30], "not a zip file"),
        (damaged_content(), "CRC"),
        (damaged_deflate(), "coco128/a"),
        (zipped({"coco/1.jpg": b"one"}), "it holds no folder coco128"),
    ],
    ids=["page", "empty", "cut", "content", "deflate", "another"],
)
def test_damaged_archive_is_deleted_and_said(
    server: FileServer, home: Path, content: bytes, reason: str
) -> None:
    good, server.files["coco128.zip"] = server.files["coco128.zip"], content
    with pytest.raises(DownloadError) as raised:
        obtain_dataset("coco128")
    message = str(raised.value)
    assert "\n" not in message
    assert str(home / "data/coco128.zip") in message
    assert reason in message
    assert "run the command again" in message
    assert tree(home) == {}
    server.files["coco128.zip"] = good
    assert len(tree(obtain_dataset("coco128"))) == len(COCO128)


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/evil",
        "coco128/../../../evil",
        "coco128/a/../../evil",
        "C:evil",
        "C:/evil",
        "coco128/..\\..\\evil",
    ],
)
def test_entry_that_leaves_the_folder_is_refused(
    server: FileServer, home: Path, tmp_path: Path, name: str
) -> None:
    server.files["coco128.zip"] = zipped({**COCO128, name: b"evil"})
    with pytest.raises(DownloadError, match="would leave the folder"):
        obtain_dataset("coco128")
    assert tree(tmp_path) == {}


def test_too_little_space_to_unpack(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(9, 9, 200_000))
    with pytest.raises(DownloadError, match=r"coco128.zip: needs 0 MB in .*free some space"):
        obtain_dataset("coco128")
    assert set(tree(home)) == {"data/coco128.zip"}  # it is good: the next run needs no network


def test_disk_that_fills_while_unpacking(
    server: FileServer,
    home: Path,
    small_files: Callable[[int], AbstractContextManager[None]],
) -> None:
    with small_files(100_000), pytest.raises(DownloadError, match="data/coco128: cannot be writ"):
        obtain_dataset("coco128")
    assert set(tree(home)) == {"data/coco128.zip"}
    assert len(tree(obtain_dataset("coco128"))) == len(COCO128)
    assert len(server.requests) == 1


def test_cache_that_cannot_be_written(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("DETQ_CACHE", str(tmp_path / "file"))
    for obtain, name in ((obtain_model, "yolov6n"), (obtain_dataset, "coco128")):
        with pytest.raises(DownloadError, match=r"cannot be written.*DETQ_CACHE"):
            obtain(name)


def test_two_at_once_make_it_once(server: FileServer, home: Path) -> None:
    server.open_gate.clear()
    threads = [threading.Thread(target=obtain_dataset, args=("coco128",)) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    server.open_gate.set()
    for thread in threads:
        thread.join()
    assert len(tree(home / "data/coco128")) == len(COCO128)
    assert server.names == ["coco128.zip"]
    assert [path.name for path in (home / "data").iterdir()] == ["coco128"]
