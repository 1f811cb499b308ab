"""One row per image: what was found in it, or why nothing could be; as JSON Lines or Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from detq.data.frames import Item
from detq.data.images import ImageBGR
from detq.data.sources import pyarrow_parquet
from detq.errors import ArtifactError, DetqError
from detq.tasks import Found

RowFormat = Literal["jsonl", "parquet"]
Row = dict[str, Any]
BATCH_ROWS = 1000
"""So many rows of Parquet are held before they are written."""


@dataclass(frozen=True)
class Origin:
    """What all rows of a run share: the model, its digest and class names, the thresholds."""

    model: str
    sha256: str
    class_names: tuple[str, ...]
    confidence: float
    iou: float

    def row(
        self,
        item: Item,
        image: ImageBGR | DetqError,
        found: Found | None,
        track_ids: Sequence[int] | None = None,
    ) -> Row:
        """The row of one image. ``found`` is None for one that could not be read."""
        row: Row = {
            "id": item.id,
            "source": item.source,
            "index": item.index,
            "time_s": item.time_s,
            "width": None if isinstance(image, DetqError) else image.shape[1],
            "height": None if isinstance(image, DetqError) else image.shape[0],
        }
        columns = {} if found is None else found.columns()
        row |= {"boxes": columns.get("boxes", [])}
        row |= {name: columns.get(name, []) for name in ("scores", "class_ids")}
        row["class_names"] = [self.class_names[class_id] for class_id in row["class_ids"]]
        if track_ids is not None:
            row["track_ids"] = list(track_ids)
        row["error"] = str(image) if isinstance(image, DetqError) else None
        return row | {
            "model": self.model,
            "model_sha256": self.sha256,
            "confidence": self.confidence,
            "iou": self.iou,
        }


class Writer(Protocol):
    """Takes rows, one after another."""

    def write(self, row: Row, /) -> None:
        """Put one row behind the others."""


@contextmanager
def open_writer(path: Path, format_: RowFormat, *, tracked: bool = False) -> Iterator[Writer]:
    """A file of rows under the pen. Raises OSError if the disk is full."""
    if format_ == "jsonl":
        with path.open("wb") as file:
            yield _JsonLines(file)
        return
    parquet = pyarrow_parquet(str(path))
    with parquet.ParquetWriter(path, _schema(tracked), compression="zstd") as file:
        writer = _Parquet(file)
        yield writer
        writer.flush()


class _JsonLines:
    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, row: Row, /) -> None:
        line = json.dumps(row, ensure_ascii=False)
        # A file name that is no Unicode becomes a JSON escape.
        self._file.write(f"{line}\n".encode(errors="backslashreplace"))


class _Parquet:
    def __init__(self, file: Any) -> None:
        self._file = file
        self._rows: list[Row] = []

    def write(self, row: Row, /) -> None:
        self._rows.append({name: _text(value) for name, value in row.items()})
        if len(self._rows) == BATCH_ROWS:
            self.flush()

    def flush(self) -> None:
        import pyarrow  # noqa: PLC0415 - only where a user has installed it

        if self._rows:
            self._file.write_table(pyarrow.Table.from_pylist(self._rows, self._file.schema))
        self._rows = []


def _text(value: Any) -> Any:
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def _schema(tracked: bool) -> Any:
    import pyarrow as pa  # noqa: PLC0415

    tracks = [("track_ids", pa.list_(pa.int64()))] if tracked else []
    return pa.schema(
        [
            ("id", pa.string()),
            ("source", pa.string()),
            ("index", pa.int64()),
            ("time_s", pa.float64()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("boxes", pa.list_(pa.list_(pa.float32(), 4))),
            ("scores", pa.list_(pa.float32())),
            ("class_ids", pa.list_(pa.int64())),
            ("class_names", pa.list_(pa.string())),
            *tracks,
            ("error", pa.string()),
            ("model", pa.string()),
            ("model_sha256", pa.string()),
            ("confidence", pa.float64()),
            ("iou", pa.float64()),
        ]
    )


def read_rows(paths: Iterable[Path]) -> Iterator[Row]:
    """The rows of such files, one after another. Raises ArtifactError for another file."""
    for path in paths:
        try:
            if path.suffix == ".jsonl":
                with path.open("rb") as file:
                    yield from (json.loads(line) for line in file)
            else:
                for batch in pyarrow_parquet(str(path)).ParquetFile(path).iter_batches():
                    yield from batch.to_pylist()
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"{path}: cannot be read ({error}); delete it, and the same command makes it again"
            ) from None
