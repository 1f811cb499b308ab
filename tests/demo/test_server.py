"""The server through a real socket: visitors' frames, bad messages, bad company."""

from __future__ import annotations

import json
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from command_line import COMMAND
from scenes import MODEL, Known, jpeg
from serving import Served, end, start
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from detq.demo.limits import FRAME_BYTES, MESSAGE_BYTES, MOST_VISITORS
from detq.demo.overlay import panel_size

WAIT_S = 60


@contextmanager
def visit(served: Served, **options: Any) -> Iterator[ClientConnection]:
    """A visitor who has been told hello."""
    origin = options.pop("origin", f"http://{served.host}")
    with connect(f"ws://{served.host}/ws", origin=origin, open_timeout=WAIT_S, **options) as socket:
        assert answer(socket)["type"] == "hello"
        yield socket


def answer(visitor: ClientConnection) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(visitor.recv(WAIT_S))
    return message


def frame(number: int, data: bytes) -> bytes:
    return struct.pack(">I", number) + data


@pytest.fixture(scope="module")
def picture(known: Known) -> bytes:
    return jpeg(known.image)


@pytest.mark.parametrize("model", [0, 1], ids=["float", "INT8"])
def test_frame_gets_its_boxes(served: Served, known: Known, picture: bytes, model: int) -> None:
    with visit(served) as visitor:
        visitor.send(json.dumps({"confidence": 0.25, "iou": 0.45, "model": model}))
        visitor.send(frame(7, picture))
        result = answer(visitor)
    assert (result["type"], result["frame"], result["model"]) == ("result", 7, model)
    width, height = result["size_wh"]
    found = [
        (str(box[5]), [side / (width, height)[i % 2] for i, side in enumerate(box[:4])])
        for box in result["boxes"]
    ]
    assert known.missed(found) == []


def test_visitors_have_thresholds_of_their_own(served: Served, picture: bytes) -> None:
    with visit(served) as strict, visit(served) as lax:
        strict.send(json.dumps({"confidence": 0.9, "iou": 0.45, "model": 0}))
        lax.send(json.dumps({"confidence": 0.05, "iou": 0.45, "model": 0}))
        counts = []
        for visitor in (strict, lax, strict):
            visitor.send(frame(1, picture))
            counts.append(len(answer(visitor)["boxes"]))
    assert counts[0] == counts[2] < counts[1]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        pytest.param(b"", "0 bytes", id="empty"),
        pytest.param(b"\x00\x00\x00\x01garbage", "not a JPEG", id="garbage"),
        pytest.param(bytes(FRAME_BYTES + 1), "at most", id="too large"),
        pytest.param("{", "JSON", id="half JSON"),
        pytest.param('{"model": 9}', "confidence", id="other JSON"),
        pytest.param("[" * 4000, "JSON", id="deep JSON"),
    ],
)
def test_bad_message_is_told_and_the_visitor_stays(
    served: Served, picture: bytes, message: bytes | str, said: str
) -> None:
    with visit(served) as visitor:
        visitor.send(message)
        told = answer(visitor)
        assert told["type"] == "error"
        assert said in told["message"]
        visitor.send(frame(2, picture))
        assert answer(visitor)["type"] == "result"


def test_message_beyond_all_bounds_ends_that_connection_only(
    served: Served, picture: bytes
) -> None:
    with visit(served) as other:
        with pytest.raises(ConnectionClosed), visit(served) as visitor:
            visitor.send(bytes(MESSAGE_BYTES + 1))
            answer(visitor)
        other.send(frame(1, picture))
        assert answer(other)["type"] == "result"


def test_newest_frame_is_answered_last(served: Served, picture: bytes) -> None:
    """Of many frames at once some are left out, the last one never."""
    with visit(served) as visitor:
        for number in range(30):
            visitor.send(frame(number, picture))
        numbers = [answer(visitor)["frame"]]
        while numbers[-1] != 29:
            numbers.append(answer(visitor)["frame"])
    assert numbers == sorted(numbers)


def test_who_never_reads_and_floods_does_not_stop_the_others(
    served: Served, picture: bytes
) -> None:
    raw = socket.create_connection(served.host.split(":"), WAIT_S)
    with raw, visit(served) as visitor:
        raw.sendall(
            f"GET /ws HTTP/1.1\r\nHost: {served.host}\r\nOrigin: http://{served.host}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )
        raw.settimeout(0.2)
        ping = b"\x89\xfd\x00\x00\x00\x00" + bytes(125)  # masked, as long as a ping may be
        with pytest.raises(OSError):  # the server stops reading, or hangs up
            for _ in range(100_000):
                raw.sendall(ping * 64)
        for number in range(5):
            visitor.send(frame(number, picture))
            assert answer(visitor)["type"] == "result"


def test_message_in_endless_parts_is_ended(served: Served) -> None:
    def parts() -> Iterator[bytes]:
        yield b"\x00"
        for _ in range(100_000):
            yield b""

    with pytest.raises(ConnectionClosed), visit(served) as visitor:
        visitor.send(parts())
        answer(visitor)


def test_full_house_turns_the_next_away(served: Served) -> None:
    with ExitStack() as stack:
        for _ in range(MOST_VISITORS):
            stack.enter_context(visit(served))
        with pytest.raises(ConnectionClosed) as turned, visit(served):
            pass
        assert turned.value.rcvd is not None
        assert turned.value.rcvd.code == 1013
    with visit(served):
        pass


@pytest.mark.parametrize("origin", ["http://evil.example", "null", None])
def test_other_sites_may_not_connect(served: Served, origin: str | None) -> None:
    with pytest.raises(InvalidStatus, match="403"), visit(served, origin=origin):
        pass


@pytest.mark.parametrize(
    "path",
    [
        "/../pyproject.toml",
        "/page/../door.py",
        "/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/docs",
        "/openapi.json",
        "/page.css/",
        "/index.html",
        "/door.py",
        "/sample.jpg/../x",
    ],
)
def test_nothing_leads_to_the_file_system(served: Served, path: str) -> None:
    with socket.create_connection(served.host.split(":"), WAIT_S) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: {served.host}\r\n\r\n".encode())
        assert b" 404 " in raw.recv(100)


def test_page_and_its_files_are_served(served: Served) -> None:
    page = httpx.get(served.address)
    assert page.status_code == 200
    assert "http://" not in page.text.replace("http://www.w3.org", "")
    for name in ("page.css", "page.js", "boxes.js", "plot.js", "theme.js", "icon.svg"):
        part = httpx.get(f"{served.address}{name}")
        assert part.status_code == 200
        assert part.headers["content-security-policy"].startswith("default-src 'none'")


def test_source_of_the_server_as_moving_pictures(served: Served, known: Known) -> None:
    with httpx.stream("GET", f"{served.address}live.mjpg?model=1", timeout=WAIT_S) as stream:
        assert stream.headers["content-type"].startswith("multipart/x-mixed-replace")
        data = b""
        for part in stream.iter_raw():
            data += part
            if data.count(b"--picture") > 3:
                figures = httpx.get(f"{served.address}live.json?model=1").json()
                break
        assert set(figures) == {"fps", "latency_ms", "detect_ms", "count"}
        assert figures["count"] == len(known.truth)
        assert figures["latency_ms"] >= figures["detect_ms"] > 0
    head, _, rest = data.partition(b"\r\n\r\n")
    size = int(head.split(b"Content-Length: ")[1])
    image = cv2.imdecode(np.frombuffer(rest[:size], np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert image.shape == known.image.shape
    assert (np.abs(image.astype(int) - known.image) > 60).any()  # boxes are drawn in
    assert httpx.get(f"{served.address}live.mjpg?model=9").status_code == 404
    assert httpx.get(f"{served.address}live.json?model=9").json() is None


def test_tracks_and_sources_of_a_server_that_has_several(clip: Path, picture: bytes) -> None:
    sources = ("--source", clip, "--source", clip, "--source", "63")
    running = start(MODEL, *sources, "--track", "--every", "3")
    try:
        with visit(running) as visitor, visit(running) as other:
            ids = []
            for number in range(3):
                visitor.send(frame(number, picture))
                ids.append(answer(visitor)["track_ids"])
            other.send(frame(1, picture))
            assert set(answer(other)["track_ids"]) == {-1}  # its own, not seen before
        assert set(ids[0]) == {-1}
        assert sorted(ids[1]) == sorted(ids[2]) == list(range(1, len(ids[1]) + 1))
        with httpx.stream("GET", f"{running.address}live.mjpg", timeout=WAIT_S) as stream:
            data = b""
            for part in stream.iter_raw():
                data += part
                if data.count(b"--picture") > 3:
                    break
        size = int(data.split(b"Content-Length: ")[1].split(b"\r\n")[0])
        jpeg_bytes = data.partition(b"\r\n\r\n")[2][:size]
        grid = cv2.imdecode(np.frombuffer(jpeg_bytes, np.uint8), cv2.IMREAD_COLOR)
        assert grid is not None
        assert grid.shape[1] == 2 * panel_size((480, 640), 2, 2)[0]
    finally:
        end(running)


def test_open_door_asks_for_the_token(guarded: Served) -> None:
    address = f"http://127.0.0.1:{guarded.address.split(':')[2].split('/')[0]}"
    token = guarded.address.split("token=")[1]
    assert httpx.get(address).status_code == 401
    assert httpx.get(f"{address}/?token={token[:-1]}").status_code == 401
    with httpx.Client() as client:
        assert client.get(f"{address}/?token={token}").status_code == 303
        assert client.get(address).status_code == 200
        cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    url = f"ws{address[4:]}/ws"
    with pytest.raises(InvalidStatus), connect(url, origin=address):
        pass
    with connect(url, origin=address, additional_headers={"Cookie": cookie}) as visitor:
        hello = answer(visitor)
    assert hello["type"] == "hello"
    assert (len(hello["models"]), hello["source"]) == (1, None)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--source", "63"), "camera 63: cannot be opened"),
        (("--certificate", "none.pem"), "none.pem: not a PEM file"),
        (("--host", "192.0.2.1"), "192.0.2.1:0: cannot listen there"),
    ],
)
def test_what_cannot_be_served_is_one_line(
    tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    done = subprocess.run(
        (*COMMAND, "demo", MODEL, "--web", "--port", "0", *options),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: {said}")
    assert "Traceback" not in done.stderr


def test_interrupt_is_a_clean_end() -> None:
    """Also with a visitor inside."""
    running = start(MODEL)
    with pytest.raises(ConnectionClosed), visit(running) as visitor:
        running.process.send_signal(signal.SIGINT)
        answer(visitor)
    assert running.process.wait(60) == 0
    assert running.process.stdout is not None
    running.process.stdout.close()
