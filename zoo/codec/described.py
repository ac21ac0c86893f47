"""Version 2 of the file, which describes itself: any tensors of any network (FORMAT.md, section 9).

    magic | 2 | length | network, input, classes | types of the groups, table of tensors | groups | stream | CRC-32

Groups, tables and the stream are those of version 1; the group `exact` keeps the bytes of its numbers.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from zoo.codec import container
from zoo.codec.bits import Reader, Writer
from zoo.codec.container import Coded, GroupBytes, Header
from zoo.errors import CorruptArtifact, UnsupportedVersion

VERSION = 2

# Bytes of a number, little-endian; the place in this list is the code in a file.
DTYPES = {
    "float32": 4, "float16": 2, "bfloat16": 2, "float64": 8, "uint8": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8,
    "bool": 1, "uint16": 2, "uint32": 4, "uint64": 8, "complex64": 8, "complex128": 16, "float8_e4m3fn": 1, "float8_e5m2": 1,
}  # fmt: skip
_CODES = list(DTYPES)
DECODED = ("float32", "float16", "bfloat16", "float64")  # what a group of another decoder than `exact` may be rounded to
MODES = {"L": 1, "RGB": 3}  # of pictures, and their channels
INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "lanczos", "box", "hamming")

MAX_STRING = 1 << 10  # bytes of UTF-8
MAX_WORDS = 1 << 7  # of a name, between its dots
WORD = 4  # characters that a word counts beside its own
MAX_DIMENSIONS = 32
MAX_CLASSES = 1 << 15


@dataclass(frozen=True)
class Picture:
    """What a network's input is made of: see `zoo.preprocessing.Preprocessing`, whose fields these are."""

    name: str
    mode: str
    size: int
    resize: int | None
    scale: float
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    enlarge: int = 1
    interpolation: str = "bilinear"


@dataclass(frozen=True)
class Tensor:
    """A row of the table: a tensor of a group, or (group None) another name of the tensor in row `alias`."""

    name: str
    shape: tuple[int, ...]
    group: int | None
    alias: int | None = None


@dataclass(frozen=True)
class Description:
    """What a file says of itself.

    dtypes: one for each group, that of its tensors. tensors: rows of the table; a group has its tensors in the table's order.
    """

    network: str
    dtypes: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    picture: Picture | None = None
    classes: tuple[str, ...] = ()

    def shapes(self) -> dict[str, tuple[tuple[int, ...], ...]]:
        """Number of each group, as a string -> shapes of its tensors."""
        members: list[list[tuple[int, ...]]] = [[] for _ in self.dtypes]
        for tensor in self.tensors:
            if tensor.group is not None:
                members[tensor.group].append(tensor.shape)
        return {str(number): tuple(shapes) for number, shapes in enumerate(members)}

    def dtype(self, tensor: Tensor) -> str:
        return self.dtypes[(tensor if tensor.alias is None else self.tensors[tensor.alias]).group]

    @property
    def numbers(self) -> int:
        """Numbers of all tensors, tied ones counted once."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors if tensor.group is not None)


def most_memory(length: int) -> int:
    """Bytes of the tensors that a file of so many bytes may describe."""
    return (1 << 28) + (length << 12)


def most_rows(length: int) -> int:
    """Rows of the table of a file of so many bytes, at most."""
    return (1 << 14) + length // 16


def most_characters(length: int) -> int:
    """Characters of all names of a file of so many bytes, at most; each word counts WORD more."""
    return (1 << 20) + 8 * length


def encode(description: Description, groups: Sequence[Coded]) -> bytes:
    """The whole file. A group `exact` has phi uint8 (d, bytes of a number), others as in `container.encode`.

    Raises `LayoutMismatch`, `TypeError` and `ValueError` as `container.encode` does, and ValueError for a description that no
    file may hold.
    """
    header = _header(description)
    layout = description.shapes()
    sizes = {str(number): DTYPES[dtype] for number, dtype in enumerate(description.dtypes)}
    coded = dict(zip(layout, groups, strict=True))
    blob = container.assemble(VERSION, header, coded, layout, sizes)
    try:
        checked = _read_header(Reader(header), len(blob))
    except CorruptArtifact as error:
        raise ValueError(f"no file may hold this: {error}") from error
    if checked.tensors != description.tensors or checked.dtypes != description.dtypes:
        raise ValueError("the table does not come back as it was: groups are numbered in the order of their first tensors")
    return blob


def decode(blob: bytes, narrow: bool = False) -> tuple[Description, list[Coded]]:
    """What a file of version 2 says of itself, and its groups; `narrow` as in `container.decode`.

    Raises `CorruptArtifact` or a subclass.
    """
    description, groups, _ = _decode(blob, narrow=narrow)
    return description, groups


def anatomy(blob: bytes) -> tuple[Description, list[GroupBytes], int]:
    """What the bytes are spent on, group by group (named by their tensors), and the number of bytes before the first group."""
    description, _, (breakdown, start) = _decode(blob, measure=True)
    for number, group in enumerate(breakdown):
        members = [tensor.name for tensor in description.tensors if tensor.group == number]
        group.group = members[0] + (f" and {len(members) - 1} more" if len(members) > 1 else "")
    return description, breakdown, start


def read_header(blob: bytes) -> Header:
    """What a file of either version says of itself in short; the network of one without a name is called ""."""
    version, _ = container.check(blob)
    if version == container.VERSION:
        return container.read_header(blob)
    description = read_description(blob)
    return Header(version, description.network, "", description.numbers, len(description.dtypes))


def read_description(blob: bytes) -> Description:
    """The description alone, after length and checksum have been checked."""
    return _read_header(_open(blob), len(blob))


def _open(blob: bytes) -> Reader:
    version, reader = container.check(blob)
    if version != VERSION:
        raise UnsupportedVersion(f"the file has format version {version}: it does not describe its tensors")
    return reader


def _decode(blob: bytes, measure: bool = False, narrow: bool = False):
    reader = _open(blob)
    description = _read_header(reader, len(blob))
    start = reader.position
    sizes = {str(number): DTYPES[dtype] for number, dtype in enumerate(description.dtypes)}
    groups, breakdown = container.read_groups(reader, description.shapes(), "its table", measure, sizes, narrow)
    for dtype, group in zip(description.dtypes, groups.values(), strict=True):
        if group.decoder != "exact" and dtype not in DECODED:
            raise CorruptArtifact(f"a group of {dtype} numbers has decoder {group.decoder!r}; only floating-point ones may")
        if dtype == "bool" and group.phi.size and group.phi.max() > 1:
            raise CorruptArtifact("a bool is neither 0 nor 1")
    return description, list(groups.values()), (breakdown, start)


# ---------------------------------------------------------------------------------------------- the header


def _header(description: Description) -> bytes:
    writer = Writer()
    writer.text(description.network)
    picture = description.picture
    writer.raw(bytes([(picture is not None) | bool(description.classes) << 1]))
    if picture is not None:
        _write_picture(writer, picture)
    if description.classes:
        writer.varint(len(description.classes))
        for name in description.classes:
            _write_string(writer, name)
    writer.varint(len(description.dtypes))
    writer.raw(bytes(_CODES.index(dtype) for dtype in description.dtypes))
    writer.varint(len(description.tensors))
    words: dict[str, int] = {}
    previous: list[str] = []
    for tensor in description.tensors:
        name = tensor.name.split(".")
        shared = 0
        while shared < min(len(name), len(previous)) and name[shared] == previous[shared]:
            shared += 1
        writer.varint(shared)
        writer.varint(len(name) - shared)
        for word in name[shared:]:
            writer.varint(words.get(word, len(words)))
            if word not in words:
                words[word] = len(words)
                _write_string(writer, word)
        previous = name
        if tensor.group is None:
            writer.varint(0)
            writer.varint(tensor.alias)
            continue
        writer.varint(tensor.group + 1)
        writer.varint(len(tensor.shape))
        for length in tensor.shape:
            writer.varint(length)
    return writer.to_bytes()


def _read_header(reader: Reader, length: int) -> Description:
    begin = reader.position
    network = reader.text()
    (flags,) = reader.raw(1)
    if flags > 3:
        raise CorruptArtifact(f"the header has flags {flags:#04x}; version 2 knows 0x01 and 0x02")
    picture = _read_picture(reader) if flags & 1 else None
    classes = ()
    if flags & 2:
        count = reader.varint()
        if not 1 <= count <= MAX_CLASSES:
            raise CorruptArtifact(f"{count:,} names of classes; 1 to {MAX_CLASSES:,} are allowed")
        classes = tuple(_read_string(reader) for _ in range(count))
    codes = bytes(reader.raw(reader.varint()))
    if codes and max(codes) >= len(_CODES):
        raise CorruptArtifact(f"a group of numbers of kind {max(codes)}; version 2 knows 0 to {len(_CODES) - 1}")
    dtypes = tuple(_CODES[code] for code in codes)
    tensors, words, name, next_group, memory, characters = [], [], [], 0, 0, 0
    names: set[str] = set()
    rows = reader.varint()
    if rows > most_rows(length):
        raise CorruptArtifact(f"a table of {rows:,} tensors; a file of {length:,} bytes may have {most_rows(length):,}")
    for row in range(rows):
        name = _read_name(reader, words, name)
        characters += sum(map(len, name)) + WORD * len(name)
        if characters > most_characters(length):
            raise CorruptArtifact(f"the names of the first {row + 1:,} tensors are longer than those of {length:,} bytes may be")
        whole = ".".join(name)
        if whole in names:
            raise CorruptArtifact(f"two tensors are called {_short(whole)}")
        names.add(whole)
        group = reader.varint() - 1
        if group < 0:
            alias = reader.varint()
            if alias >= row or tensors[alias].group is None:
                raise CorruptArtifact(f"{_short(whole)} is another name of row {alias}, which is no tensor before it")
            tensors.append(Tensor(whole, tensors[alias].shape, None, alias))
            continue
        if group > next_group or group >= len(dtypes):
            raise CorruptArtifact(f"{_short(whole)} belongs to group {group}; the next new one is {next_group} of {len(dtypes)}")
        next_group = max(next_group, group + 1)
        dimensions = reader.varint()
        if dimensions > MAX_DIMENSIONS:
            raise CorruptArtifact(f"{_short(whole)} has {dimensions} dimensions; at most {MAX_DIMENSIONS} are allowed")
        shape = tuple(reader.varint() for _ in range(dimensions))
        memory += DTYPES[dtypes[group]] * math.prod(max(side, 1) for side in shape)
        if memory > most_memory(length):
            limit = f"the {most_memory(length):,} bytes of memory that those of a file of {length:,} bytes may"
            raise CorruptArtifact(f"the tensors up to {_short(whole)} take more than {limit}")
        tensors.append(Tensor(whole, shape, group))
    if next_group != len(dtypes):
        raise CorruptArtifact(f"{len(dtypes)} groups are declared, {next_group} have tensors")
    description = Description(network, dtypes, tuple(tensors), picture, classes)
    if _header(description) != bytes(reader.data[begin : reader.position]):
        raise CorruptArtifact("the header is not written in the one form that it has")
    return description


def _read_name(reader: Reader, words: list[str], previous: list[str]) -> list[str]:
    shared, added = reader.varint(), reader.varint()
    if shared > len(previous) or shared + added > MAX_WORDS:
        raise CorruptArtifact(f"a name of {shared} words of the name before it, which has {len(previous)}, and {added} new ones")
    name = previous[:shared]
    for _ in range(added):
        index = reader.varint()
        if index > len(words):
            raise CorruptArtifact(f"word {index} of names, of which {len(words)} are known")
        if index == len(words):
            words.append(_read_string(reader))
        name.append(words[index])
    if not name or sum(map(len, name)) > MAX_STRING:
        raise CorruptArtifact("a name without words, or of more than a thousand characters")
    return name


def _write_picture(writer: Writer, picture: Picture) -> None:
    writer.text(picture.name)
    writer.text(picture.mode)
    for number in (picture.size, picture.resize or 0, picture.enlarge):
        writer.varint(number)
    writer.raw(bytes([INTERPOLATIONS.index(picture.interpolation)]))
    writer.raw(struct.pack(f"<{1 + 2 * MODES[picture.mode]}f", picture.scale, *picture.mean, *picture.deviation))


def _read_picture(reader: Reader) -> Picture:
    name, mode = reader.text(), reader.text()
    if mode not in MODES:
        raise CorruptArtifact(f"pictures of mode {mode!r}; version 2 knows {', '.join(MODES)}")
    size, resize, enlarge = (reader.varint() for _ in range(3))
    (code,) = reader.raw(1)
    channels = MODES[mode]
    scale, *values = struct.unpack(f"<{1 + 2 * channels}f", reader.raw(4 * (1 + 2 * channels)))
    deviation = values[channels:]
    if not (1 <= size <= 4096 and resize <= 4096 and 1 <= enlarge <= 8 and code < len(INTERPOLATIONS)):
        raise CorruptArtifact(f"pictures of {size} pixels, from {resize}, enlarged {enlarge} times, by interpolation {code}")
    if not all(map(math.isfinite, (scale, *values))) or 0.0 in (scale, *deviation):
        raise CorruptArtifact("pixels are divided by zero, or by a number that is not finite")
    shortest = tuple(map(_shortest, values))
    return Picture(name, mode, size, resize or None, _shortest(scale), shortest[:channels], shortest[channels:], enlarge,
                   INTERPOLATIONS[code])  # fmt: skip


def _shortest(value: float) -> float:
    """The number of fewest decimal digits with the same float32: 0.485 comes back as 0.485."""
    for digits in range(1, 10):
        candidate = float(f"{value:.{digits}g}")
        if struct.pack("<f", candidate) == struct.pack("<f", value):
            return candidate
    return value


def _write_string(writer: Writer, text: str) -> None:
    data = text.encode("utf-8")
    writer.varint(len(data))
    writer.raw(data)


def _read_string(reader: Reader) -> str:
    length = reader.varint()
    if length > MAX_STRING:
        raise CorruptArtifact(f"a name of {length} bytes at byte {reader.position}; at most {MAX_STRING} are allowed")
    data = bytes(reader.raw(length))
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorruptArtifact(f"a name that is not UTF-8 at byte {reader.position - length}: {_short(data)}") from error
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise CorruptArtifact(f"a name with control characters at byte {reader.position - length}: {_short(data)}")
    return text


def _short(name: str | bytes) -> str:
    """As Python writes it, cut where it is long: for messages."""
    return repr(name) if len(name) <= 80 else f"{name[:60]!r} and {len(name) - 60} more"
