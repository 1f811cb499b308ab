"""What sources are taken apart into; ``test_sources.py`` is the name of another module."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from website import Website, website

from detq.data.sources import LIST_COLUMNS, Entry, Kind, Wide, find_entries, kind_of, listed
from detq.errors import DataError

_COUNT = count()


@pytest.fixture
def site() -> Iterator[Website]:
    with website() as server:
        yield server


@pytest.fixture
def store() -> Iterator[str]:
    """A folder of a store in memory."""
    yield f"memory:///bucket{next(_COUNT)}"
    fsspec.filesystem("memory").store.clear()


def touch(folder: Path, *names: str) -> list[str]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return [str(folder / name) for name in names]


def pieces(*sources: str | Path, size: int = 1000, **options: Any) -> list[Entry]:
    return list(find_entries([str(source) for source in sources], size=size, **options))


def names_of(entries: Sequence[Entry]) -> list[str]:
    return [name for entry in entries for name in entry.names]


# ---- what a name stands for


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("0", "live"),
        ("/dev/video12", "live"),
        ("rtsp://me:secret@box/a.jpg", "live"),
        ("RTSP://box/a", "live"),
        ("http://box", "live"),
        ("http://box:81/stream?name=a.jpg", "live"),
        ("http://box.zip", "live"),
        ("http://box/a.JPG", "images"),
        ("https://box/a.jpg?size=[1]#b.zip", "images"),
        ("http://box/a.tar.gz", "tar"),
        ("http://box/a.zip?key=1", "zip"),
        ("http://box/list.parquet?key=1", "list"),
        ("http://[box/a.mp4", "video"),
        ("s3://bucket/a.jpg", "images"),
        ("s3://bucket/a#1.jpg", "images"),
        ("s3://bucket/photos", "folder"),
        ("s3://bucket.zip", "folder"),
        ("s3://bucket/*.jpg", "pattern"),
        ("s3://bucket/a[1].jpg", "pattern"),
        ("gs://bucket/list.txt", "list"),
        ("none*.jpg", "pattern"),
        ("none/**/a?.jpg", "pattern"),
    ],
)
def test_kind_by_name_alone(name: str, kind: Wide) -> None:
    assert kind_of(name) == kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.jpg", "images"),
        ("a.JPEG", "images"),
        ("[1].jpg", "images"),
        ("a b.png", "images"),
        ("\udcff.png", "images"),
        ("a.tar", "tar"),
        ("a.TAR.GZ", "tar"),
        ("a.tgz", "tar"),
        ("a.tar.bz2", "tar"),
        ("a.tar.xz", "tar"),
        ("a.zip", "zip"),
        ("a.mp4", "video"),
        ("a.txt", "list"),
        ("a.parquet", "list"),
    ],
    ids=ascii,
)
def test_kind_of_a_file(tmp_path: Path, name: str, kind: Wide) -> None:
    touch(tmp_path, name)
    assert kind_of(str(tmp_path / name)) == kind


@pytest.mark.parametrize("name", ["photos", "a.jpg", "a.zip", "[1]"])
def test_a_folder_is_one_whatever_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    assert kind_of(str(tmp_path / name)) == "folder"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none.jpg", "no such image or folder; check the path"),
        ("x" * 300, "no such image or folder; check the path"),
        ("a\0.jpg", "no such image or folder; check the path"),
        ("notes.md", "not an image or another source by its name; known: .avi"),
        ("a.gz", "not an image or another source by its name"),
        ("jpg", "not an image or another source by its name"),
    ],
    ids=["missing", "too long", "zero byte", "unknown", "no tar", "no ending"],
)
def test_what_is_no_source_is_an_error(tmp_path: Path, name: str, said: str) -> None:
    touch(tmp_path, "notes.md", "a.gz", "jpg")
    with pytest.raises(DataError, match=said):
        kind_of(str(tmp_path / name))


# ---- entries


NAMES = st.text(st.characters(min_codepoint=0, max_codepoint=0xFFFF), max_size=12)


@given(
    kind=st.sampled_from(["images", "tar", "zip", "video", "live"]),
    names=st.lists(NAMES | st.binary(max_size=6).map(os.fsdecode), max_size=5),
    base=NAMES,
)
def test_entry_comes_back_from_json(kind: Kind, names: list[str], base: str) -> None:
    entry = Entry(kind, tuple(names), base)
    assert Entry.from_dict(json.loads(json.dumps(entry.to_dict()))) == entry
    assert entry.images == (len(names) if kind == "images" else None)


LISTED = st.lists(
    st.text("ab 1[]*.#?ä/", min_size=1, max_size=8).map(str.strip).filter(bool), min_size=1
)


@settings(max_examples=60, deadline=None)
@given(names=LISTED, size=st.integers(1, 7), most=st.none() | st.integers(1, 9))
def test_pieces_of_a_list_put_together_are_the_list(
    names: list[str], size: int, most: int | None
) -> None:
    """Whether the files are there is not asked."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "list.txt"
        path.write_text("\n".join(names))
        entries = pieces(path, size=size, most=most)
        expected = [str(Path(folder) / name) for name in names[:most]]
        assert names_of(entries) == expected
        assert all(len(entry.names) == size for entry in entries[:-1])
        assert 1 <= len(entries[-1].names) <= size
        assert {(entry.kind, entry.base) for entry in entries} == {("images", folder)}


MIXED = st.lists(
    st.sampled_from(
        ["a.png", "b c.jpg", "[1].jpg", "._a.jpg", "v.mp4", "t.tar", "z.zip", "n.txt"]
    ).flatmap(lambda name: st.sampled_from(["", "x/", "x/y/"]).map(lambda place: place + name)),
    min_size=1,
    unique=True,
)


@settings(max_examples=60, deadline=None)
@given(names=MIXED, size=st.integers(1, 4))
def test_pieces_of_a_folder_put_together_are_its_sources(names: list[str], size: int) -> None:
    with TemporaryDirectory() as folder:
        touch(Path(folder), *names)
        wanted = sorted(name for name in names if not name.endswith(("._a.jpg", ".txt")))
        if not wanted:
            with pytest.raises(DataError, match="no images; looked for"):
                pieces(folder, size=size)
            return
        entries = pieces(folder, size=size)
        assert sorted(names_of(entries)) == sorted(str(Path(folder) / name) for name in wanted)
        assert entries == pieces(folder, size=size)
        for entry in entries:
            assert entry.base == folder
            assert len(entry.names) <= (size if entry.kind == "images" else 1)
            assert {kind_of(name) for name in entry.names} == {entry.kind}


def test_each_kind_in_the_order_of_the_sources_and_live_ones_last(tmp_path: Path) -> None:
    image, video, tar, zip_ = touch(tmp_path, "a.png", "a.mp4", "a.tgz", "a.zip")
    (tmp_path / "list.txt").write_text("b.png\nc.png\n")
    touch(tmp_path, "photos/d.png")
    base = str(tmp_path)
    sources = ["1", video, image, "rtsp://box", tmp_path / "list.txt", zip_, tar]
    assert pieces(*sources, tmp_path / "photos", f"{base}/?.png", "http://box/e.png") == [
        Entry("video", (video,), base),
        Entry("images", (image,), base),
        Entry("images", (f"{base}/b.png", f"{base}/c.png"), base),
        Entry("zip", (zip_,), base),
        Entry("tar", (tar,), base),
        Entry("images", (f"{base}/photos/d.png",), f"{base}/photos"),
        Entry("images", (image,), base),
        Entry("images", ("http://box/e.png",), "http://box"),
        Entry("live", ("1", "rtsp://box")),
    ]


def test_nothing_is_no_work() -> None:
    assert pieces() == []


def test_most_is_of_each_source(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{number}.png" for number in range(5)))
    (tmp_path / "list.txt").write_text("7.png\n8.png\n9.png")
    entries = pieces(tmp_path, tmp_path / "list.txt", f"{tmp_path}/*.png", size=2, most=3)
    names = [Path(name).stem for name in names_of(entries)]
    assert names == ["0", "1", "2", "7", "8", "9", "0", "1", "2"]


def test_folder_is_read_as_it_is_asked_for(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{number}/a.png" for number in range(3)))
    entries = find_entries([str(tmp_path), str(tmp_path / "none.png")], size=1)
    next(entries)
    touch(tmp_path, "2/b.png")
    later = [next(entries), next(entries), next(entries)]
    assert [os.path.relpath(name, tmp_path) for name in names_of(later)] == [
        *("1/a.png", "2/a.png", "2/b.png")
    ]
    with pytest.raises(DataError, match=r"none\.png: no such image"):
        next(entries)


def test_list_is_read_as_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"a.png\n" * 100_000 + b"\xff\n")
    entries = find_entries([str(tmp_path / "list.txt")], size=10)
    assert len(next(entries).names) == 10
    with pytest.raises(DataError, match="save it as UTF-8"):
        list(entries)


def test_pictures_of_the_run_itself_are_left_out(tmp_path: Path) -> None:
    a, b, _ = touch(tmp_path, "a.png", "out2/b.png", "out/images/c.png")
    (tmp_path / "link").symlink_to(tmp_path / "out/images")
    assert names_of(pieces(tmp_path, without=tmp_path / "out")) == [a, b]
    assert len(names_of(pieces(tmp_path, without=tmp_path / "elsewhere"))) == 3


@pytest.mark.parametrize("source", ["", "*.jpg", "sub/**"], ids=["folder", "pattern", "tree"])
def test_nothing_found_is_an_error(tmp_path: Path, source: str) -> None:
    touch(tmp_path, "sub/._a.jpg", "sub/notes.txt", "sub/b.gif")
    with pytest.raises(DataError, match=r": no images; looked for \.bmp, "):
        pieces(tmp_path / source if source else tmp_path)


def test_patterns(tmp_path: Path) -> None:
    touch(
        tmp_path, "a.jpg", "b c.jpg", "[1].jpg", "1.jpg", "._a.jpg", "x/a.jpg", "x/v.mp4", "n.txt"
    )

    def found(pattern: str) -> list[str]:
        return [os.path.relpath(n, tmp_path) for n in names_of(pieces(f"{tmp_path}/{pattern}"))]

    assert found("*.jpg") == ["1.jpg", "[1].jpg", "a.jpg", "b c.jpg"]
    assert found("**/a.*") == ["a.jpg", "x/a.jpg"]
    assert found("x/*") == ["x/a.jpg", "x/v.mp4"]
    assert found("[1].jpg") == ["[1].jpg"]  # there is such a file
    assert found("[1]*.jpg") == ["1.jpg"]
    assert pieces(f"{tmp_path}/x/*.mp4") == [
        Entry("video", (f"{tmp_path}/x/v.mp4",), f"{tmp_path}/x")
    ]


# ---- lists


def test_list_as_windows_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes("\ufeffä b.png\r\n\r\n  c.png \r\nhttp://box/d.png\r\n".encode())
    assert list(listed(str(path))) == ["ä b.png", "c.png", "http://box/d.png"]
    assert names_of(pieces(path)) == [
        f"{tmp_path}/ä b.png",
        f"{tmp_path}/c.png",
        "http://box/d.png",
    ]


def test_relative_names_start_at_the_list_or_where_we_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "lists/a.png", "here/b.png", "lists/c.png", "here/c.png")
    path = tmp_path / "lists/list.txt"
    monkeypatch.chdir(tmp_path / "here")
    for text, expected in [
        ("a.png\nb.png", [f"{tmp_path}/lists/a.png", f"{tmp_path}/lists/b.png"]),
        ("b.png\na.png", ["b.png", "a.png"]),
        ("c.png", [f"{tmp_path}/lists/c.png"]),
        ("none.png\nb.png", [f"{tmp_path}/lists/none.png", f"{tmp_path}/lists/b.png"]),
        (f"{tmp_path}/here/b.png", [f"{tmp_path}/here/b.png"]),
    ]:
        path.write_text(text)
        assert names_of(pieces(path)) == expected
    path.write_text("a.png")
    monkeypatch.chdir(tmp_path)
    assert names_of(pieces("lists/list.txt")) == ["lists/a.png"]


def test_relative_names_in_a_store_start_at_its_list_or_where_we_are(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "here.png")
    for text, expected in [
        ("x/a.png\nb.png", [f"{store}/lists/x/a.png", f"{store}/lists/b.png"]),
        ("here.png\nb.png", ["here.png", "b.png"]),
        (f"{store}/c.png\n/d.png", [f"{store}/c.png", "/d.png"]),
    ]:
        with fsspec.open(f"{store}/lists/list.txt", "w") as file:
            file.write(text)
        assert names_of(pieces(f"{store}/lists/list.txt")) == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no images; looked for"),
        (b"\xef\xbb\xbf\r\n \n", "no images; looked for"),
        (b"a\xff.png", r"cannot be read \('utf-8' codec .*\); save it as UTF-8"),
        ("a.png".encode("utf-16")[:-1], "cannot be read .*; save it as UTF-8"),
    ],
    ids=["empty", "blank", "no text", "half of utf-16"],
)
def test_wrong_list_is_an_error(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(DataError, match=rf"list\.txt: {said}"):
        pieces(tmp_path / "list.txt")


def test_list_whose_first_line_is_no_name(tmp_path: Path) -> None:
    """Was an OSError: the file system has no names so long."""
    path = tmp_path / "list.txt"
    path.write_text("x" * 5000)
    assert names_of(pieces(path)) == [f"{tmp_path}/{'x' * 5000}"]


def parquet(path: Path, /, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("column", LIST_COLUMNS)
def test_parquet_with_a_column_of_names(tmp_path: Path, column: str) -> None:
    path = parquet(
        tmp_path / "l.parquet", label=[1, 2], **{column: ["ä b.png", "http://box/c.png"]}
    )
    assert list(listed(str(path))) == ["ä b.png", "http://box/c.png"]
    assert names_of(pieces(path)) == [f"{tmp_path}/ä b.png", "http://box/c.png"]


def test_parquet_of_many_row_groups_and_types_of_text(tmp_path: Path) -> None:
    names = [f"{number % 7}.png" for number in range(100)]
    for number, kind in enumerate((pa.string(), pa.large_string(), pa.string_view())):
        path = tmp_path / f"{number}.parquet"
        pq.write_table(pa.table({"path": pa.array(names, kind)}), path, row_group_size=9)
        assert list(listed(str(path))) == names
    path = parquet(tmp_path / "d.parquet", path=pa.array(names).dictionary_encode())
    assert list(listed(str(path))) == names


def test_first_column_that_may_hold_names_is_taken(tmp_path: Path) -> None:
    path = parquet(tmp_path / "l.parquet", image=[b"1"], url=["b.png"], path=["a.png"])
    assert list(listed(str(path))) == ["a.png"]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"label": [1], "Path": ["a"]}, "none of the columns path, .* it has label, Path: rename"),
        ({"path": [b"a.png"]}, "column path holds something else than text; fill it"),
        ({"image": [{"bytes": b"1", "path": "a"}]}, "column image holds something else than text"),
        ({"path": [1, 2]}, "column path holds something else than text"),
        ({"path": pa.array([], pa.string())}, "no images; looked for"),
    ],
    ids=["no column", "bytes", "struct", "numbers", "empty"],
)
def test_wrong_parquet_is_an_error(tmp_path: Path, columns: dict[str, Any], said: str) -> None:
    path = parquet(tmp_path / "l.parquet", **columns)
    with pytest.raises(DataError, match=rf"l\.parquet: {said}"):
        pieces(path)


def test_empty_cell_is_a_name_that_says_where(tmp_path: Path) -> None:
    """It becomes a row with an error, and the other images are done."""
    path = parquet(tmp_path / "l.parquet", path=["a.png", None, "b.png"])
    assert list(listed(str(path))) == ["a.png", "l.parquet[1]", "b.png"]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_list_is_read_or_a_data_error(data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        path = parquet(
            Path(folder) / "l.parquet", path=["a.png", "b.png"] * 20, label=list(range(40))
        )
        content = bytearray(path.read_bytes())
        if data.draw(st.booleans()):
            content = bytearray(data.draw(st.binary(max_size=400)))
        else:
            for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=6)):
                content[place] = data.draw(st.integers(0, 255))
            del content[data.draw(st.just(len(content)) | st.integers(0, len(content))) :]
        suffix = data.draw(st.sampled_from([".parquet", ".txt"]))
        path.with_suffix(suffix).write_bytes(content)
        try:
            entries = pieces(path.with_suffix(suffix))
        except DataError as error:
            assert str(error).startswith(str(path.with_suffix("")))
            assert "\n" not in str(error)
        else:
            assert all(isinstance(name, str) for name in names_of(entries))


# ---- other places


def test_lists_from_the_web(tmp_path: Path, site: Website) -> None:
    names = ["http://box/a.png", "s3://bucket/b.png"]
    site.files["l.txt"] = "\n".join(names).encode()
    site.files["l.parquet"] = parquet(tmp_path / "l.parquet", url=names).read_bytes()
    for name in ("l.txt", "l.parquet", "l.txt?key=1", "l.parquet?key=1"):
        assert names_of(pieces(site.at(name))) == names


@pytest.mark.parametrize(
    ("place", "content", "said"),
    [
        ("none.txt", b"", "cannot be read (Not Found); check the name"),
        ("short/l.txt", b"http://box/a.png\n" * 9, "bytes are missing); try again"),
        ("chunked/l.parquet", b"http://box/a.png\n" * 9, "); try again"),
        ("l.txt", b"\xff", "save it as UTF-8"),
        ("l.parquet", b"\xff", "); replace the file"),
        ("l.txt", b"", "no images; looked for"),
    ],
    ids=["missing", "short", "dropped", "no text", "no parquet", "empty"],
)
def test_wrong_list_from_the_web(site: Website, place: str, content: bytes, said: str) -> None:
    """A list that was cut short would be a run over fewer images."""
    site.files |= {"l.txt": content, "l.parquet": content}
    with pytest.raises(DataError) as raised:
        pieces(site.at(place, login="me:geheim"))
    assert str(raised.value).startswith(f"{site.at(place)}: ")
    assert said in str(raised.value)


def test_store_as_folder_pattern_and_list(store: str) -> None:
    memory = fsspec.filesystem("memory")
    for name in ("b c.png", "a/d.png", "a/._e.png", "v.mp4", "z.zip", "notes.txt"):
        memory.pipe(f"{store}/{name}", b"")
    memory.pipe(f"{store}/list.txt", f"{store}/a/d.png\n".encode())
    assert pieces(store) == [
        Entry("images", (f"{store}/a/d.png", f"{store}/b c.png"), store),
        Entry("video", (f"{store}/v.mp4",), store),
        Entry("zip", (f"{store}/z.zip",), store),
    ]
    assert names_of(pieces(f"{store}/**/*.png")) == [f"{store}/a/d.png", f"{store}/b c.png"]
    assert names_of(pieces(f"{store}/list.txt")) == [f"{store}/a/d.png"]
    assert pieces(f"{store}/b c.png") == [Entry("images", (f"{store}/b c.png",), store)]


@pytest.mark.parametrize("name", ["/nothing", "/nothing/*.png"], ids=["folder", "pattern"])
def test_store_without_images(store: str, name: str) -> None:
    with pytest.raises(DataError, match="no images; looked for"):
        pieces(store + name)


@pytest.mark.parametrize("name", ["photos", "*.jpg"], ids=["folder", "pattern"])
@pytest.mark.parametrize("place", ["ftp://me:geheim@127.0.0.1:9", "unknown://me:geheim@box"])
def test_store_that_cannot_be_had_is_an_error(place: str, name: str) -> None:
    with pytest.raises(DataError, match="check the name") as raised:
        pieces(f"{place}/{name}")
    assert "geheim" not in str(raised.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_list_in_any_encoding_that_says_so(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text("ä.png\r\nb.png\n", encoding=encoding)
    assert list(listed(str(path))) == ["ä.png", "b.png"]
