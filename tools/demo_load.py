"""Fifty visitors at once on the demo's page, slow and hostile ones among them.

    python tools/demo_load.py [MODEL] [--seconds 60] [--visitors 50]

Starts ``detq demo MODEL --web`` on this machine and connects to it. Ordinary visitors send a frame
as soon as they have the last one's boxes. Slow ones take two seconds to read an answer; silent ones
flood and never read; hostile ones send broken pictures, settings and frames that are too large.
Says how many answers each had, what the server's memory did, and what went wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import median

import cv2
from websockets.asyncio.client import ClientConnection, connect

from detq.api import HANDWRITING

KINDS = ("ordinary",) * 7 + ("slow", "silent", "hostile")
"""Of every ten visitors."""
BAD = [b"", b"\x00\x00\x00\x01not a picture", bytes(3 << 20), "{", '{"model": -1}', "[" * 3000]
SLOW_S = 2.0
SETTLE_S = 5.0


class Load:
    """What visitors have had so far."""

    def __init__(self, address: str, frame: bytes, end_s: float) -> None:
        self.address = address
        self.host = address.split("//")[1].strip("/")
        self.frame = frame
        self.end_s = end_s
        self.answers: dict[str, Counter[int]] = {kind: Counter() for kind in KINDS}
        self.refused = 0
        self.latencies_ms: list[float] = []
        self.failures: list[str] = []

    async def visit(self, number: int) -> None:
        kind = KINDS[number % len(KINDS)]
        self.answers[kind][number] = 0
        try:
            while time.monotonic() < self.end_s:
                await self._stay(kind, number)
        except Exception as error:
            self.failures.append(f"{kind} {number}: {error!r}")

    async def _stay(self, kind: str, number: int) -> None:
        if kind == "silent":
            await self._flood()
            return
        async with connect(f"ws://{self.host}/ws", origin=f"http://{self.host}") as visitor:
            await visitor.recv()
            while time.monotonic() < self.end_s:
                if kind == "hostile":
                    await self._offend(visitor, number)
                    continue
                started_s = time.monotonic()
                await visitor.send(self.frame)
                answer = json.loads(await visitor.recv())
                if answer["type"] != "result":
                    raise RuntimeError(answer)
                self.answers[kind][number] += 1
                if kind == "ordinary":
                    self.latencies_ms.append((time.monotonic() - started_s) * 1000)
                else:
                    await asyncio.sleep(SLOW_S)

    async def _offend(self, visitor: ClientConnection, number: int) -> None:
        """Every bad message is told, and a good one answered after them."""
        for message in BAD:
            await visitor.send(message)
            told = json.loads(await visitor.recv())
            if told["type"] != "error":
                raise RuntimeError(told)
            self.refused += 1
        await visitor.send(self.frame)
        if json.loads(await visitor.recv())["type"] == "result":
            self.answers["hostile"][number] += 1

    async def _flood(self) -> None:
        """Frames without end from who reads nothing; the server may hang up."""
        key = "AAAAAAAAAAAAAAAAAAAAAA=="
        name, port = self.host.split(":")
        raw = socket.create_connection((name, int(port)))
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.setblocking(False)
        loop = asyncio.get_running_loop()
        masked = b"\x82\xff" + struct.pack(">Q", len(self.frame)) + bytes(4) + self.frame
        try:
            await loop.sock_sendall(
                raw,
                f"GET /ws HTTP/1.1\r\nHost: {self.host}\r\nOrigin: http://{self.host}\r\n"
                "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                f"Sec-WebSocket-Key: {key}\r\n\r\n".encode(),
            )
            while (left_s := self.end_s - time.monotonic()) > 0:
                await asyncio.wait_for(loop.sock_sendall(raw, masked), left_s)
        except (TimeoutError, OSError):
            await asyncio.sleep(0.5)
        finally:
            raw.close()


def memory_mb(process: int) -> float:
    """Resident memory. Linux only."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


async def run(load: Load, visitors: int, process: int) -> list[float]:
    """The server's memory after it has settled, every ten seconds, and at the end."""
    tasks = [asyncio.create_task(load.visit(number)) for number in range(visitors)]
    await asyncio.sleep(SETTLE_S)
    readings = [memory_mb(process)]
    while time.monotonic() < load.end_s:
        await asyncio.sleep(min(10.0, max(load.end_s - time.monotonic(), 0.1)))
        readings.append(memory_mb(process))
    await asyncio.gather(*tasks)
    return readings


def report(load: Load, readings: list[float], seconds: float) -> None:
    print(f"{'visitors':10} {'how many':>8} {'least':>6} {'median':>6} {'most':>6}  answers each")
    for kind, answers in load.answers.items():
        if kind == "silent":
            print(f"{kind:10} {len(answers):8} {'read nothing':>20}")
            continue
        counts = sorted(answers.values())
        print(f"{kind:10} {len(counts):8} {counts[0]:6} {median(counts):6.0f} {counts[-1]:6}")
    total = sum(sum(answers.values()) for answers in load.answers.values())
    latency = sorted(load.latencies_ms)
    print(f"{total / seconds:.1f} answers/s; an ordinary visitor waits {median(latency):.0f} ms, ")
    print(f"99 of 100 times less than {latency[int(len(latency) * 0.99)]:.0f} ms")
    print(f"{load.refused} bad messages told; failures: {len(load.failures)}")
    for failure in load.failures[:10]:
        print(f"  {failure}")
    print("server's memory, MB: " + " ".join(f"{reading:.1f}" for reading in readings))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="digits_yolov6n")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--visitors", type=int, default=50)
    options = parser.parse_args()
    picture = cv2.resize(cv2.imread(str(HANDWRITING)), (320, 240))
    frame = struct.pack(">I", 1) + cv2.imencode(".jpg", picture)[1].tobytes()
    command = [sys.executable, "-c", "from detq.cli import main; main()"]
    process = subprocess.Popen(
        [*command, "demo", options.model, "--web", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        address = process.stdout.readline().split()[1]
        load = Load(address, frame, time.monotonic() + options.seconds)
        readings = asyncio.run(run(load, options.visitors, process.pid))
        report(load, readings, options.seconds)
        if process.poll() is not None:
            sys.exit("the server has ended")
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
