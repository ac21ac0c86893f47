"""The file: header, side information, one stream, checksum (FORMAT.md, sections 1 to 3).

    magic | version | length | network | partitioning | parameters | groups: decoder, model, psi, tables | stream | CRC-32
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from zoo import reparam
from zoo.codec import entropy
from zoo.codec.ans import Ans
from zoo.codec.bits import Reader, Writer, varint
from zoo.codec.work import BASIS, GROUP, Work, most_bytes, most_steps, quick_steps
from zoo.errors import CorruptArtifact, LayoutMismatch, NotAnArtifact, TruncatedArtifact, UnsupportedVersion

MAGIC = b"\x89ZOO\r\n\x1a\n"
VERSION = 1
VERSIONS = (1, 2)  # see described.py for 2
EXACT = "exact"  # the decoder of numbers kept byte by byte, of version 2 alone
DEFAULT_PARTITIONING = "paper"  # written as an empty name
USUAL = ("scalar", "static")  # decoder and model: written as empty names, and the first group's unless it names others
MAX_CODEBOOK = 1 << 12
MAX_KERNEL = 49  # numbers of a kernel that a file may describe: a basis has the square of that

Sizes = Mapping[str, int]  # group name -> bytes of a number of its tensors
Layout = Mapping[str, entropy.Shapes]  # group name -> shapes of its tensors, in coding order


@dataclass(frozen=True)
class Header:
    """What a file says of itself before any weight is decoded."""

    version: int
    network: str
    partitioning: str
    parameters: int
    groups: int  # how many follow


@dataclass
class Coded:
    """One group of a file: phi int32 (d, l) under decoder f and entropy model; psi float32 arrays (`reparam.psi_shapes`)."""

    decoder: str
    model: str
    phi: np.ndarray
    psi: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class GroupBytes:
    """What the bytes of one group are spent on: see `anatomy`."""

    group: str
    decoder: str
    model: str
    symbols: int
    ideal_bits: float
    coded_bits: float
    psi_bytes: int
    table_bytes: int
    payload_bytes: int = 0  # symbols that stand beside the tables instead of in the stream, counted in coded_bits, too


def psi_round(values) -> np.ndarray:
    """Float32 values rounded to bfloat16's 8 significant bits, which a file stores in two bytes each."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def encode(network: str, partitioning: str, groups: Mapping[str, Coded], layout: Layout) -> bytes:
    """The whole file of a network. `groups` and `layout` have the same names; layout's order is the file's.

    A group's phi is int32 (d, l): d rows of l numbers, together its tensors; psi as in `reparam.psi_shapes`. Under a model
    that is `narrow` phi may be int8 or int16, too.

    Raises `LayoutMismatch` when a group's counts or indices do not fit its shapes and psi, `UnknownName` for a decoder or
    model, `TypeError` for phi that is not int32, `ValueError` for a psi that is not finite (or 2^64 and more) and for a name
    that is not printable ASCII of at most 63 characters.
    """
    writer = Writer()
    writer.text(network)
    writer.text("" if partitioning == DEFAULT_PARTITIONING else partitioning)
    writer.varint(_numbers(layout))
    writer.varint(len(groups))
    return assemble(VERSION, writer.to_bytes(), groups, layout)


def assemble(version: int, start: bytes, groups: Mapping[str, Coded], layout: Layout, sizes: Sizes | None = None) -> bytes:
    """The file of a format version from what stands before its groups (`start`) and the groups; raises as `encode`."""
    if list(groups) != list(layout):
        raise LayoutMismatch(f"groups {list(groups)} were given, the network has {list(layout)}")
    numbers = _numbers(layout, sizes)
    columns = {name: _columns(group.decoder, layout[name], sizes and sizes[name]) for name, group in groups.items()}
    for name, group in groups.items():
        rows = sum(math.prod(shape) for shape in layout[name]) // (1 if group.decoder == EXACT else columns[name])
        if group.phi.shape != (rows, columns[name]):
            raise LayoutMismatch(f"group {name}: phi has shape {group.phi.shape}, its tensors make ({rows}, {columns[name]})")
        narrow = group.decoder != "float32" and getattr(entropy.find(group.model), "narrow", False)
        kinds = (np.uint8,) if group.decoder == EXACT else (np.int8, np.int16, np.int32) if narrow else (np.int32,)
        if group.phi.dtype not in kinds:
            raise TypeError(f"group {name}: phi is {group.phi.dtype}, not {' or '.join(kind.__name__ for kind in kinds)}")
    psi = {name: _pack_psi(group, len(layout[name]), columns[name]) for name, group in groups.items()}
    models = {name: entropy.find(group.model).fit(group.phi, layout[name]) for name, group in groups.items()}
    fixed = GROUP * len(sizes or ()) + sum(_work_of_basis(group.decoder, columns[name]) for name, group in groups.items())
    blob, work = _write(version, start, groups, psi, models)
    steps = dict(work)
    for name in sorted(steps, key=steps.get, reverse=True):  # quicker models for large networks, from the slowest group on
        quicker = getattr(models[name], "quicker", None)
        if sum(steps.values()) > quick_steps(numbers) and quicker:
            models[name], blob = quicker(groups[name].phi, layout[name]) or models[name], None
            steps[name] = models[name].work
    while True:
        if blob is None:
            blob, work = _write(version, start, groups, psi, models)
        if sum(work.values()) + fixed <= most_steps(len(blob), numbers):
            break
        blob = None
        for name in sorted(work, key=work.get, reverse=True):  # a simpler model where that spares most
            simpler = models[name].simpler(groups[name].phi, layout[name])
            if simpler is not None:
                models[name] = simpler
                break
        else:
            raise ValueError(f"these integers take {sum(work.values()):,} steps to decode, more than readers allow (FORMAT.md, "
                             "section 7); the entropy model `raw` takes none")  # fmt: skip
    if len(blob) > most_bytes(numbers):
        raise ValueError(f"the file would have {len(blob):,} bytes, {most_bytes(numbers):,} are allowed; the entropy model `raw` "
                         "takes four a number")  # fmt: skip
    return blob


def _write(
    version: int, start: bytes, groups: Mapping[str, Coded], psi: Mapping, models: Mapping
) -> tuple[bytes, dict[str, int]]:
    """The file, and the work (steps) that each group takes to decode."""
    coder, work = Ans(), {}
    coder.shared["lane_bytes"] = math.fsum(getattr(model, "lane_bytes", 0.0) for model in models.values())
    for name, group in reversed(groups.items()):
        before = coder.work.steps
        models[name].push(coder, group.phi)
        work[name] = coder.work.steps - before
    writer, previous = Writer(), USUAL
    writer.raw(start)
    for name, group in groups.items():
        before = writer.work.steps
        flags, arrays = psi[name]
        same = (group.decoder, group.model) == previous
        writer.raw(bytes([flags | same << 7]))
        if not same:
            previous = (group.decoder, group.model)
            for text, usual in zip(previous, USUAL, strict=True):
                writer.text("" if text == usual else text)
        writer.raw(arrays)
        models[name].write(writer)
        work[name] += writer.work.steps - before
    words = coder.words().astype("<u4", copy=False)
    del coder  # its words are those of the file once more
    tables, stream = writer.to_bytes(), memoryview(words.view(np.uint8))
    last = words[-1:].tobytes()  # never zero
    stream = stream[: len(stream) - len(last) + len(last.rstrip(b"\0"))]
    fixed = len(MAGIC) + 1 + len(tables) + len(stream) + 4
    length = fixed + 1
    while length != fixed + len(varint(length)):
        length = fixed + len(varint(length))
    head = MAGIC + bytes([version]) + varint(length) + tables
    return b"".join([head, stream, zlib.crc32(stream, zlib.crc32(head)).to_bytes(4, "little")]), work


def decode(blob: bytes, layout: Callable[[Header], Layout], narrow: bool = False) -> tuple[Header, dict[str, Coded]]:
    """Header and groups of a file, or a `CorruptArtifact` that says what was found.

    `layout` tells from the header which tensors the named network has; nothing larger than those is ever allocated.
    `narrow`: phi may be int8 or int16 where that holds it, a quarter of the memory.
    """
    header, groups, _ = _decode(blob, layout, narrow=narrow)
    return header, groups


def anatomy(blob: bytes, layout: Callable[[Header], Layout]) -> tuple[Header, list[GroupBytes]]:
    """What the bytes are spent on, group by group; the bytes beyond their sum are header, checksum and the coder's last words."""
    header, _, breakdown = _decode(blob, layout, measure=True)
    return header, breakdown


def read_header(blob: bytes) -> Header:
    """The header alone, after length and checksum have been checked."""
    return _read_header(_open(blob))


def _open(blob: bytes) -> Reader:
    version, reader = check(blob)
    if version != VERSION:
        raise UnsupportedVersion(f"the file has format version {version}, which describes its tensors itself")
    return reader


def _decode(blob, layout, measure: bool = False, narrow: bool = False):
    reader = _open(blob)
    header = _read_header(reader)
    shapes = layout(header)
    if header.groups != len(shapes):
        raise LayoutMismatch(f"the file has {header.groups} groups, {header.network} ({header.partitioning}) has {len(shapes)}")
    groups, breakdown = read_groups(reader, shapes, header.network, measure, narrow=narrow)
    return header, groups, breakdown


def read_groups(
    reader: Reader, layout: Layout, owner: str, measure: bool = False, sizes: Sizes | None = None, narrow: bool = False
) -> tuple[dict[str, Coded], list[GroupBytes]]:
    """The groups of a file whose reader stands before the first one, and what their bytes are spent on.

    `owner`, in messages, is what has the tensors of `layout`. `sizes` allows the decoder `exact`, whose phi is uint8
    (d, bytes of a number). `narrow`: as in `decode`.
    """
    numbers, length = _numbers(layout, sizes), len(reader.data) + 4
    if length > most_bytes(numbers):
        raise CorruptArtifact(f"the file has {length:,} bytes; {owner} needs {most_bytes(numbers):,} at most")
    reader.work = Work(most_steps(length, numbers))
    reader.work.spend(0 if sizes is None else GROUP * len(layout), f"{len(layout):,} groups")
    decoder, name = USUAL
    groups, models, breakdown = {}, [], []
    for group, tensors in layout.items():
        begin = reader.position
        (flags,) = reader.raw(1)
        if not flags & 128:
            decoder, name = (reader.text() or usual for usual in USUAL)
        l = _columns(decoder, tensors, sizes and sizes[group])
        reader.work.spend(_work_of_basis(decoder, l), f"a basis of {l} x {l} numbers")
        psi = _unpack_psi(reader, flags & 127, decoder, len(tensors), l)
        middle = reader.position
        if decoder == EXACT and name != "static":
            raise CorruptArtifact(f"bytes of numbers under the entropy model {name!r}; only `static` may code them")
        kind = entropy.Bytes if decoder == EXACT else entropy.find(name)
        model = kind.read(reader, l, tensors)
        models.append(model)
        groups[group] = Coded(decoder, name, None, psi)
        payload = getattr(model, "payload_bytes", 0)
        tables = reader.position - middle - payload
        breakdown.append(GroupBytes(group, decoder, name, 0, 0.0, 0.0, middle - begin, tables, payload))
    coder = Ans(_words(reader.data[reader.position :]), reader.work)
    for group, model, usage in zip(groups.values(), models, breakdown, strict=True):
        before = coder.size_bits
        group.phi = model.pop(coder)
        if group.decoder == "float32" or not (narrow or group.decoder == EXACT):
            group.phi = group.phi.astype(np.int32, copy=False)
        if group.decoder == "float32" and not np.isfinite(group.phi.view(np.float32)).all():
            raise CorruptArtifact(f"group {usage.group} holds a weight that is not finite")
        if measure:
            usage.symbols, usage.ideal_bits = group.phi.size, model.bits(group.phi)
            usage.coded_bits = before - coder.size_bits + 8 * usage.payload_bytes
    if not coder.empty or coder.shared:
        raise CorruptArtifact(f"the stream does not end with the last weight of {owner}: it belongs to something else")
    return groups, breakdown


def _numbers(layout: Layout, sizes: Sizes | None = None) -> int:
    """What the limits of work and length count: numbers; with sizes (version 2) the bytes that they take in memory."""
    counts = {name: sum(math.prod(shape) for shape in shapes) for name, shapes in layout.items()}
    return sum(counts.values()) if sizes is None else sum(count * sizes[name] for name, count in counts.items())


def _work_of_basis(decoder: str, l: int) -> int:
    """Steps to draw a basis and make it orthogonal."""
    return BASIS * l**3 if decoder.startswith("orth") else 0


def _words(stream: memoryview) -> np.ndarray:
    """The words of the stream's bytes, uint32."""
    if stream[-1:] == b"\0":
        raise CorruptArtifact("the stream ends with a zero byte, which no encoder writes")
    words = np.zeros(-(-len(stream) // 4), "<u4")
    words.view(np.uint8)[: len(stream)] = np.frombuffer(stream, np.uint8)
    return words


def check(blob: bytes) -> tuple[int, Reader]:
    """The version, and a reader behind magic, version and length, its data ending before the checksum; all checked."""
    if blob[: len(MAGIC)] != MAGIC:
        if blob and MAGIC.startswith(blob):
            raise TruncatedArtifact(f"the file ends after {len(blob)} bytes, inside its magic number")
        raise NotAnArtifact(_diagnose(bytes(blob[:200]), len(blob)))
    reader = Reader(blob)
    reader.raw(len(MAGIC))
    (version,) = reader.raw(1)
    if version not in VERSIONS:
        advice = f"this library reads versions {' and '.join(map(str, VERSIONS))}; a newer release may read it"
        raise UnsupportedVersion(f"the file has format version {version}, {advice}")
    length = reader.varint()
    if len(blob) < length:
        raise TruncatedArtifact(f"the file has {len(blob):,} bytes of the {length:,} that it declares: download it again")
    if len(blob) > length:
        raise CorruptArtifact(f"the file has {len(blob):,} bytes, {len(blob) - length:,} more than it declares")
    end = length - 4
    if end < reader.position:
        raise TruncatedArtifact(f"a file of {length} bytes has no room for a model")
    stored, computed = int.from_bytes(blob[end:], "little"), zlib.crc32(memoryview(blob)[:end])
    if stored != computed:
        detail = f"the checksum of its {length:,} bytes is {computed:08x}, the stored one {stored:08x}"
        raise CorruptArtifact(f"the file is damaged: {detail}")
    reader.data = reader.data[:end]
    return version, reader


def _read_header(reader: Reader) -> Header:
    network, partitioning = reader.text(), reader.text()
    if partitioning == DEFAULT_PARTITIONING:
        raise CorruptArtifact(f"the partitioning {partitioning!r} is written out; in a file its name is empty")
    return Header(VERSION, network, partitioning or DEFAULT_PARTITIONING, reader.varint(), reader.varint())


def _columns(decoder: str, shapes, size: int | None = None) -> int:
    """Numbers l of a row; size: bytes of a number, in a file that describes itself."""
    if decoder == EXACT and size:
        return size
    counts = {reparam.columns(decoder, shape) for shape in shapes}
    if len(counts) != 1:
        raise LayoutMismatch(f"decoder {decoder!r} needs kernels of one size in a group, found {sorted(counts)} numbers a row")
    l = counts.pop()
    if size and not 1 <= l <= MAX_KERNEL:
        raise LayoutMismatch(f"decoder {decoder!r} takes kernels of 1 to {MAX_KERNEL} numbers, found {l}")
    return l


def _pack_psi(group: Coded, tensors: int, l: int) -> tuple[int, bytes]:
    """Flags that say which arrays follow and how, and their numbers: bfloat16 where that is exact, else float32."""
    allowed = reparam.psi_shapes(group.decoder, tensors, l)
    if set(group.psi) - set(allowed) or (allowed and next(iter(allowed)) not in group.psi):
        raise LayoutMismatch(f"decoder {group.decoder!r} takes psi {list(allowed)}, found {list(group.psi)}")
    flags, data = 0, Writer()
    for i, name in enumerate(allowed):
        if name not in group.psi:
            continue
        values = _without_subnormals(np.ascontiguousarray(group.psi[name], np.float32))
        if values.ndim != 2 or not any(len(values) == t and c in (None, values.shape[1]) for t, c in allowed[name]):
            raise LayoutMismatch(f"psi {name!r} has shape {values.shape}, allowed are {allowed[name]}")
        if name == "codebook":
            _check_codebook(group.phi, values.shape[1])
        if not _in_range(values):
            raise ValueError(f"psi {name!r} holds a number that is not finite, or 2^64 and more")
        short = np.array_equal(psi_round(values), values)
        flags |= (1 | (len(values) > 1) << 1 | (not short) << 2) << 3 * i
        if name == "codebook":
            data.varint(values.shape[1])
        raw = values.view(np.uint32)
        data.raw((raw >> 16).astype("<u2").tobytes() if short else raw.astype("<u4").tobytes())
    return flags, data.to_bytes()


def _check_codebook(phi: np.ndarray, entries: int) -> None:
    if not 1 <= entries <= MAX_CODEBOOK:
        raise LayoutMismatch(f"a codebook of {entries:,} entries; 1 to {MAX_CODEBOOK:,} are allowed")
    if phi.size and not 0 <= phi.min() <= phi.max() < entries:
        raise LayoutMismatch(f"a codebook of {entries:,} entries is asked for entries {phi.min()} to {phi.max()}")


def _unpack_psi(reader: Reader, flags: int, decoder: str, tensors: int, l: int) -> dict[str, np.ndarray]:
    allowed = reparam.psi_shapes(decoder, tensors, l)
    fields = [flags >> 3 * i & 7 for i in range(len(allowed))]
    odd = any((f and not f & 1) or (f & 2 and tensors == 1) for f in fields)
    if flags >> 3 * len(allowed) or odd or (allowed and not flags & 1):
        raise CorruptArtifact(f"psi flags {flags:#04x} do not fit decoder {decoder!r}")
    psi = {}
    for i, name in enumerate(allowed):
        present, several, wide = fields[i] & 1, fields[i] & 2, fields[i] & 4
        if not present:
            continue
        columns = l
        if name == "codebook":
            columns = reader.varint()
            if not 1 <= columns <= MAX_CODEBOOK:
                raise CorruptArtifact(f"a codebook of {columns:,} entries; at most {MAX_CODEBOOK:,} are allowed")
        rows = tensors if several else 1
        data = reader.raw((4 if wide else 2) * rows * columns)
        raw = np.frombuffer(data, "<u4") if wide else np.frombuffer(data, "<u2").astype(np.uint32) << 16
        psi[name] = raw.astype(np.uint32).view(np.float32).reshape(rows, columns)
        if not _in_range(psi[name]):
            raise CorruptArtifact(f"psi {name!r} holds a number that is not finite, or 2^64 and more")
        if _subnormal(psi[name]).any():
            raise CorruptArtifact(f"psi {name!r} holds a number other than zero that is less than 2^-126")
    return psi


def _subnormal(values: np.ndarray) -> np.ndarray:
    """Which float32 numbers a processor may take as zero; by their bits, for comparing is arithmetic, too."""
    bits = values.view(np.uint32)
    return (bits & 0x7F800000 == 0) & (bits & 0x007FFFFF != 0)


def _without_subnormals(values: np.ndarray) -> np.ndarray:
    return np.where(_subnormal(values), np.float32(0), values)


def _in_range(values: np.ndarray) -> bool:
    """Whether weights made with these numbers are finite: 2^64 times an integer of 32 bits, summed over a kernel."""
    return bool((np.abs(values) < 2.0**64).all())  # False for NaN


def _diagnose(start: bytes, length: int) -> str:
    if not length:
        return "the file is empty"
    if start.startswith(b"version https://git-lfs"):
        return "the file is a Git-LFS pointer, not the model itself: run `git lfs pull`"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "the file is a web page, not a model: the download address answered with HTML"
    if start.startswith(b"\x89ZOO"):
        return f"the magic number {start[:8].hex(' ')} was damaged, by a transfer in text mode for instance"
    return f"the file starts with {start[:8].hex(' ')}, not with the magic number {MAGIC.hex(' ')} of this format"
