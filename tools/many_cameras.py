"""Several live sources on one compiled model: frames of each, CPU, and how old what is shown is.

    python tools/many_cameras.py MODEL VIDEO --cameras 8 --frames-per-s 10 --seconds 20

A process of its own plays the video as that many MJPEG streams on this machine, at so many frames
per second each. Age is from a frame's arrival to its detections; the CPU share is this process's,
decoding included, of all cores.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path

import cv2

import detq
from detq.data.newest import watch
from detq.errors import DetqError
from detq.runtime.machine import core_count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("video", type=Path)
    parser.add_argument("--cameras", type=int, default=8)
    parser.add_argument("--frames-per-s", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        _serve(arguments.video, arguments.frames_per_s)
        return
    server = subprocess.Popen(
        [sys.executable, *sys.argv, "--serve"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        port = int(server.stdout.readline()) if server.stdout else 0
        addresses = [f"http://127.0.0.1:{port}/{n}.mjpg" for n in range(arguments.cameras)]
        _measure(arguments.model, addresses, arguments.seconds)
    finally:
        server.kill()
        server.communicate()


def _measure(model: str, addresses: list[str], seconds: float) -> None:
    detector = detq.detector(model, rect=True)
    sources = [detq.open_source(address) for address in addresses]
    arrived: deque[tuple[str, float]] = deque()
    began_s = time.monotonic()

    def images() -> Iterator[detq.ImageBGR]:
        for shot in watch(sources, end_s=seconds):
            if isinstance(shot.image, DetqError):
                raise shot.image
            arrived.append((shot.source, began_s + shot.time_s))
            yield shot.image

    ages_ms, counts = [], Counter[str]()
    cpu_s = sum(os.times()[:2])
    for _ in detq.detect_stream(detector, images()):
        source, arrived_s = arrived.popleft()
        counts[source] += 1
        ages_ms.append((time.monotonic() - arrived_s) * 1000)
    cpu_s, wall_s = sum(os.times()[:2]) - cpu_s, time.monotonic() - began_s
    rates = sorted(count / wall_s for count in counts.values())
    print(
        f"{len(counts)} cameras, frames/s of each {rates[0]:.1f} to {rates[-1]:.1f}; "
        f"CPU {100 * cpu_s / wall_s / core_count():.0f}% of {core_count()} cores; age in ms "
        f"median {statistics.median(ages_ms):.1f}, p99 {sorted(ages_ms)[-len(ages_ms) // 100]:.1f}"
    )


def _serve(video: Path, frames_per_s: float) -> None:
    frames = [
        cv2.imencode(".jpg", frame)[1].tobytes() for frame in islice(detq.read_frames(video), 100)
    ]

    class Camera(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=picture")
            self.end_headers()
            due_s = time.monotonic()
            for number in range(1_000_000):
                data = frames[number % len(frames)]
                head = f"Content-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                self.wfile.write(f"--picture\r\n{head}".encode() + data + b"\r\n")
                due_s += 1 / frames_per_s
                time.sleep(max(due_s - time.monotonic(), 0))

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
