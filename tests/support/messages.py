"""Hypothesis strategies for protobuf messages as a hostile peer would make them."""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

M = TypeVar("M", bound=Message)

_KINDS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    FieldDescriptor.CPPTYPE_DOUBLE: st.floats() | st.sampled_from([0.0, 0.5, 1.0, 1e300]),
    FieldDescriptor.CPPTYPE_FLOAT: st.floats(width=32),
    FieldDescriptor.CPPTYPE_ENUM: st.integers(0, 4) | st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 300) | st.integers(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 300) | st.integers(0, 2**64 - 1),
}
_TEXTS = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(
    ["", " ", "a\nb", "\x1b[2J", "x" * 300, "y" * 5000, "e1", "127.0.0.1:1", "CANCELLED", "large"]
)
_MAX_DEPTH = 3


def _values(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        return _fields(field.message_type, depth - 1)
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return st.binary(max_size=40) if field.type == FieldDescriptor.TYPE_BYTES else _TEXTS
    return _KINDS[field.cpp_type]


@st.composite
def _fields(draw: st.DrawFn, kind: Descriptor, depth: int) -> dict[str, Any]:
    """Some fields of a message and their values."""
    usable = [f for f in list(kind.fields) if depth > 0 or f.message_type is None]
    chosen = draw(st.lists(st.sampled_from(usable), max_size=4, unique_by=lambda f: f.name))
    return {field.name: draw(_content(field, depth)) for field in chosen}


def _content(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if _is_map(field):
        inner = field.message_type.fields_by_name
        keys, values = (_values(inner[name], depth) for name in ("key", "value"))
        return st.dictionaries(keys, values, max_size=4)
    values = _values(field, depth)
    return st.lists(values, max_size=4) if field.is_repeated else values


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


@st.composite
def altered(draw: st.DrawFn, good: M) -> M:
    """The message with one to three fields replaced, here and in the messages that it holds."""
    message = type(good)()
    message.CopyFrom(good)
    for _ in range(draw(st.integers(1, 3))):
        part: Message = message
        while inner := _parts(part):
            if draw(st.booleans()):
                break
            part = draw(st.sampled_from(inner))
        field = draw(st.sampled_from(list(part.DESCRIPTOR.fields)))
        part.ClearField(field.name)
        part.MergeFrom(type(part)(**{field.name: draw(_content(field, _MAX_DEPTH))}))
    return message


def _parts(message: Message) -> list[Message]:
    """The messages directly within a message."""
    found: list[Message] = []
    for field, value in message.ListFields():
        if field.message_type is not None and not _is_map(field):
            found += list(value) if field.is_repeated else [value]
    return found


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes with some of them flipped, cut out, repeated or put in."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.integers(0, 8))
        how = draw(st.sampled_from(["flip", "cut", "repeat", "insert"]))
        if how == "flip" and data:
            bit = 1 << draw(st.integers(0, 7))
            data = data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]
        elif how == "cut":
            data = data[:at] + data[at + length :]
        elif how == "repeat":
            data = data[:at] + data[at : at + length] * draw(st.integers(2, 50)) + data[at:]
        else:
            data = data[:at] + draw(st.binary(max_size=12)) + data[at:]
    return data
