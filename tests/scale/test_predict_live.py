"""``detq predict`` on what is filmed just now, by real servers of moving pictures."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
from command_line import Command, running
from run_files import largest_part, rows_of


class Filming(BaseHTTPRequestHandler):
    """A camera that never stops: red on the left, and on the right what its address says."""

    def do_GET(self) -> None:
        image = np.zeros((64, 128, 3), np.uint8)
        image[:, :64, 2] = 255
        image[:, 64:, 1 if "green" in self.path else 0] = 255
        data = cv2.imencode(".jpg", image)[1].tobytes()
        head = f"--picture\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=picture")
        self.end_headers()
        server = self.server
        assert isinstance(server, Cameras)
        try:
            while not server.over.wait(0.005):
                self.wfile.write(head.encode() + data + b"\r\n")
        except OSError:
            pass  # nobody looks any more

    def log_message(self, *_: object) -> None:
        """Quiet."""


class Cameras(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Filming)
        self.over = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def cameras() -> Iterator[Cameras]:
    server = Cameras()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


def test_several_cameras_share_a_model(
    detq: Command, tmp_path: Path, colour_model: Path, cameras: Cameras
) -> None:
    sources = (f"{cameras.address}/green.mjpg", f"{cameras.address}/blue.mjpg")
    done = detq("predict", colour_model, *sources, "--max-images", "6")
    assert done.status == 0, done.err
    rows = rows_of(tmp_path / "predictions")
    for source, colour in zip(sources, ("green", "blue"), strict=True):
        own = [row for row in rows if row["source"] == source]
        assert len(own) == 6
        assert all({"red", colour} == set(row["class_names"]) for row in own)
        indices = [row["index"] for row in own]
        assert indices == sorted(set(indices))
        assert [row["id"] for row in own] == [f"{source}#{index}" for index in indices]
        times = [row["time_s"] for row in own]
        assert times == sorted(times)


def test_camera_that_is_not_there_is_a_row(
    detq: Command, tmp_path: Path, colour_model: Path, cameras: Cameras
) -> None:
    done = detq(
        *("predict", colour_model, f"{cameras.address}/green.mjpg", "http://127.0.0.1:1/x.mjpg"),
        *("--max-images", "3"),
    )
    assert done.status == 0, done.err
    rows = rows_of(tmp_path / "predictions")
    assert sum(row["error"] is None for row in rows) == 3
    (failed,) = (row for row in rows if row["error"] is not None)
    assert failed["source"] == "http://127.0.0.1:1/x.mjpg"
    assert "cannot be opened" in failed["error"]


def test_interrupt_ends_a_camera_and_keeps_its_rows(
    tmp_path: Path, colour_model: Path, cameras: Cameras
) -> None:
    source = f"{cameras.address}/green.mjpg"
    growing = tmp_path / "predictions"
    with running(tmp_path, "predict", colour_model, source, "--format", "csv") as run:
        while run.poll() is None and largest_part(growing) <= 10_000:
            time.sleep(0.01)
        run.send_signal(signal.SIGINT)
        _, said = run.communicate()
    assert run.returncode == 0, said
    rows = rows_of(growing)
    assert len(rows) > 5
    assert f"{len(rows)} images in" in said
    assert (growing / "predictions.csv").read_text().count("green") >= len(rows)
