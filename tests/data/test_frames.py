from __future__ import annotations

import gzip
import io
import os
import re
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from website import LOGIN, Website, website

from detq.data import frames as frames_module
from detq.data.frames import Cut, Item, read_frames, read_frames_of
from detq.data.images import ImageBGR, write_image
from detq.data.sources import Entry, Kind, find_entries
from detq.data.video import read_timed
from detq.errors import DamagedImageError, DataError, DetqError

_COUNT = count()
LEVELS = (10, 60, 110, 160, 210)
TAR_MODES = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}


@pytest.fixture
def site() -> Iterator[Website]:
    with website() as server:
        yield server


def picture(level: int) -> bytes:
    """A PNG that does not compress, and is as grey as it says."""
    noise = np.random.default_rng(level).integers(0, 2, (24, 32, 3), np.uint8)
    return bytes(cv2.imencode(".png", noise + np.uint8(level))[1])


def seen(image: ImageBGR | DetqError) -> int | str:
    """The level of a picture, or what an error says, which is one line."""
    if isinstance(image, DetqError):
        assert len(str(image).splitlines()) == 1
        assert "; " in str(image)  # what to do next
        return str(image)
    return int(image.mean())


def read(name: str | Path, kind: Kind, cut: Cut | None = None) -> list[tuple[Item, int | str]]:
    frames = read_frames_of(Entry(kind, (str(name),)), cut or Cut())
    return [(item, seen(image)) for item, image in frames]


def levels(read: Sequence[tuple[Item, int | str]]) -> list[int]:
    return [what for _, what in read if isinstance(what, int)]


def errors(read: Sequence[tuple[Item, int | str]]) -> list[str]:
    return [what for _, what in read if isinstance(what, str)]


# ---- which frames


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"every": 0}, "expected --every 1 or more"),
        ({"start_s": -1.0}, "--start 0 or more"),
        ({"most": 0}, "--max-images 1 or more"),
        ({"start_s": 2.0, "end_s": 2.0}, "--end 2 is not after --start 2"),
        ({"end_s": -1.0}, "--end -1 is not after --start 0"),
    ],
    ids=["every", "start", "most", "nothing between", "negative end"],
)
def test_wrong_cut_is_an_error(options: dict[str, float], said: str) -> None:
    with pytest.raises(DataError, match=said):
        Cut(**options)  # type: ignore[arg-type]


# ---- images


def test_images_in_order_and_errors_in_their_turns(tmp_path: Path) -> None:
    names = ["b.png", "none.png", "[1].png", "damaged.png", "a\0.png", "x" * 300, "a b.png", "."]
    for level, name in zip(LEVELS, ("b.png", "[1].png", "a b.png"), strict=False):
        (tmp_path / name).write_bytes(picture(level))
    (tmp_path / "damaged.png").write_bytes(picture(1)[:100])
    paths = tuple(str(tmp_path / name) for name in names)
    found = list(read_frames_of(Entry("images", paths)))
    assert [item for item, _ in found] == [Item(path, path) for path in paths]
    results = [seen(image) for _, image in found]
    assert [each for each in results if isinstance(each, int)] == [10, 60, 110]
    for index, said in (
        (1, "none.png: cannot be read (No such file or directory); check the path"),
        (3, "damaged.png: cannot be decoded"),
        (4, "cannot be read (embedded null byte); correct the list"),
        (5, "cannot be read (File name too long); check the path"),
        (7, "cannot be read (Is a directory)"),
    ):
        assert said in str(results[index])


def test_list_with_missing_files_goes_on(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(10))
    (tmp_path / "list.txt").write_text("none.png\na.png\nsub/none.png\na.png\n")
    (entry,) = find_entries([str(tmp_path / "list.txt")], size=9)
    results = [seen(image) for _, image in read_frames_of(entry)]
    assert [isinstance(result, str) for result in results] == [True, False, True, False]


def test_name_that_is_no_unicode(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")
    Path(path).write_bytes(picture(10))
    Path(path).with_name(os.fsdecode(b"\xfe.png")).write_bytes(b"")
    (entry,) = find_entries([str(tmp_path)], size=9)
    (_, damaged), (item, image) = read_frames_of(Entry.from_dict(entry.to_dict()))
    assert (item.id, seen(image)) == (path, 10)
    assert "\\udcfe.png: cannot be decoded" in str(seen(damaged))


def test_images_of_the_web_and_of_stores(site: Website) -> None:
    site.files |= {"a.png": picture(10), "b.png": picture(60), "c.png": b"no picture"}
    store = f"memory:///frames{next(_COUNT)}"
    fsspec.filesystem("memory").pipe(f"{store}/d e.png", picture(110))
    shown = [*("a.png", "none.png", "private/b.png", "short/b.png", "chunked/b.png", "c.png")]
    names = [site.at(name, login=LOGIN) for name in shown]
    entry = Entry("images", (*names, f"{store}/d e.png", f"{store}/none.png"))
    found = list(read_frames_of(entry))
    ids = [*map(site.at, shown), f"{store}/d e.png", f"{store}/none.png"]
    assert [item.id for item, _ in found] == [item.source for item, _ in found] == ids
    results = [seen(image) for _, image in found]
    assert [each for each in results if isinstance(each, int)] == [10, 60, 110]
    for name, result in zip(ids, results, strict=True):
        assert isinstance(result, int) or result.startswith(f"{name}: ")
        assert "secret" not in str(result)
    fsspec.filesystem("memory").store.clear()


def test_images_are_not_all_opened_at_once(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(40)]
    for path in paths:
        path.write_bytes(picture(10))
    frames = read_frames_of(Entry("images", tuple(map(str, paths))))
    next(frames)
    for path in paths[20:]:
        path.unlink()
    assert sum(isinstance(image, DetqError) for _, image in frames) == 20


# ---- archives


def tar(path: Path, members: Sequence[tuple[str | tarfile.TarInfo, bytes]]) -> Path:
    mode = next((mode for end, mode in TAR_MODES.items() if path.name.endswith(end)), "w")
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for member, content in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            if info.isreg():
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def zipped(path: Path, names: Sequence[str], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for level, name in zip(LEVELS, names, strict=False):
            archive.writestr(name, picture(level))
    return path


def archive_of(path: Path, names: Sequence[str]) -> Path:
    if path.suffix == ".zip":
        return zipped(path, names)
    contents = map(picture, LEVELS)
    return tar(path, list(zip(names, contents, strict=False)))


def kind_by(path: Path) -> Kind:
    return "zip" if path.suffix == ".zip" else "tar"


ENDS = [*TAR_MODES, ".zip"]


@pytest.mark.parametrize("end", ENDS)
def test_archive_is_its_images_in_its_order(tmp_path: Path, end: str) -> None:
    names = ["z.png", "a b/[1].PNG", "notes.txt", "x/._a.png", "ä.png"]
    path = archive_of(tmp_path / f"a{end}", names)
    expected = [("z.png", 0, 10), ("a b/[1].PNG", 1, 60), ("ä.png", 2, 210)]
    assert read(path, kind_by(path)) == [
        (Item(f"{path}/{name}", str(path), index), level) for name, index, level in expected
    ]


@pytest.mark.parametrize("end", ENDS)
def test_most_of_an_archive(tmp_path: Path, end: str) -> None:
    path = archive_of(tmp_path / f"a{end}", [f"{level}.png" for level in LEVELS])
    assert levels(read(path, kind_by(path), Cut(most=2))) == [10, 60]


@pytest.mark.parametrize("end", ENDS)
def test_damaged_member_is_an_error_in_its_turn(tmp_path: Path, end: str) -> None:
    path = tmp_path / f"a{end}"
    if end == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in (("a.png", picture(10)), ("b.png", b"no"), ("c.png", picture(60))):
                archive.writestr(name, content)
    else:
        tar(path, [("a.png", picture(10)), ("b.png", b"no"), ("c.png", picture(60))])
    found = read(path, kind_by(path))
    assert [item.index for item, _ in found] == [0, 1, 2]
    assert levels(found) == [10, 60]
    assert errors(found)[0].startswith(f"{path}/b.png: cannot be decoded")


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.9], ids="kept {:.0%}".format)
def test_truncated_archive_says_so_after_what_it_has(tmp_path: Path, end: str, kept: float) -> None:
    path = archive_of(tmp_path / f"a{end}", [f"{level}.png" for level in LEVELS])
    content = path.read_bytes()
    place = int(kept * len(content))
    if end == ".tar" and place:  # between two images it would not be seen
        place = content.index(b"IDAT", content.index(f"{LEVELS[int(5 * kept)]}.png".encode()))
    path.write_bytes(content[:place])
    found = read(path, kind_by(path))
    item, said = found[-1]
    assert item == Item(str(path), str(path))
    assert str(said).startswith(f"{path}: the archive cannot be read on (")
    assert str(said).endswith("); replace the file")
    assert levels(found) == list(LEVELS[: len(found) - 1])
    assert kept < 0.5 or end != ".tar" or len(found) == int(5 * kept) + 1


@pytest.mark.parametrize("length", range(1, 18))
def test_gzip_header_that_is_cut(tmp_path: Path, length: int) -> None:
    """``tarfile`` raises a TypeError for some."""
    header = io.BytesIO()
    with gzip.GzipFile("a name", "wb", fileobj=header) as file:
        file.write(bytes(1024))
    (tmp_path / "a.tgz").write_bytes(header.getvalue()[:length])
    (said,) = errors(read(tmp_path / "a.tgz", "tar"))
    assert "cannot be read on" in said


@pytest.mark.parametrize("end", ENDS)
def test_archive_without_images_is_no_frames(tmp_path: Path, end: str) -> None:
    path = archive_of(tmp_path / f"a{end}", ["notes.txt", ".a.png"])
    assert read(path, kind_by(path)) == []


@pytest.mark.parametrize("end", ENDS)
def test_archive_that_is_not_there(tmp_path: Path, end: str) -> None:
    (said,) = errors(read(tmp_path / f"a{end}", kind_by(Path(f"a{end}"))))
    assert said == f"{tmp_path}/a{end}: cannot be read (No such file or directory); check the name"


def _special(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def test_only_files_of_a_tar_are_read_and_none_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tar(
        tmp_path / "a.tar",
        [
            ("first.png", picture(10)),
            _special("hard.png", tarfile.LNKTYPE, "first.png"),
            _special("soft.png", tarfile.SYMTYPE, "/etc/passwd"),
            _special("device.png", tarfile.CHRTYPE),
            _special("fifo.png", tarfile.FIFOTYPE),
            _special("folder.png", tarfile.DIRTYPE),
            (f"{tmp_path}/absolute.png", picture(60)),
            ("../../above.png", picture(110)),
            ("last.png", picture(160)),
        ],
    )
    (tmp_path / "here/deeper").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here/deeper")
    before = sorted(tmp_path.rglob("*"))
    found = read(path, "tar")
    assert [item.id for item, _ in found] == [
        *(f"{path}/first.png", f"{path}/{tmp_path}/absolute.png"),
        *(f"{path}/../../above.png", f"{path}/last.png"),
    ]
    assert levels(found) == [10, 60, 110, 160]
    assert sorted(tmp_path.rglob("*")) == before


def test_names_of_a_zip_that_lead_elsewhere_are_names(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", ["/absolute.png", "../above.png"])
    before = sorted(tmp_path.rglob("*"))
    assert [item.id for item, _ in read(path, "zip")] == [
        *(f"{path}//absolute.png", f"{path}/../above.png")
    ]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "compression",
    [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA],
    ids=["stored", "deflated", "bzip2", "lzma"],
)
def test_damaged_bytes_of_one_zip_member_leave_the_others(tmp_path: Path, compression: int) -> None:
    """zlib's error is no OSError, and ended the run."""
    path = zipped(tmp_path / "a.zip", ["a.png", "b.png", "c.png"], compression)
    assert levels(read(path, "zip")) == [10, 60, 110]
    content = bytearray(path.read_bytes())
    start = content.index(b"b.png") + len("b.png")
    content[start : start + 60] = bytes(60)
    path.write_bytes(content)
    found = read(path, "zip")
    assert levels(found) == [10, 110]
    assert errors(found)[0].startswith(f"{path}/b.png: ")
    assert [item.index for item, _ in found] == [0, 1, 2]


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [(6, 1, "is encrypted, password required"), (8, 99, "compression method is not supported")],
    ids=["encrypted", "unknown method"],
)
def test_zip_member_that_cannot_be_opened(
    tmp_path: Path, place: int, value: int, said: str
) -> None:
    path = zipped(tmp_path / "a.zip", ["a.png", "b.png"])
    content = bytearray(path.read_bytes())
    content[place] = value  # of the first member
    content[content.index(b"PK\1\2") + place + 2] = value
    path.write_bytes(content)
    found = read(path, "zip")
    assert levels(found) == [60]
    assert said in errors(found)[0]
    assert errors(found)[0].endswith("; replace it")


@pytest.mark.parametrize("end", [".tar", ".zip"])
def test_member_that_is_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    small, large = picture(10), picture(60) + bytes(100)
    path = tmp_path / f"a{end}"
    if end == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in (("a.png", small), ("b.png", large), ("c.png", small)):
                archive.writestr(name, content)
    else:
        tar(path, [("a.png", small), ("b.png", large), ("c.png", small)])
    monkeypatch.setattr(frames_module, "MOST_BYTES", len(small))
    found = read(path, kind_by(path))
    assert levels(found) == [10, 10]
    assert errors(found) == [f"{path}/b.png: has more than {len(small)} bytes; leave it out"]


@pytest.mark.parametrize("end", [".tar", ".tgz", ".zip"])
def test_archives_of_the_web_and_of_stores(tmp_path: Path, site: Website, end: str) -> None:
    content = archive_of(tmp_path / f"a{end}", ["a.png", "b.png"]).read_bytes()
    site.files[f"a{end}"] = content
    store = f"memory:///frames{next(_COUNT)}/a{end}"
    fsspec.filesystem("memory").pipe(store, content)
    address = site.at(f"private/a{end}")
    for name, shown in ((site.at(f"private/a{end}", login=LOGIN), address), (store, store)):
        found = read(name, kind_by(Path(f"a{end}")))
        assert found == [
            (Item(f"{shown}/a.png", shown, 0), 10),
            (Item(f"{shown}/b.png", shown, 1), 60),
        ]
    fsspec.filesystem("memory").store.clear()


@pytest.mark.parametrize("how", ["none/", "short/", "chunked/", "silent/", "private/", "nonsense/"])
@pytest.mark.parametrize("end", [".tar", ".tgz", ".zip"])
def test_archive_that_the_web_does_not_send(
    tmp_path: Path, site: Website, end: str, how: str
) -> None:
    place = f"{how}a{end}"
    if how != "none/":
        path = archive_of(tmp_path / f"a{end}", ["a.png"])
        site.files[f"a{end}"] = path.read_bytes().rstrip(b"\0")
    found = read(site.at(place, login="me:geheim"), kind_by(Path(f"a{end}")))
    assert found[-1][0] == Item(site.at(place), site.at(place))
    assert errors(found) == [found[-1][1]]
    assert str(found[-1][1]).startswith(f"{site.at(place)}: ")
    assert "geheim" not in str(found)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_bytes_of_an_archive_are_frames_or_errors(data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        end = data.draw(st.sampled_from(ENDS))
        path = archive_of(Path(folder) / f"a{end}", ["a.png", "b.png"])
        content = bytearray(path.read_bytes())
        if data.draw(st.booleans()):
            for _ in range(data.draw(st.integers(1, 8))):
                # Where headers are, more often than elsewhere.
                place = data.draw(st.integers(0, 300) | st.integers(0, len(content) - 1))
                from_end = data.draw(st.booleans()) and end == ".zip"
                content[len(content) - 1 - place if from_end else place] = data.draw(
                    st.integers(0, 255)
                )
        else:
            start = data.draw(
                st.sampled_from([b"", b"\x1f\x8b\x08", b"BZh9", b"\xfd7zXZ\0", b"PK"])
            )
            content = bytearray(start + data.draw(st.binary(max_size=600)))
        path.write_bytes(content)
        for item, what in read(path, kind_by(path)):
            assert item.source == str(path)
            assert isinstance(what, int) or what.startswith(str(path))


def test_reader_who_leaves_ends_the_decoding(tmp_path: Path) -> None:
    for end in ENDS:
        path = archive_of(tmp_path / f"a{end}", [f"{level}.png" for level in LEVELS])
        frames = read_frames_of(Entry(kind_by(path), (str(path),)))
        next(frames)
        frames.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


# ---- videos


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty frames, two seconds, ever lighter."""
    path = tmp_path_factory.mktemp("video") / "a b.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    for number in range(20):
        writer.write(np.full((48, 64, 3), 10 * number, np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize(
    ("cut", "numbers"),
    [
        (Cut(), range(20)),
        (Cut(every=3), range(0, 20, 3)),
        (Cut(every=100), [0]),
        (Cut(start_s=0.95), range(10, 20)),
        (Cut(end_s=0.45), range(5)),
        (Cut(end_s=0.5), range(5)),
        (Cut(start_s=0.5, end_s=1.25, every=2), [5, 7, 9, 11]),
        (Cut(most=4), range(4)),
        (Cut(start_s=0.95, every=4, most=2), [10, 14]),
    ],
    ids=[
        *("all", "every", "first", "start", "end", "end is left out", "between", "most"),
        "start, every and most",
    ],
)
def test_frames_of_a_video(video: Path, cut: Cut, numbers: Sequence[int]) -> None:
    found = read(video, "video", cut)
    assert [item.id for item, _ in found] == [f"{video}#{number}" for number in numbers]
    assert [item.index for item, _ in found] == list(numbers)
    assert {item.source for item, _ in found} <= {str(video)}
    np.testing.assert_allclose([item.time_s for item, _ in found], np.array(numbers) / 10)
    np.testing.assert_allclose(levels(found), 10 * np.array(numbers), atol=6)


def test_a_video_that_ends_before_the_start_says_so(video: Path) -> None:
    ((item, error),) = read(video, "video", Cut(start_s=100.0))
    assert item.id == str(video)
    assert "no frame between --start and --end" in str(error)


def test_frames_of_a_video_are_not_one_buffer(video: Path) -> None:
    (_, _, first), (_, _, second) = islice(read_timed(str(video), every=10), 2)
    assert int(second.mean()) - int(first.mean()) > 50


@pytest.mark.parametrize("name", [b"http:b.mp4", b"n\xff.mp4", b"%d.mp4"], ids=ascii)
def test_video_whose_name_opencv_takes_for_something_else(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(os.fsdecode(name))
    path.write_bytes(video.read_bytes())
    assert len(read(path, "video")) == 20


@pytest.mark.parametrize("name", ["none.mp4", "broken.mp4", "empty.mp4", "folder.mp4", "cut.mp4"])
def test_video_that_is_none_is_one_error(tmp_path: Path, video: Path, name: str) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"not a video" * 100)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "cut.mp4").write_bytes(video.read_bytes()[:500])
    path = str(tmp_path / name)
    assert read(path, "video") == [
        (
            Item(path, path),
            f"{path}: no frames; not a video that OpenCV can decode, or no such file",
        )
    ]


def moving(path: Path) -> bytes:
    """As AVI, which can be read from its beginning on."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for number in range(5):
        writer.write(np.full((48, 64, 3), 50 * number, np.uint8))
    writer.release()
    return path.read_bytes()


def test_video_of_the_web(tmp_path: Path, site: Website) -> None:
    site.files["a.avi"] = moving(tmp_path / "a.avi")
    name, shown = site.at("private/a.avi", login=LOGIN), site.at("private/a.avi")
    found = read(name, "video", Cut(every=2))
    assert [item.id for item, _ in found] == [f"{shown}#0", f"{shown}#2", f"{shown}#4"]
    (said,) = errors(read(site.at("none.avi", login=LOGIN), "video"))
    assert said.startswith(f"{site.at('none.avi')}: no frames")


# ---- live


def test_live_source_that_fails_and_one_that_goes_on(tmp_path: Path, site: Website) -> None:
    site.files["live"] = moving(tmp_path / "a.avi")
    address = site.at("private/live", login=LOGIN)
    (entry,) = find_entries([address, "63"], size=9)
    assert entry == Entry("live", (address, "63"))
    frames = read_frames_of(entry, Cut(most=1))
    found = {item.source: (item, seen(image)) for item, image in frames}
    assert set(found) == {site.at("private/live"), "camera 63"}
    item, level = found[site.at("private/live")]
    assert item.id == f"{item.source}#{item.index}"
    assert item.time_s is not None
    assert isinstance(level, int)
    item, said = found["camera 63"]
    assert item.id == "camera 63#0"
    assert str(said).startswith("camera 63: cannot be opened; connect one")


def test_end_of_live_sources(tmp_path: Path, site: Website) -> None:
    site.files["live"] = moving(tmp_path / "a.avi")
    frames = read_frames_of(Entry("live", (site.at("live"),)), Cut(end_s=0.05))
    assert all(item.time_s is not None and item.time_s < 0.05 for item, _ in frames)


def test_damaged_is_told_from_refused(tmp_path: Path) -> None:
    """A damaged image is one less; a FIFO is a mistake."""
    os.mkfifo(tmp_path / "fifo.png")
    entry = Entry("images", (str(tmp_path / "none.png"), str(tmp_path / "fifo.png")))
    (_, missing), (_, fifo) = read_frames_of(entry)
    assert isinstance(missing, DamagedImageError)
    assert isinstance(fifo, DataError)
    assert not isinstance(fifo, DamagedImageError)


def test_a_fifo_called_a_video_is_no_video(tmp_path: Path) -> None:
    """FFmpeg would wait for somebody to write into it."""
    os.mkfifo(tmp_path / "a.mp4")
    ((_, error),) = read(tmp_path / "a.mp4", "video", Cut())
    assert "not a video that OpenCV can decode" in str(error)


def test_one_reader_for_any_source(tmp_path: Path) -> None:
    """As many pictures as there are, and the first that cannot be read is an error in its turn."""
    for name in ("a.png", "c.png"):
        write_image(tmp_path / name, np.full((8, 8, 3), 7, np.uint8))
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(tmp_path / "a.png", "x/a.png")
    (tmp_path / "list.txt").write_text("a.png\nc.png\n")
    sources = (tmp_path / "all.zip", tmp_path / "list.txt", str(tmp_path / "*.png"))
    assert len(list(read_frames(*sources))) == 5
    (tmp_path / "b.png").write_bytes(b"no image")
    pictures = read_frames(tmp_path / "*.png")
    next(pictures)
    with pytest.raises(DataError, match=r"b\.png"):
        next(pictures)
    with pytest.raises(DataError, match="no such image"):
        read_frames(tmp_path / "missing")


@pytest.mark.parametrize("ending", [".avi", ".mp4"])
def test_video_that_ends_early_says_so(tmp_path: Path, ending: str) -> None:
    """What could be read is there, and then why there is no more."""
    path = tmp_path / f"film{ending}"
    writer = cv2.VideoWriter(
        str(path), cv2.VideoWriter.fourcc(*("MJPG" if ending == ".avi" else "mp4v")), 10, (64, 48)
    )
    for number in range(40):
        noise = np.random.default_rng(number).integers(0, 255, (48, 64, 3), np.uint8)
        writer.write(noise)
    writer.release()
    whole = path.read_bytes()
    (entry,) = find_entries([str(path)], size=8)
    assert [item.index for item, _ in read_frames_of(entry)] == list(range(40))
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(len(whole) // 4) + whole[middle + len(whole) // 4 :])
    *frames, (last, error) = read_frames_of(entry)
    assert 0 < len(frames) < 40
    assert last.id == str(path)
    assert re.search(r"ends after \d+ of 40 frames; it is damaged", str(error))
    some = [item.index for item, _ in read_frames_of(entry, Cut(most=5))]
    assert some == [0, 1, 2, 3, 4]


def test_times_that_are_no_numbers_are_refused() -> None:
    for wrong in ({"end_s": float("nan")}, {"start_s": float("nan")}):
        with pytest.raises(DataError, match=r"nan|expected"):
            Cut(**wrong)
