"""A download ends with the file as the server has it, or with one line and what helps next time."""

from __future__ import annotations

import errno
import json
import shutil
import socket
import threading
import time
from collections import namedtuple
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from file_server import FileServer

from detq.downloads.lock import exclusive
from detq.downloads.resumable import download
from detq.errors import DownloadError

CONTENT = bytes(range(256)) * 4000  # 1 MB, and no two neighbouring parts are equal
CHANGED = CONTENT[::-1]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "a.pt"


@pytest.fixture
def url(server: FileServer) -> str:
    server.files["a.pt"] = CONTENT
    return server.url("a.pt")


def fetch(url: str, target: Path, **options: Any) -> None:
    download(url, target, **{"pause_s": 0, "timeout_s": 60, **options})


def refusal(url: str, target: Path, **options: Any) -> str:
    with pytest.raises(DownloadError) as raised:
        fetch(url, target, **options)
    message = str(raised.value)
    assert "\n" not in message
    assert not target.exists()
    assert not lock_of(target).exists()
    return message


def names(target: Path) -> set[str]:
    return {path.name for path in target.parent.iterdir()}


def lock_of(target: Path) -> Path:
    return target.with_name("a.pt.lock")


def part_of(target: Path) -> Path:
    return target.with_name("a.pt.part")


def note_of(target: Path) -> Path:
    return target.with_name("a.pt.part.json")


def leave_part(server: FileServer, url: str, target: Path, byte_count: int = 300_000) -> None:
    """What a run leaves whose connection breaks after so many bytes."""
    server.cuts = [byte_count]
    refusal(url, target, attempts=1)
    assert part_of(target).read_bytes() == CONTENT[:byte_count]
    server.requests.clear()


def test_whole_file_and_nothing_else_is_left(url: str, target: Path) -> None:
    seen: list[tuple[int, int]] = []
    fetch(url, target, progress=lambda done, total: seen.append((done, total)))
    assert target.read_bytes() == CONTENT
    assert names(target) == {"a.pt"}
    assert seen == sorted(seen)
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert {total for _, total in seen} == {len(CONTENT)}


def test_existing_target_is_not_asked_for(server: FileServer, url: str, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(b"mine")
    fetch(url, target)
    assert target.read_bytes() == b"mine"
    assert server.requests == []


def test_next_run_continues(server: FileServer, url: str, target: Path) -> None:
    leave_part(server, url, target)
    fetch(url, target)
    assert target.read_bytes() == CONTENT
    assert server.ranges == ["bytes=300000-"]
    assert server.requests[0][1]["If-Range"] == '"one"'
    assert names(target) == {"a.pt"}


def test_broken_connection_continues_in_the_same_run(
    server: FileServer, url: str, target: Path
) -> None:
    server.cuts = [300_000, 200_000]
    seen: list[int] = []
    fetch(url, target, progress=lambda done, _: seen.append(done))
    assert target.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-", "bytes=500000-"]
    assert seen == sorted(seen)  # never back to the beginning


def test_attempts_are_counted_even_if_each_brings_something(
    server: FileServer, url: str, target: Path
) -> None:
    server.cuts = [100_000] * 9
    message = refusal(url, target, attempts=3)
    assert "the connection ended after 300000 of 1024000 bytes" in message
    assert len(server.requests) == 3
    assert part_of(target).stat().st_size == 300_000


def test_pause_grows(
    server: FileServer, url: str, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    server.cuts = [10] * 3
    fetch(url, target, pause_s=0.5)
    assert pauses == [0.5, 1.0, 1.5]


def test_no_attempt_is_a_mistake(url: str, target: Path) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        fetch(url, target, attempts=0)


def test_silent_server_is_asked_again(server: FileServer, url: str, target: Path) -> None:
    server.open_gate.clear()
    message = refusal(url, target, timeout_s=1, attempts=2)
    assert "timed out" in message
    assert len(server.requests) == 2


# A file that changes on the server


@pytest.mark.parametrize("ignores_if_range", [False, True], ids=["answers 200", "answers 206"])
def test_changed_file_starts_afresh(
    server: FileServer, url: str, target: Path, ignores_if_range: bool
) -> None:
    leave_part(server, url, target)
    server.files["a.pt"], server.validators = CHANGED, {"ETag": '"two"'}
    server.ignores_if_range = ignores_if_range
    fetch(url, target)
    assert target.read_bytes() == CHANGED


def test_fresh_start_remembers_the_new_version(server: FileServer, url: str, target: Path) -> None:
    leave_part(server, url, target)
    server.files["a.pt"], server.validators = CHANGED, {"ETag": '"two"'}
    server.cuts = [400_000]
    fetch(url, target)
    assert target.read_bytes() == CHANGED
    assert server.ranges == ["bytes=300000-", "bytes=400000-"]
    assert server.requests[1][1]["If-Range"] == '"two"'


def test_server_without_ranges_starts_afresh(server: FileServer, url: str, target: Path) -> None:
    leave_part(server, url, target)
    server.ignores_range = True
    fetch(url, target)
    assert target.read_bytes() == CONTENT


def test_part_that_begins_elsewhere_is_not_appended(
    server: FileServer, url: str, target: Path
) -> None:
    leave_part(server, url, target)
    server.part_begins_late = 7
    fetch(url, target)
    assert target.read_bytes() == CONTENT
    assert server.ranges == ["bytes=300000-", None]


def test_part_without_content_range_is_not_appended(
    server: FileServer, url: str, target: Path
) -> None:
    leave_part(server, url, target)
    server.headers = {"Content-Range": None}
    fetch(url, target)
    assert target.read_bytes() == CONTENT
    assert server.ranges == ["bytes=300000-", None]


def test_complete_part_is_accepted(server: FileServer, url: str, target: Path) -> None:
    leave_part(server, url, target)
    part_of(target).write_bytes(CONTENT)  # stopped between the last byte and the rename
    fetch(url, target)
    assert target.read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT)}-"]
    assert names(target) == {"a.pt"}


def test_part_longer_than_the_file_is_stale(server: FileServer, url: str, target: Path) -> None:
    leave_part(server, url, target)
    part_of(target).write_bytes(CONTENT + b"more")
    fetch(url, target)
    assert target.read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT) + 4}-", None]


def test_part_of_equal_length_but_another_version_is_stale(
    server: FileServer, url: str, target: Path
) -> None:
    leave_part(server, url, target)
    part_of(target).write_bytes(CONTENT)
    server.files["a.pt"], server.validators = CHANGED, {"ETag": '"two"'}
    server.ignores_if_range = True
    fetch(url, target)
    assert target.read_bytes() == CHANGED


@pytest.mark.parametrize(
    "note",
    [
        None,
        "{",
        "[]",
        json.dumps({"url": "http://elsewhere/a.pt", "validator": '"one"'}),
        json.dumps({"url": "URL", "validator": ""}),
        json.dumps({"url": "URL", "validator": 1}),
    ],
    ids=["absent", "torn", "list", "other address", "no validator", "number"],
)
def test_part_of_unknown_origin_is_not_continued(
    server: FileServer, url: str, target: Path, note: str | None
) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(CHANGED[:300_000])
    if note:
        note_of(target).write_text(note.replace("URL", url))
    fetch(url, target)
    assert target.read_bytes() == CONTENT
    assert server.ranges == [None]
    assert names(target) == {"a.pt"}


def test_server_without_validators_is_not_continued(
    server: FileServer, url: str, target: Path
) -> None:
    server.validators = {}
    server.cuts = [300_000]
    fetch(url, target)
    assert target.read_bytes() == CONTENT
    assert server.ranges == [None, None]


def test_weak_etag_yields_to_the_date(server: FileServer, url: str, target: Path) -> None:
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    server.validators = {"ETag": 'W/"one"', "Last-Modified": date}
    server.cuts = [300_000]
    fetch(url, target)
    assert target.read_bytes() == CONTENT
    assert server.requests[1][1]["If-Range"] == date


# What cannot be had


def test_missing_file_is_final(server: FileServer, url: str, target: Path) -> None:
    message = refusal(server.url("absent.pt"), target)
    assert f"{server.url('absent.pt')}: cannot be downloaded (HTTP status 404 Not Found)" in message
    assert "check the connection" in message
    assert "pass its path" in message
    assert "DETQ_MIRROR" in message
    assert len(server.requests) == 1


def test_busy_server_is_asked_again(server: FileServer, url: str, target: Path) -> None:
    server.statuses = [500, 503, 429]
    fetch(url, target)
    assert target.read_bytes() == CONTENT
    server.statuses = [500] * 9
    assert "HTTP status 500" in refusal(url, target.with_name("b.pt"))
    assert len(server.statuses) == 9 - 4


def test_error_page_does_not_become_the_part(server: FileServer, url: str, target: Path) -> None:
    leave_part(server, url, target)
    server.statuses = [500]
    refusal(url, target, attempts=1)
    assert part_of(target).read_bytes() == CONTENT[:300_000]


def test_416_without_a_range_is_an_error(server: FileServer, url: str, target: Path) -> None:
    server.statuses = [416]
    assert "HTTP status 416" in refusal(url, target)


def test_refused_connection_is_said_at_once(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but nobody listens
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/a.pt"
        message = refusal(url, target, pause_s=60)
    assert url in message
    assert "Connection refused" in message


def test_unknown_host_is_said_at_once(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setenv("no_proxy", "*")
    message = refusal("https://nowhere.invalid/a.pt", target, pause_s=60)
    assert "https://nowhere.invalid/a.pt" in message
    assert "Name or service not known" in message


def test_network_that_goes_away_in_the_middle_is_tried_again(
    server: FileServer, url: str, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, calls = socket.create_connection, []

    def sometimes(*arguments: Any, **options: Any) -> socket.socket:
        calls.append(arguments)
        if len(calls) == 2:
            raise OSError("Network is unreachable")
        return connect(*arguments, **options)

    monkeypatch.setattr(socket, "create_connection", sometimes)
    server.cuts = [300_000]
    fetch(url, target)
    assert target.read_bytes() == CONTENT
    assert len(calls) == 3


def test_length_that_the_server_cannot_keep(server: FileServer, url: str, target: Path) -> None:
    server.headers = {"Content-Length": str(len(CONTENT) + 1)}
    server.ignores_range = True
    message = refusal(url, target, attempts=2)
    assert f"ended after {len(CONTENT)} of {len(CONTENT) + 1} bytes" in message


def test_undeclared_length(server: FileServer, url: str, target: Path) -> None:
    server.headers = {"Content-Length": None}
    assert "does not say how long" in refusal(url, target)


def test_content_encoding_is_refused(server: FileServer, url: str, target: Path) -> None:
    server.headers = {"Content-Encoding": "gzip"}
    assert "Content-Encoding gzip" in refusal(url, target)
    assert server.requests[0][1]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize(
    "address", ["file:///etc/hostname", "ftp://host/a.pt", "a.pt", "", "http://[/a.pt"]
)
def test_only_http(target: Path, address: str) -> None:
    with pytest.raises(DownloadError, match="not an http or https address"):
        download(address, target)
    assert not target.parent.exists()


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("file:///etc/hostname", "HTTP status 302"),
        ("ftp://127.0.0.1/a.pt", "unknown url type: ftp"),
    ],
)
def test_redirect_leads_nowhere_else(
    server: FileServer, target: Path, address: str, reason: str
) -> None:
    server.redirects = {"old.pt": address}
    message = refusal(server.url("old.pt"), target)
    assert server.url("old.pt") in message
    assert reason in message


def test_redirect_keeps_the_range(server: FileServer, url: str, target: Path) -> None:
    """As GitHub's releases do: each request is led to the place where the file really lies."""
    server.redirects = {"old.pt": url}
    server.cuts = [300_000]
    fetch(server.url("old.pt"), target)
    assert target.read_bytes() == CONTENT
    assert server.names == ["old.pt", "a.pt", "old.pt", "a.pt"]
    assert server.ranges[-1] == "bytes=300000-"
    assert server.requests[-1][1]["If-Range"] == '"one"'


# The disk


def test_too_little_space_is_said_before_anything_is_written(
    url: str, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(9, 9, len(CONTENT) - 1))
    message = refusal(url, target)
    assert "free some space" in message
    assert "DETQ_CACHE" in message
    assert names(target) == set()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(9, 9, len(CONTENT)))
    fetch(url, target)


def test_continuing_needs_space_for_the_rest_only(
    server: FileServer, url: str, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_part(server, url, target)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(9, 9, len(CONTENT) - 300_000))
    fetch(url, target)
    assert target.read_bytes() == CONTENT


def test_full_disk(
    url: str, target: Path, small_files: Callable[[int], AbstractContextManager[None]]
) -> None:
    with small_files(200_000):
        message = refusal(url, target)
    assert f"{target}: cannot be written (File too large)" in message
    fetch(url, target)
    assert target.read_bytes() == CONTENT


def test_folder_that_cannot_be_made(url: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DownloadError, match="cannot be written"):
        fetch(url, tmp_path / "file" / "a.pt")


# Runs that are stopped, and runs side by side


def test_ctrl_c_leaves_the_part_for_the_next_run(
    server: FileServer, url: str, target: Path
) -> None:
    def stop(done: int, total: int) -> None:
        if done >= 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(url, target, progress=stop)
    assert names(target) == {"a.pt.part", "a.pt.part.json"}
    kept = part_of(target).stat().st_size
    assert 100_000 <= kept <= len(CONTENT)
    fetch(url, target)
    assert target.read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={kept}-"]


def test_two_at_once_fetch_it_once(server: FileServer, url: str, target: Path) -> None:
    server.open_gate.clear()
    threads = [threading.Thread(target=fetch, args=(url, target)) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    server.open_gate.set()
    for thread in threads:
        thread.join()
    assert target.read_bytes() == CONTENT
    assert len(server.requests) == 1
    assert names(target) == {"a.pt"}


def test_second_waits_and_then_finds_the_file(server: FileServer, url: str, target: Path) -> None:
    second = threading.Thread(target=fetch, args=(url, target))
    with exclusive(target):
        second.start()
        time.sleep(0.05)
        assert server.requests == []
        target.write_bytes(b"from the first")
    second.join()
    assert target.read_bytes() == b"from the first"
    assert server.requests == []


def test_lock_has_one_holder_though_its_file_comes_and_goes(target: Path) -> None:
    inside, most, turns = [0], [0], [0]

    def take_turns() -> None:
        for _ in range(20):
            with exclusive(target):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.0002)
                turns[0] += 1
                inside[0] -= 1

    threads = [threading.Thread(target=take_turns) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, turns) == ([1], [80])
    assert names(target) == set()


def test_file_system_without_locks_is_no_obstacle(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with exclusive(target):
        target.write_bytes(b"made")
    assert names(target) == {target.name}
