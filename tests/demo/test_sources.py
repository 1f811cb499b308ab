from __future__ import annotations

import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from scenes import Image, jpeg, write_clip

from detq import Clip, DetqError, Newest, Shot, open_source, write_image
from detq.data import live as sources
from detq.data import newest as newest_module
from detq.data.live import Camera, Source, Stream


def grey(level: int) -> Image:
    return np.full((48, 64, 3), level, np.uint8)


def level(shot: Shot) -> int:
    assert isinstance(shot.image, np.ndarray)
    return int(shot.image.mean() + 0.5)


def silent(notice: str | None) -> None:
    """Nobody is listening."""


def at_once(seconds: float) -> bool:
    """Does not wait."""
    return False


class MovingPictures(BaseHTTPRequestHandler):
    """Each connection gets ten pictures as MJPEG, and is dropped."""

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Dropping)
        server.connections += 1
        if server.connections in server.refused:
            self.send_error(503)
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=picture")
        self.end_headers()
        for _ in range(10):
            data = jpeg(grey(40 * server.connections))
            head = f"--picture\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            self.wfile.write(head.encode() + data + b"\r\n")

    def log_message(self, *_: object) -> None:
        """Quiet."""


class Dropping(ThreadingHTTPServer):
    daemon_threads = True
    connections = 0
    refused: tuple[int, ...] = ()


@pytest.fixture
def stream() -> Iterator[Dropping]:
    server = Dropping(("127.0.0.1", 0), MovingPictures)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("0", Camera(0)),
        ("12", Camera(12)),
        ("/dev/video1", Camera(1)),
        ("rtsp://box/stream", Stream("rtsp://box/stream")),
        ("http://box:81/a.mjpg", Stream("http://box:81/a.mjpg")),
    ],
)
def test_source_is_known_by_its_form(text: str, source: Source) -> None:
    assert open_source(text) == source


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.mp4", None, "no such image or folder"),
        ("broken.mp4", b"not a video", "no frames"),
        ("notes.txt", b"nothing.jpg", "nothing.jpg: cannot be read"),
        ("notes.doc", b"text", "not an image or another source"),
        ("broken.jpg", b"not a picture", "cannot be decoded"),
        ("nowhere", None, "no such image or folder"),
    ],
)
def test_what_is_no_source_is_an_error_at_once(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DetqError, match=said):
        open_source(str(tmp_path / name))


def test_camera_that_is_not_there() -> None:
    with pytest.raises(DetqError, match="camera 63: cannot be opened"):
        next(Camera(63).frames(silent, at_once))


def test_stream_that_is_not_there(stream: Dropping) -> None:
    stream.refused = (1,)
    with pytest.raises(DetqError, match="cannot be opened; check the address"):
        next(Stream(f"http://127.0.0.1:{stream.server_port}/").frames(silent, at_once))


def test_title_keeps_passwords_to_itself() -> None:
    title = Stream("rtsp://me:secret@box:554/live?key=hidden").title
    assert title == "rtsp://box:554/live"


def test_dropped_stream_is_taken_up_again_with_growing_patience(stream: Dropping) -> None:
    stream.refused = (2, 3)
    notices: list[str | None] = []
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return False

    frames = Stream(f"http://127.0.0.1:{stream.server_port}/").frames(notices.append, wait)
    levels = {round(float(frame.mean()), -1) for frame in islice(frames, 12)}
    frames.close()
    assert levels == {40, 160}  # of the first connection and of the fourth
    assert waits == [0.5, 1.0, 2.0]
    assert notices[-1] is None
    assert str(notices[0]).endswith("dropped: trying again in 0.5 s")


def test_stream_that_stays_away_is_given_up(
    stream: Dropping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "GIVE_UP_S", 0.2)
    stream.refused = tuple(range(2, 1000))

    def wait(seconds: float) -> bool:
        time.sleep(0.05)
        return False

    frames = Stream(f"http://127.0.0.1:{stream.server_port}/").frames(silent, wait)
    with pytest.raises(DetqError, match=r"dropped, and not back for 0\.2 s"):
        list(frames)


def test_viewer_who_leaves_ends_the_waiting_for_a_stream(stream: Dropping) -> None:
    stream.refused = tuple(range(2, 1000))
    address = f"http://127.0.0.1:{stream.server_port}/"
    frames = list(Stream(address).frames(silent, lambda seconds: True))
    assert len(frames) in (9, 10)


def test_clip_repeats_if_told_to(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.avi", [grey(50), grey(100), grey(150)])
    once = [round(float(f.mean()), -1) for f in Clip(str(path), False).frames(silent, at_once)]
    assert once == [50, 100, 150]
    again = islice(Clip(str(path), True).frames(silent, at_once), 7)
    assert [round(float(f.mean()), -1) for f in again] == [*once, *once, 50]


def test_folder_holds_each_picture(tmp_path: Path) -> None:
    for level in (50, 100):
        write_image(tmp_path / f"{level:03}.png", grey(level))
    levels = [int(f.mean()) for f in Clip(str(tmp_path), False).frames(silent, at_once)]
    assert levels == sorted(levels)
    assert levels.count(50) == levels.count(100) > 30


def test_damaged_picture_of_a_folder_is_a_notice_as_long_as_a_picture(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"not a picture")
    for number in (0, 2):
        write_image(tmp_path / f"{number}.png", grey(50 + 50 * number))
    events: list[str] = []

    def say(notice: str | None) -> None:
        events.append("well" if notice is None else "cannot be decoded" * ("1.png" in notice))

    for image in Clip(str(tmp_path), False).frames(say, at_once):
        events.append(str(round(float(image.mean()))))
    assert list(dict.fromkeys(events)) == ["well", "50", "cannot be decoded", "150"]
    assert events.count("50") == events.count("150") > 30
    told: list[str | None] = []
    frames = [item.index for item, _ in Clip(str(tmp_path), False).every_frame(told.append)]
    assert frames == list(range(120))
    assert len(told) == 1


def test_folder_of_damaged_pictures_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"not a picture")
    with pytest.raises(DetqError, match=r"1\.png: cannot be decoded"):
        open_source(str(tmp_path))
    with pytest.raises(DetqError, match=r"1\.png: cannot be decoded"):
        list(Clip(str(tmp_path), True).frames(silent, at_once))


@pytest.mark.parametrize("form", ["zip", "tar", "list", "pattern", "web"])
def test_whatever_predict_reads_is_shown(tmp_path: Path, form: str) -> None:
    names = ["a.png", "b.png"]
    for level, name in ((50, "a.png"), (100, "b.png")):
        write_image(tmp_path / name, grey(level))
    with serving(tmp_path) as address:
        name = {
            "zip": tmp_path / "all.zip",
            "tar": tmp_path / "all.tar",
            "list": tmp_path / "all.txt",
            "pattern": tmp_path / "?.png",
            "web": tmp_path / "web.txt",
        }[form]
        (tmp_path / "all.txt").write_text("\n".join(names))
        (tmp_path / "web.txt").write_text("\n".join(f"{address}/{each}" for each in names))
        with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
            for each in names:
                archive.write(tmp_path / each, each)
        with tarfile.open(tmp_path / "all.tar", "w") as tape:
            for each in names:
                tape.add(tmp_path / each, each)
        source = open_source(str(name), repeats=False)
        levels = [round(float(image.mean())) for image in source.frames(silent, at_once)]
    assert levels == [50] * 60 + [100] * 60


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a folder on the web."""
    handler = partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Quiet."""


class Told:
    """A source whose pictures come when a test says so."""

    title = "told"
    frames_per_s = 1000.0

    def __init__(self, *, is_live: bool) -> None:
        self.is_live = is_live
        self.given = threading.Semaphore(0)
        self.taken = 0

    def frames(self, say: object, wait: sources.Wait) -> Iterator[Image]:
        while True:
            while not self.given.acquire(timeout=0.05):
                if wait(0):
                    return
            self.taken += 1
            yield grey(self.taken)

    def give(self, count: int, newest: Newest) -> None:
        before = self.taken
        for _ in range(count):
            self.given.release()
        end_s = time.monotonic() + 120
        while self.taken < before + count and time.monotonic() < end_s:
            time.sleep(0.005)
        self.given.release()  # the last has been published once one more is asked for
        while self.taken < before + count + 1 and time.monotonic() < end_s:
            time.sleep(0.005)


def test_taker_sees_the_newest_and_never_the_same_twice() -> None:
    source = Told(is_live=True)
    newest = Newest([source])  # type: ignore[arg-type]
    images = newest.shots(threading.Event())
    source.give(4, newest)
    first = level(next(images))
    assert first in (4, 5)
    source.give(4, newest)
    assert level(next(images)) > first + 3
    newest.close()


def test_error_of_the_source_reaches_every_taker() -> None:
    newest = Newest([Camera(63)])
    for _ in range(2):
        (shot,) = newest.shots(threading.Event())
        assert str(shot.image).startswith("camera 63: cannot be opened")
    with pytest.raises(DetqError, match="camera 63: cannot be opened"):
        newest.wait()
    newest.close()


def test_stopped_taker_ends() -> None:
    newest = Newest([Told(is_live=True)])  # type: ignore[arg-type]
    stopped = threading.Event()
    taken: list[Shot] = []
    taker = threading.Thread(target=lambda: taken.extend(newest.shots(stopped)))
    taker.start()
    stopped.set()
    newest.wake()
    taker.join(120)
    assert not taker.is_alive()
    newest.close()


def test_camera_that_hangs_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newest_module, "PATIENCE_S", 0.1)
    newest = Newest([Told(is_live=True)])  # type: ignore[arg-type]
    (shot,) = newest.shots(threading.Event())
    assert str(shot.image).startswith("told: no picture for 0.1 s")
    assert newest.notices == {"told": str(shot.image)}
    newest.close()


def test_clip_waits_while_paused(tmp_path: Path) -> None:
    """Nothing is skipped that was not seen: a file goes on where it was held."""
    path = write_clip(tmp_path / "a.avi", [grey(level) for level in range(20, 240, 20)], 50)
    newest = Newest([Clip(str(path), False)])
    newest.pause(True)
    time.sleep(0.3)
    newest.pause(False)
    levels = [round(level(shot), -1) for shot in newest.shots(threading.Event())]
    assert levels[-1] == 220
    assert len(levels) >= 2
    newest.close()
