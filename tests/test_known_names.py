"""A name instead of a path: what detq brings along, and what it downloads, from a local server."""

from __future__ import annotations

import io
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import Command
from PIL import Image

from detq.api import sources
from detq.errors import CheckpointError

sys.path += [str(Path(__file__).parent / "downloads")]
from file_server import FileServer, serve


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FileServer]:
    """Answers in place of the internet; the cache is empty."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("DETQ_CACHE", str(tmp_path / "cache"))
    with serve() as running:
        monkeypatch.setenv("DETQ_MIRROR", running.address)
        yield running


def test_known_model_is_downloaded_once(detq: Command, server: FileServer, shared: Path) -> None:
    server.files = {"yolov6n.pt": (shared / "goldens/yolov6/yolov6n.pt").read_bytes()}
    first = detq("inspect", "yolov6n")
    assert first.status == 0, first.err
    assert "downloading yolov6n" in first.err
    assert "backbone.stem.conv" in first.out
    server.files = {}
    second = detq("inspect", "yolov6n")
    assert (second.status, second.out) == (0, first.out)
    assert "downloading" not in second.err
    assert server.names == ["yolov6n.pt"]


def test_file_of_that_name_wins(detq: Command, server: FileServer, shared: Path) -> None:
    shutil.copy(shared / "goldens/yolov6/yolov6n.pt", "yolov6s")
    outcome = detq("inspect", "yolov6s")
    assert outcome.failed_well
    assert "yolov6s: unknown kind of model file" in outcome.errors[0]
    assert not server.names


def test_download_that_does_not_load_is_removed(
    detq: Command, server: FileServer, tmp_path: Path
) -> None:
    server.files = {"yolov6n.pt": b"<html>Please log in to the network</html>" * 100}
    outcome = detq("inspect", "yolov6n")
    assert outcome.status == 1
    assert "the download was removed" in outcome.errors[0]
    assert len(outcome.errors) == 1
    assert not [*(tmp_path / "cache/models").glob("*.pt")]


def test_offline_is_said_in_one_line(
    detq: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DETQ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DETQ_MIRROR", "http://127.0.0.1:9")  # nobody listens on "discard"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    outcome = detq("inspect", "yolov6s")
    assert outcome.status == 1
    assert outcome.errors == outcome.err.splitlines()[-1:]
    assert "yolov6s.pt" in outcome.errors[0]


def test_unknown_name_lists_the_known_ones(detq: Command) -> None:
    outcome = detq("inspect", "yolov6q")
    assert outcome.failed_well
    for name in ("yolov6q", "digits_yolov6n", "yolov6s"):
        assert name in outcome.errors[0]


def _coco128() -> bytes:
    """The archive's layout, with two pictures of one colour."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name in ("000000000009", "000000000025"):
            picture = io.BytesIO()
            Image.new("RGB", (64, 48), (200, 30, 30)).save(picture, "jpeg")
            file.writestr(f"coco128/images/train2017/{name}.jpg", picture.getvalue())
            file.writestr(f"coco128/labels/train2017/{name}.txt", "0 0.5 0.5 0.5 0.5\n")
        file.writestr("coco128/LICENSE", "CC BY 4.0")
    return archive.getvalue()


def test_known_data_set_is_downloaded_once(
    detq: Command, server: FileServer, colour_model: Path
) -> None:
    server.files = {"coco128.zip": _coco128()}
    for _ in range(2):
        outcome = detq("eval", colour_model, "--data", "coco128")
        assert outcome.status == 1
        assert "person" in outcome.errors[0]  # read to the end: its classes are not the model's
    assert server.names == ["coco128.zip"]


def test_model_that_detq_brings_along_needs_no_network(detq: Command, server: FileServer) -> None:
    outcome = detq("inspect", "digits_yolov6n")
    assert outcome.status == 0, outcome.err
    assert not server.names


@pytest.mark.parametrize("damage", ["bit", "cut", "no sums", "empty sums"])
def test_damaged_embedded_model_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """One bit of a weight would change what is found, without a word."""
    folder = tmp_path / "weights"
    shutil.copytree(sources.EMBEDDED, folder)
    monkeypatch.setattr(sources, "EMBEDDED", folder)
    model, sums = folder / "digits_yolov6n.safetensors", folder / "SHA256SUMS"
    assert sources.load("digits_yolov6n", imgsz=64).spec.class_count == 10
    content = bytearray(model.read_bytes())
    if damage == "bit":
        content[len(content) // 2] ^= 1
        model.write_bytes(content)
    elif damage == "cut":
        model.write_bytes(content[:-1])
    elif damage == "no sums":
        sums.unlink()
    else:
        sums.write_text("")
    for name in ("digits_yolov6n", model):
        with pytest.raises(CheckpointError, match=r"is damaged.*install detq again"):
            sources.load(name, imgsz=64)
