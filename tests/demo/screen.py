"""A virtual screen (Xvfb): windows are found on it, keys pressed, pictures taken."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from Xlib import XK, X, display
from Xlib.ext import xtest
from Xlib.protocol import event

SIZE = (1400, 900)


class Screen:
    """A screen of its own; skips the test where there is no Xvfb. A context manager."""

    def __init__(self) -> None:
        program = shutil.which("Xvfb")
        if program is None:
            pytest.skip("needs Xvfb: apt-get install xvfb")
        reading, writing = os.pipe()
        size = f"{SIZE[0]}x{SIZE[1]}x24"
        self._process = subprocess.Popen(
            [program, "-displayfd", str(writing), "-screen", "0", size, "-nolisten", "tcp"],
            pass_fds=[writing],
            stderr=subprocess.DEVNULL,
        )
        os.close(writing)
        with os.fdopen(reading) as answer:
            self.name = f":{answer.readline().strip()}"
        self._display = display.Display(self.name)
        self._root = self._display.screen().root
        self._root.warp_pointer(100, 200)  # keys go to the window below it: nothing manages windows
        self._display.sync()

    def __enter__(self) -> Screen:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._display.close()
        self._process.terminate()
        self._process.wait(20)

    def window(self, name: str) -> Any | None:
        """The window of that name, if it is there."""
        for each in self._root.query_tree().children:
            if each.get_wm_name() == name:
                return each
        return None

    def show_again(self, window: Any) -> None:
        """Hide a window and bring it back, as a window manager would.

        Where nothing manages windows, Qt now and then does not notice that its own can be seen.
        """
        window.unmap()
        self._display.sync()
        time.sleep(0.1)
        window.map()
        self._display.sync()

    def picture(self) -> npt.NDArray[np.uint8]:
        """uint8 [H, W, 3] BGR."""
        width, height = SIZE
        image = self._root.get_image(0, 0, width, height, X.ZPixmap, 0xFFFFFFFF)
        pixels = np.frombuffer(image.data, np.uint8).reshape(height, width, 4)
        return pixels[..., :3].copy()

    def press(self, key: str) -> None:
        """A key by its X name: ``q``, ``space``, ``Escape``."""
        code = self._display.keysym_to_keycode(XK.string_to_keysym(key))
        for kind in (X.KeyPress, X.KeyRelease):
            xtest.fake_input(self._display, kind, code)
        self._display.sync()

    def push_close_button(self, window: Any) -> None:
        """What a window manager does when its button is pushed."""
        protocols = self._display.intern_atom("WM_PROTOCOLS")
        delete = self._display.intern_atom("WM_DELETE_WINDOW")
        message = event.ClientMessage(
            window=window, client_type=protocols, data=(32, [delete, X.CurrentTime, 0, 0, 0])
        )
        window.send_event(message)
        self._display.sync()
