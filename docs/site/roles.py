"""Docstrings as the site shows them: without the roles that mark what a name is."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":[a-z]+:`~?([^`]+)`")


class Roles(griffe.Extension):
    """``:class:`Detections``` becomes ``Detections``, and ``::`` before an example a colon."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every module, class, function and attribute."""
        if obj.docstring:
            text = _ROLE.sub(r"`\1`", obj.docstring.value)
            obj.docstring.value = re.sub(r"(\w)::$", r"\1:", text, flags=re.MULTILINE)
