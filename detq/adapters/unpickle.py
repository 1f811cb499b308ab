"""Reads a pickled network without running anything of it.

A pickle is a program. This interpreter knows only the instructions that ``torch.save`` writes and
the names in :mod:`detq.adapters.pickle_names`. Every object becomes an inert :class:`Instance` that
holds its attributes, every tensor a :class:`StoredTensor` that says where its numbers lie. No name
is looked up, imported or called.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from detq.adapters.pickle_names import (
    ALLOWED,
    CLASSES,
    IGNORED_CALLS,
    NAMESPACES,
    ORDERED_DICT,
    REBUILD_PARAMETER,
    REBUILD_TENSOR,
    STORAGE_DTYPES,
)

MAX_STEPS = 3_000_000
"""Instructions, and values that they copy. The pickle of a network of 3 MB has a third of that."""


class ForbiddenNameError(Exception):
    """The pickle refers to a name that no checkpoint detq reads contains."""


class DamagedPickleError(Exception):
    """The pickle is no program that ``torch.save`` could have written."""


_BROKEN = (IndexError, KeyError, ValueError, TypeError, OverflowError, struct.error)
"""What reading beyond the stack, or values of another kind than expected, ends in."""


@dataclass(frozen=True)
class Global:
    """A name that the pickle refers to, such as ``yolov6.layers.common.ConvModule``."""

    name: str


@dataclass(frozen=True)
class Storage:
    """Raw numbers in the archive: ``count`` of them, of numpy type ``dtype``, in ``record``."""

    record: str
    dtype: str
    count: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as a view of a storage; ``offset`` and ``strides`` count elements, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(eq=False)
class Instance:
    """An object of a known class: its attributes, without any behaviour."""

    kind: str
    attributes: dict[str, Any] = field(default_factory=dict)


def unpickle(program: bytes) -> object:
    """The object that a protocol-2 pickle describes, made of inert values only.

    Raises ForbiddenNameError for a name outside the list, DamagedPickleError for anything else
    that ``torch.save`` does not write.
    """
    try:
        return _PickleMachine(program).run()
    except _BROKEN as error:
        raise DamagedPickleError(f"{type(error).__name__}: {error}") from None


def unpickle_series(program: bytes, count: int) -> tuple[list[object], dict[str, Storage], int]:
    """``count`` pickles one after the other: their objects, the storages that these refer to by
    key, and where the last one ends. Raises as :func:`unpickle` does.
    """
    machine = _PickleMachine(program)
    objects = []
    try:
        for _ in range(count):
            machine.stack, machine.marks, machine.memo = [], [], {}
            objects.append(machine.run())
    except _BROKEN as error:
        raise DamagedPickleError(f"{type(error).__name__}: {error}") from None
    return objects, machine.storages, machine.position


class _PickleMachine:
    """The stack machine of the pickle format, cut down to what a checkpoint needs."""

    def __init__(self, program: bytes) -> None:
        self.program = program
        self.position = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}
        self.steps = 0

    def run(self) -> object:
        while (opcode := self.take(1)) != b".":
            self.count(1)
            action = _ACTIONS.get(opcode)
            if action is None:
                raise DamagedPickleError(f"unexpected instruction {opcode!r}")
            action(self)
        return self.stack.pop()

    def count(self, steps: int) -> None:
        """Some bytes can stand for work without end, and for memory."""
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise DamagedPickleError(f"it takes more than {MAX_STEPS} steps")

    def take(self, length: int) -> bytes:
        chunk = self.program[self.position : self.position + length]
        if len(chunk) != length:
            raise DamagedPickleError("it ends too early")
        self.position += length
        return chunk

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def line(self) -> str:
        end = self.program.index(b"\n", self.position)
        text = self.program[self.position : end].decode()
        self.position = end + 1
        return text

    def check_protocol(self) -> None:
        if self.number("<B") != 2:
            raise DamagedPickleError("it is not of protocol 2")

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop_to_mark(self) -> list[Any]:
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def remember(self, slot: int) -> None:
        self.memo[slot] = self.stack[-1]

    def push_tuple(self, length: int) -> None:
        if len(self.stack) < length:
            raise DamagedPickleError("a tuple has too few items")
        items = tuple(self.stack[-length:])
        del self.stack[-length:]
        self.push(items)

    def push_global(self) -> None:
        name = f"{self.line()}.{self.line()}"
        if name not in ALLOWED:
            raise ForbiddenNameError(name)
        self.push(Global(name))

    def push_text(self) -> None:
        length = self.number("<I")
        self.push(self.take(length).decode("utf-8", "surrogatepass"))

    def push_long(self) -> None:
        length = self.number("<B")
        self.push(int.from_bytes(self.take(length), "little", signed=True))

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise DamagedPickleError("items are appended to something that is no list")
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise DamagedPickleError("items are set on something that is no dict")
        keys = items[::2]
        if not all(isinstance(key, (str, int)) for key in keys):
            raise DamagedPickleError("a dict key is neither text nor a number")
        target.update(zip(keys, items[1::2], strict=True))

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise DamagedPickleError("a call of something that is no function")
        self.push(_call(function.name, arguments))

    def new_object(self) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        if not isinstance(kind, Global) or kind.name not in CLASSES or arguments != ():
            raise DamagedPickleError("an object of something that is no class")
        self.push(Instance(kind.name))

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Instance) and target.kind in CLASSES | NAMESPACES:
            if not isinstance(state, dict):
                raise DamagedPickleError(f"the attributes of {target.kind} are no dict")
            self.count(len(state))
            target.attributes.update(state)
        elif not isinstance(target, (Instance, dict)):  # a numpy dtype, a dict's own attributes
            raise DamagedPickleError("attributes are given to something that has none")

    def push_storage(self) -> None:
        reference = self.stack.pop()
        match reference:
            case ("storage", Global(name=kind), str(key), str(), int(count)) | (
                "storage",
                Global(name=kind),
                str(key),
                str(),
                int(count),
                None,
            ):
                if kind in STORAGE_DTYPES and count >= 0:
                    storage = Storage(key, STORAGE_DTYPES[kind], count)
                    if self.storages.setdefault(key, storage) != storage:
                        raise DamagedPickleError(f"storage {key} is described in two ways")
                    self.push(storage)
                    return
        raise DamagedPickleError("a storage reference is malformed")


def _call(name: str, arguments: tuple[Any, ...]) -> object:
    """What one of the listed functions would return, as an inert value."""
    if name in IGNORED_CALLS or (name in NAMESPACES and arguments == ()):
        return Instance(name)
    match name, arguments:
        case _, () if name == ORDERED_DICT:
            return {}
        case _, (StoredTensor() as data, *_) if name == REBUILD_PARAMETER:
            return data
        case _, (Storage() as storage, int(offset), tuple(shape), tuple(strides), *_) if (
            name == REBUILD_TENSOR
        ):
            if all(isinstance(number, int) for number in (*shape, *strides)):
                return StoredTensor(storage, offset, shape, strides)
    raise DamagedPickleError(f"a call of {name} has unexpected arguments")


_ACTIONS: Mapping[bytes, Callable[[_PickleMachine], None]] = {
    b"\x80": _PickleMachine.check_protocol,
    b"(": lambda m: m.marks.append(len(m.stack)),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"J": lambda m: m.push(m.number("<i")),
    b"K": lambda m: m.push(m.number("<B")),
    b"M": lambda m: m.push(m.number("<H")),
    b"G": lambda m: m.push(m.number(">d")),
    b"\x8a": _PickleMachine.push_long,
    b"X": _PickleMachine.push_text,
    b"}": lambda m: m.push({}),
    b"]": lambda m: m.push([]),
    b")": lambda m: m.push(()),
    b"t": lambda m: m.push(tuple(m.pop_to_mark())),
    b"\x85": lambda m: m.push_tuple(1),
    b"\x86": lambda m: m.push_tuple(2),
    b"\x87": lambda m: m.push_tuple(3),
    b"a": lambda m: m.append([m.stack.pop()]),
    b"e": lambda m: m.append(m.pop_to_mark()),
    b"s": lambda m: m.set_items([m.stack.pop(-2), m.stack.pop()]),
    b"u": lambda m: m.set_items(m.pop_to_mark()),
    b"q": lambda m: m.remember(m.number("<B")),
    b"r": lambda m: m.remember(m.number("<I")),
    b"h": lambda m: m.push(m.memo[m.number("<B")]),
    b"j": lambda m: m.push(m.memo[m.number("<I")]),
    b"c": _PickleMachine.push_global,
    b"R": _PickleMachine.reduce,
    b"\x81": _PickleMachine.new_object,
    b"b": _PickleMachine.build,
    b"Q": _PickleMachine.push_storage,
}
