"""What tools/fuzz.py does to healthy files."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

TELLING = (0, 1, 2, 3, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
WORDS = (
    *(b"0", b"-1", b"1e999", b".inf", b".nan", b"null", b"[]", b"{}", b"true", b"9" * 400),
    *(b"2024-13-45", b"!!python/object/apply:os.system [id]", b"&a [*a]", b"<<: *a", b"\x1b[31m"),
)


@dataclass(frozen=True)
class Edit:
    """One change: of what kind, where (a share of the length), and with what."""

    kind: str
    place: float
    value: int
    length: int

    def apply(self, content: bytes) -> bytes:
        at = int(self.place * len(content))
        end, number = at + self.length, TELLING[self.value % len(TELLING)]
        put, rest = b"", content[end:]
        match self.kind:
            case "flip":
                put = bytes(byte ^ (1 << self.value % 8) for byte in content[at : at + 1])
                rest = content[at + 1 :]
            case "repeat":
                put = content[at:end] * (1 + self.value % 5)
            case "truncate":
                rest = b""
            case "number":
                put = number.to_bytes(8, "little")[: 1 << self.value % 4]
                rest = content[at + len(put) :]
            case "word":
                put = WORDS[self.value % len(WORDS)]
            case "digits":
                return _other_digits(content, at, number)
        return content[:at] + put + rest


def _other_digits(content: bytes, at: int, number: int) -> bytes:
    """The first number in decimal digits behind ``at`` becomes another one."""
    start = next((i for i in range(at, len(content)) if 48 <= content[i] <= 57), len(content))
    end = next((i for i in range(start, len(content)) if not 48 <= content[i] <= 57), len(content))
    return content[:start] + str(number).encode() + content[end:]


BINARY = ("flip", "delete", "repeat", "truncate", "number")
TEXT = (*BINARY, "word", "digits")


def edits(kinds: Sequence[str]) -> st.SearchStrategy[list[Edit]]:
    """One to six changes."""
    shares = st.floats(0, 1, exclude_max=True)
    lengths = st.sampled_from((1, 2, 4, 8, 16, 64, 1024))
    one = st.builds(Edit, st.sampled_from(kinds), shares, st.integers(0, 255), lengths)
    return st.lists(one, min_size=1, max_size=6)


def plainly(content: bytes, changes: list[Edit]) -> bytes:
    """Edits the file as it lies there."""
    for change in changes:
        content = change.apply(content)
    return content


def in_pickle(content: bytes, changes: list[Edit]) -> bytes:
    """Edits the pickle inside a zip, so that its checksum holds; one time in three the zip."""
    if changes[0].value % 3 == 0:
        return plainly(content, changes)
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as new:
        for record in old.infolist():
            inside = old.read(record)
            if record.filename.endswith("data.pkl"):
                inside = plainly(inside, changes)
            new.writestr(record.filename, inside)
    return made.getvalue()
