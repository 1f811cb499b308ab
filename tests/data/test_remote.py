from __future__ import annotations

import os
import re
from base64 import b64encode
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from website import LOGIN, Website, website

from detq.data import remote
from detq.data.remote import (
    file_system,
    names_in_store,
    open_binary,
    open_seekable,
    read_whole,
    scheme_of,
    without_password,
)
from detq.errors import DamagedImageError, DataError, DetqError

CONTENT = bytes(range(256)) * 40
_COUNT = count()


@pytest.fixture
def site() -> Iterator[Website]:
    with website() as server:
        server.files["a.png"] = CONTENT
        yield server


@pytest.fixture
def store() -> Iterator[str]:
    """A folder of a store in memory."""
    name = f"memory://bucket{next(_COUNT)}"
    yield name
    fsspec.filesystem("memory").store.clear()


def put(name: str, content: bytes) -> None:
    fsspec.filesystem("memory").pipe(name, content)


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("s3://bucket/key", "s3"),
        ("HTTP://box/a.jpg", "http"),
        ("photos/a.jpg", ""),
        ("C:\\photos\\a.jpg", ""),
        ("photos/http://a", ""),
        ("://a", ""),
        ("", ""),
    ],
)
def test_scheme(name: str, scheme: str) -> None:
    assert scheme_of(name) == scheme


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("http://me:secret@box:81/a.jpg?b=c#d", "http://box:81/a.jpg?b=c#d"),
        ("rtsp://me@box/live", "rtsp://box/live"),
        ("http://me:se@cret@box/a.jpg", "http://box/a.jpg"),
        ("http://box/a@2x.jpg", "http://box/a@2x.jpg"),
        ("http://box/?to=ftp://a@b/", "http://box/?to=ftp://a@b/"),
        ("http://[x/a.jpg", "http://[x/a.jpg"),
        ("memory:///a//b.jpg", "memory:///a//b.jpg"),
        ("me:secret@box/a.jpg", "me:secret@box/a.jpg"),
    ],
)
def test_names_are_shown_without_password_and_else_as_they_are(name: str, shown: str) -> None:
    assert without_password(name) == shown


@given(name=st.text(max_size=30) | st.text("ab:/@?#[] ", max_size=20))
def test_any_name_can_be_shown(name: str) -> None:
    for each in (name, f"http://{name}", f"s3://me:secret@{name}"):
        shown = without_password(each)
        assert without_password(shown) == shown or "@" in shown
        assert "secret" not in shown or "secret" in name


def test_bytes_of_every_place(tmp_path: Path, site: Website, store: str) -> None:
    (tmp_path / "a b.png").write_bytes(CONTENT)
    put(f"{store}/a.png", CONTENT)
    path = str(tmp_path / "a b.png")
    for name in (path, f"file://{path}", site.at("a.png"), f"{store}/a.png"):
        assert read_whole(name) == CONTENT
        with open_binary(name) as file:
            assert file.read(10) == CONTENT[:10]
        with open_seekable(name) as file:
            file.seek(100)
            assert file.read(1) == CONTENT[100:101]


@pytest.mark.parametrize(
    "name",
    ["none.png", ".", "a\0b", "x" * 300, "fifo"],
    ids=["missing", "folder", "zero byte", "too long", "fifo"],
)
def test_path_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(DamagedImageError, match=r"cannot be read \(.+\); check the name"):
        open_binary(str(tmp_path / name))


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("none.png", "cannot be read (Not Found); check the name"),
        ("private/a.png", "cannot be read (Unauthorized); check the name"),
        ("silent/a.png", "cannot be read (Remote end closed connection without response); check"),
        ("nonsense/a.png", "cannot be read (no protocol"),
        ("short/a.png", "cannot be read (5120 bytes are missing); try again"),
        ("chunked/a.png", "cannot be read (IncompleteRead(0 bytes read)); try again"),
        ("a b.png", "cannot be read (URL can't contain control characters."),
        ("ä.png", "cannot be read ("),
    ],
)
def test_address_that_cannot_be_read(site: Website, place: str, said: str) -> None:
    with pytest.raises(DamagedImageError) as raised:
        read_whole(site.at(place))
    message = str(raised.value)
    if place.startswith("chunked"):
        message = re.sub(r"\d+ bytes read[^)]*", "0 bytes read", message)
    assert message.startswith(f"{site.at(place)}: {said}")


def test_nobody_listens_there() -> None:
    with website() as server:
        address = server.at("a.png")
    with pytest.raises(DamagedImageError, match=r"cannot be read \(.*refused\); check the name"):
        read_whole(address)


@pytest.mark.parametrize("address", ["http://", "http://box:port/a.jpg", "http://[x/a.jpg"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(DamagedImageError, match=r"cannot be read \(.+\); check the name"):
        open_binary(address)


def test_body_without_an_end_is_not_kept(site: Website, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "MOST_BYTES", 1 << 18)
    with pytest.raises(DataError, match="has more than 262144 bytes; leave it out"):
        read_whole(site.at("endless/a.png"))
    assert len(site.headers) == 1


def test_file_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "MOST_BYTES", 10)
    (tmp_path / "a.png").write_bytes(bytes(10))
    assert len(read_whole(str(tmp_path / "a.png"))) == 10
    (tmp_path / "a.png").write_bytes(bytes(11))
    with pytest.raises(DataError, match="has more than 10 bytes"):
        read_whole(str(tmp_path / "a.png"))


@pytest.mark.parametrize("login", [LOGIN, "me:s%65cret"], ids=["plain", "percent"])
def test_user_and_password_are_told_to_the_server(site: Website, login: str) -> None:
    """``http.client`` took the password for a port, and said so."""
    assert read_whole(site.at("private/a.png", login=login)) == CONTENT
    assert site.headers[0]["Authorization"] == f"Basic {b64encode(LOGIN.encode()).decode()}"
    assert site.headers[0]["Host"] == f"127.0.0.1:{site.server_port}"


def test_password_does_not_follow_to_another_place(site: Website) -> None:
    assert read_whole(site.at("elsewhere/a.png", login=LOGIN)) == CONTENT
    first, second = site.headers
    assert "Authorization" in first
    assert "Authorization" not in second


@pytest.mark.parametrize(
    "place", ["none.png", "private/a.png", "short/a.png", "silent/a.png", "a b.png", "ä.png"]
)
def test_password_is_in_no_message(site: Website, place: str) -> None:
    with pytest.raises(DetqError) as raised:
        read_whole(site.at(place, login="me:geheim"))
    assert "geheim" not in str(raised.value)
    assert str(raised.value).startswith(f"{site.at(place)}: ")


@pytest.mark.parametrize(
    "address",
    [
        "http://me:geheim@box:port/a.jpg",
        "ftp://me:geheim@127.0.0.1:9/a.jpg",
        "memory://me:geheim@box/a.jpg",
        "unknown://me:geheim@box/a.jpg",
    ],
)
def test_password_is_in_no_message_of_a_library(address: str) -> None:
    with pytest.raises(DetqError) as raised:
        open_binary(address)
    assert "geheim" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("unknown://a/b", "unknown://a/b: Protocol not known: unknown; check the name"),
        ("ftp://127.0.0.1:9/a", "ftp://127.0.0.1:9/a: Connection refused; check the name"),
    ],
)
def test_store_that_is_none(name: str, said: str) -> None:
    for opened in (file_system, open_binary, read_whole):
        with pytest.raises(DataError, match=re.escape(said)):
            opened(name)


def test_store_whose_library_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.registry import known_implementations

    missing: dict[str, Any] = {"class": "no_such_library.Files", "err": "Install it to use it"}
    monkeypatch.setitem(known_implementations, "lacking", missing)
    with pytest.raises(DataError, match=r"lacking://a/b: Install it to use it; see docs/scale\.md"):
        file_system("lacking://me:secret@a/b")


def test_file_that_a_store_lacks(store: str) -> None:
    with pytest.raises(DamagedImageError, match=r"none\.png: cannot be read"):
        open_binary(f"{store}/none.png")


def test_names_in_a_store_are_sorted_and_can_be_opened(store: str) -> None:
    for name in ("b.png", "a b.png", "sub/c.png", "[1].png"):
        put(f"{store}/{name}", name.encode())
    below = names_in_store(store, is_pattern=False)
    assert [read_whole(name).decode() for name in below] == [
        *("[1].png", "a b.png", "b.png", "sub/c.png")
    ]
    assert names_in_store(f"{store}/?.png", is_pattern=True) == [below[2]]


def test_store_that_cannot_be_listed(store: str) -> None:
    with pytest.raises(DataError, match="check the name") as raised:
        names_in_store("ftp://me:geheim@127.0.0.1:9/a", is_pattern=False)
    assert "geheim" not in str(raised.value)
    assert names_in_store(store, is_pattern=False) == []
