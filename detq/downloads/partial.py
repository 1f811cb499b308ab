"""The unfinished file beside its target, with the note that says what it is a part of.

Bytes go to ``<target>.part``; ``<target>.part.json`` remembers which version of which address they
belong to.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from detq.files import atomic_write, clear_place, read_text

_MOST_NOTE_BYTES = 1 << 16


@dataclass(frozen=True)
class Partial:
    """The unfinished file of ``target``, which comes from ``url``."""

    url: str
    target: Path

    @property
    def path(self) -> Path:
        """Where the bytes go."""
        return self.target.with_name(f"{self.target.name}.part")

    @property
    def _note(self) -> Path:
        return self.target.with_name(f"{self.target.name}.part.json")

    def validator(self) -> str:
        """The ETag or date that the bytes here go with; empty if they cannot be continued."""
        try:
            note = json.loads(read_text(self._note, most_bytes=_MOST_NOTE_BYTES))
        except (OSError, ValueError, RecursionError):
            return ""
        known = isinstance(note, dict) and note.get("url") == self.url and self.path.is_file()
        validator = note.get("validator") if known else ""
        return validator if isinstance(validator, str) else ""

    def byte_count(self) -> int:
        """How many bytes can be kept. What cannot be continued is deleted."""
        if not self.validator():
            self.discard()
        return self.path.stat().st_size if self.path.exists() else 0

    def remember(self, validator: str) -> None:
        """Note what the bytes that follow are a part of; written before any of them."""
        note = {"url": self.url, "validator": validator}
        atomic_write(self._note, json.dumps(note).encode())

    def discard(self) -> None:
        """Delete the bytes first: a note without bytes does no harm."""
        for path in (self.path, self._note):
            clear_place(path)
            path.unlink(missing_ok=True)

    def complete(self) -> None:
        """Make it the target."""
        self.path.replace(self.target)
        self._note.unlink(missing_ok=True)
