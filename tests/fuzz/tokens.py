"""A model file as the numbers, names and bytes that a reader takes from it one by one, and back.

    file --Recorder--> tokens + stream --changes (mutation.py)--> tokens + stream --seal--> file

Numbers are written again in their codes, so that all that follows a changed number still stands where a reader looks for it.
Any entropy model is taken apart, for its own `read` says what the tokens are.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from unittest import mock

from zoo import codec
from zoo.codec import container, described
from zoo.codec.bits import Reader, Writer, varint


@dataclass(frozen=True)
class Token:
    """One call of a reader: its method, the method's argument (bits, order of the code, bytes), and what it returned."""

    method: str
    argument: int
    value: int | str | bytes


@dataclass
class File:
    """What stands between a file's length and its checksum, and where each group begins in the tokens."""

    tokens: list[Token]
    stream: bytes
    groups: list[int]
    version: int = 1
    description: codec.Description | None = None  # of version 2

    @property
    def header(self) -> int:
        """How many tokens stand before the first group."""
        return self.groups[0] if self.groups else len(self.tokens)


class Recorder(Reader):
    """A reader that keeps a list of what was taken from it."""

    def __init__(self, data) -> None:
        super().__init__(data)
        self.tokens: list[Token] = []
        self._inside = False

    def _record(self, method: str, argument: int, call):
        if self._inside:
            return call()
        self._inside = True
        try:
            value = call()
        finally:
            self._inside = False
        self.tokens.append(Token(method, argument, bytes(value) if isinstance(value, memoryview) else value))
        return value

    def raw(self, count):
        return self._record("raw", count, lambda: super(Recorder, self).raw(count))

    def varint(self):
        return self._record("varint", 0, super().varint)

    def text(self):
        return self._record("text", 0, super().text)

    def bits(self, count):
        return self._record("bits", count, lambda: super(Recorder, self).bits(count))

    def golomb(self, k=0):
        return self._record("golomb", k, lambda: super(Recorder, self).golomb(k))

    def signed(self, k=0):
        return self._record("signed", k, lambda: super(Recorder, self).signed(k))

    def align(self):
        return self._record("align", 0, super().align)

    def string(self, read):
        return self._record("string", 0, lambda: read(self))


def take_apart(blob: bytes, layout) -> File:
    """The tokens of a file of either version that decodes."""
    readers, begins, version = [], [], blob[len(container.MAGIC)]

    class OfThisFile(Recorder):
        def __init__(self, data):
            super().__init__(data)
            readers.append(self)

    columns, string = container._columns, described._read_string

    def begin_of_group(*arguments):  # called once a group, after its flags and names
        tokens, at = readers[0].tokens, len(readers[0].tokens)
        while tokens[at - 1].method == "text":
            at -= 1
        begins.append(at - 1)
        return columns(*arguments)

    with mock.patch.multiple(container, Reader=OfThisFile, _columns=begin_of_group), \
            mock.patch.object(described, "_read_string", lambda reader: reader.string(string)):  # fmt: skip
        description = described.decode(blob)[0] if version == described.VERSION else codec.decode(blob, layout) and None
    start = 3  # magic, version, length
    stream = bytes(readers[0].data[readers[0].position :])
    return File(readers[0].tokens[start:], stream, [begin - start for begin in begins], version, description)


def put_together(tokens: list[Token], stream: bytes, version: int = 1) -> bytes:
    """A whole file: length and checksum fit. What a code cannot hold is cut to what it can."""
    writer = Writer()
    for token in tokens:
        value = token.value
        if token.method == "align":
            writer.align()
        elif token.method == "bits":
            writer.bits(value & ((1 << token.argument) - 1), token.argument)
        elif token.method == "golomb":
            writer.golomb(min(max(value, 0), 2**40), token.argument)
        elif token.method == "signed":
            writer.signed(min(max(value, -(2**40)), 2**40), token.argument)
        elif token.method == "varint":
            writer.varint(min(max(value, 0), 2**63 - 1))
        elif token.method == "text":
            writer.text(value)
        elif token.method == "string":
            data = value.encode() if isinstance(value, str) else value
            writer.varint(len(data))
            writer.raw(data)
        else:
            writer.raw(value)
    return seal(writer.to_bytes() + stream, version)


def seal(body: bytes, version: int = 1) -> bytes:
    """A file around what stands between length and checksum, both of which fit."""
    fixed = len(container.MAGIC) + 1 + len(body) + 4
    length = fixed + 1
    while length != fixed + len(varint(length)):
        length = fixed + len(varint(length))
    blob = container.MAGIC + bytes([version]) + varint(length) + body
    return blob + zlib.crc32(blob).to_bytes(4, "little")
