"""The one reader of YAML files, whoever wrote them.

A YAML file of some hundred bytes can stand for billions of values (aliases of aliases, merge keys
of merge keys), nest as deep as the parser's stack, or make its constructors raise anything. So the
events are counted first, then the document is built, and whatever goes wrong is one ConfigError.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from detq.errors import ConfigError, shown
from detq.files import read_text

MAX_BYTES = 8 << 20
MAX_DEPTH = 50
MAX_VALUES = 500_000
"""With every alias counted as all that it stands for."""

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TEXT = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"
_NULL = "tag:yaml.org,2002:null"


def read_yaml(path: Path, *, text_under: Collection[str] = ()) -> dict[Any, Any]:
    """A YAML file of ``key: value`` lines -> plain values.

    The values under a key of ``text_under`` stay text as it is written, also in lists and
    mappings: a class may be called ``no``, ``1e3`` or ``3.10``. Raises ConfigError, naming the
    file, if it cannot be read, is no YAML, is beyond the limits, or has a key twice.
    """
    try:
        text = read_text(path, most_bytes=MAX_BYTES)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    try:
        _check_size(text)
        document = _built(text, text_under)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (
        Exception
    ) as error:  # constructors raise what they like: a date of month 13, a list as key
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{path}: not a YAML file ({reason}); correct it") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: expected `key: value` lines, got {type(document).__name__}")
    return document


def _check_size(text: str) -> None:
    """Count values and depth without building anything."""
    depth, values = 0, 0
    sizes: dict[str, int] = {}  # of what an anchor stands for, once it is complete
    open_anchors: list[tuple[str | None, int]] = []
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ConfigError(
                    f"the alias {shown(event.anchor)} stands inside itself or for nothing"
                )
            values += sizes[event.anchor]
        elif isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            values += 1
            open_anchors.append((event.anchor, values))
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
            anchor, before = open_anchors.pop()
            if anchor is not None:
                sizes[anchor] = values - before + 1
        elif isinstance(event, yaml.ScalarEvent):
            values += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
        if depth > MAX_DEPTH:
            raise ConfigError(f"nested deeper than {MAX_DEPTH} levels; simplify it")
        if values > MAX_VALUES:
            raise ConfigError(
                f"stands for more than {MAX_VALUES} values, aliases counted; simplify it"
            )


def _built(text: str, text_under: Collection[str]) -> Any:
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        _check_keys(root, set())
        if isinstance(root, yaml.MappingNode):
            for key, value in root.value:
                if isinstance(key, yaml.ScalarNode) and key.value in text_under:
                    _keep_text(value)
        return loader.construct_document(root)
    finally:
        loader.dispose()


def _check_keys(node: yaml.Node, seen: set[int]) -> None:
    """Raise ConfigError for a mapping that has a key twice: which of the two was meant?"""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_keys(item, seen)
    elif isinstance(node, yaml.MappingNode):
        keys = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                if (key.tag, key.value) in keys:
                    line = key.start_mark.line + 1
                    raise ConfigError(f"line {line}: key {shown(key.value)} is there twice")
                keys.add((key.tag, key.value))
            _check_keys(value, seen)


def _keep_text(node: yaml.Node) -> None:
    """Let plain scalars be text; the keys of a mapping stay what they are."""
    if isinstance(node, yaml.ScalarNode):
        if not node.style and not (node.tag == _NULL and not node.value):
            node.tag = _TEXT
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _keep_text(item)
    elif isinstance(node, yaml.MappingNode):
        for _, value in node.value:
            _keep_text(value)
