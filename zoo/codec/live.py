"""Live rows and columns: the model for tensors of which little is left (FORMAT.md, "live").

Where training has emptied most rows and columns of a tensor, the file says which ones live (have an integer other than zero),
and codes the integers in those alone. It holds no table: an integer is a few binary decisions, and the probabilities of each
decision follow from the decisions before it.

    masks of rows and columns --> live cells, row by row --> zero or not --> sign --> size, one by one
                                                                `-- by the counts in its row, its column, and the tensor
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from zoo.codec.ans import Ans, PythonAns, Table
from zoo.codec.bits import Reader, Writer
from zoo.codec.classes import Classes, planes
from zoo.codec.entropy import Shapes
from zoo.errors import CorruptArtifact

IGNORED = 7  # a prior so strong that the counts of the line are not looked at
LONG = 14  # from this magnitude on, what exceeds it is coded in binary
MAX_BACK = 64  # how many columns back the context of a column's flag may look, beside the column before


@dataclass
class Lines:
    """What the file says of a tensor before its stream.

    rows, columns: how many there are up to the last live one. row_prior, column_prior: logarithms of the weight that the
    whole tensor's counts have beside those of a row and of a column (`_shrunk`). back: see `_mask`.
    """

    rows: int
    columns: int = 0
    row_prior: int = IGNORED
    column_prior: int = IGNORED
    back: int = 1


class Live:
    """Masks of rows and columns, and adaptive decisions inside."""

    name = "live"

    def __init__(self, shapes: Shapes, l: int, lines: list[Lines], fallback: Classes | None = None):
        self.planes = [planes(shape) for shape in shapes]
        self.l, self.lines, self.fallback = l, lines, fallback

    @classmethod
    def fit(cls, phi: np.ndarray, shapes: Shapes) -> Live:
        model = cls(shapes, phi.shape[1], [])
        model.lines = [_fit(cube) for cube in model._cubes(phi)]
        return model

    def simpler(self, phi: np.ndarray, shapes: Shapes) -> Live | None:
        """The integers in classes, which take less work where many lines live; then what is simpler than those."""
        fallback = self.fallback.simpler(phi, shapes) if self.fallback else Classes.fit(phi, shapes)
        return None if fallback is None else Live(shapes, self.l, [], fallback)

    def write(self, writer: Writer) -> None:
        writer.bits(self.fallback is not None, 1)
        if self.fallback:
            self.fallback.write(writer)
            return
        for (o, i, _), lines in zip(self.planes, self.lines, strict=True):
            writer.bits(lines.rows, o.bit_length())
            if lines.rows:
                writer.bits(lines.columns, i.bit_length())
                if o > 1:
                    writer.bits(lines.row_prior, 3)
                    writer.bits(lines.column_prior, 3)
                    writer.golomb(lines.back - 1, 3)
        writer.align()

    @classmethod
    def read(cls, reader: Reader, l: int, shapes: Shapes) -> Live:
        if reader.bits(1):
            return cls(shapes, l, [], Classes.read(reader, l, shapes))
        model = cls(shapes, l, [])
        for o, i, _ in model.planes:
            lines = Lines(reader.bits(o.bit_length()))
            if lines.rows:
                lines.columns = reader.bits(i.bit_length())
                if o > 1:
                    lines.row_prior, lines.column_prior, lines.back = reader.bits(3), reader.bits(3), reader.golomb(3) + 1
            if lines.rows > o or lines.columns > i or (lines.rows and not lines.columns) or lines.back > MAX_BACK:
                raise CorruptArtifact(f"live lines {lines} of a tensor of {o} rows and {i} columns")
            model.lines.append(lines)
        reader.align()
        return model

    def push(self, coder: Ans, phi: np.ndarray) -> None:
        if self.fallback:
            self.fallback.push(coder, phi)
            return
        decider, plain = _DecisionWriter(), coder.plain()
        self._walk(phi.copy(), decider)
        for decision in reversed(decider.decisions):
            plain.push_bit(*decision)
        coder.take(plain)

    def pop(self, coder: Ans) -> np.ndarray:
        if self.fallback:
            return self.fallback.pop(coder)
        phi = np.zeros((sum(math.prod(planes) for planes in self.planes) // self.l, self.l), np.int32)
        plain = coder.plain()
        self._walk(phi, _DecisionReader(plain))
        coder.take(plain)
        return phi

    def bits(self, phi: np.ndarray) -> float:
        if self.fallback:
            return self.fallback.bits(phi)
        decider = _DecisionWriter()
        self._walk(phi.copy(), decider)
        return math.fsum(float(Table((zero, one)).costs()[bit]) for bit, zero, one in decider.decisions)

    def _walk(self, phi: np.ndarray, decider: _DecisionWriter | _DecisionReader) -> None:
        """All decisions in the order of the stream: noted from phi by a writer, put into phi (at first 0) by a reader."""
        for cube, lines in zip(self._cubes(phi), self.lines, strict=True):
            if lines.rows:
                _walk(cube, lines, decider)

    def _cubes(self, phi: np.ndarray):
        """Views (O, I, P) of phi (d, l), tensor by tensor."""
        begin = 0
        for o, i, p in self.planes:
            size = o * i * p // self.l
            yield phi[begin : begin + size].reshape(o, i, p)
            begin += size


class _DecisionWriter:
    """Notes decisions: (bit, weight of 0, weight of 1)."""

    def __init__(self) -> None:
        self.decisions: list[tuple[int, int, int]] = []

    def decide(self, zero: int, one: int, bit: bool) -> int:
        self.decisions.append((int(bit), zero, one))
        return int(bit)


class _DecisionReader:
    """Reads decisions off the stream."""

    def __init__(self, coder: PythonAns):
        self.coder = coder

    def decide(self, zero: int, one: int, bit: bool) -> int:
        return self.coder.pop_bit(zero, one)


class _Counts:
    """A decision by how often it fell either way before."""

    def __init__(self) -> None:
        self.weights = [1, 1]

    def decide(self, decider: _DecisionWriter | _DecisionReader, bit: bool) -> int:
        bit = decider.decide(*self.weights, bit)
        self.weights[bit] += 2
        return bit


def _walk(cube: np.ndarray, lines: Lines, decider: _DecisionWriter | _DecisionReader) -> None:
    rows = _mask(cube.any((1, 2)).tolist(), lines.rows, 1, decider)
    columns = _mask(cube.any((0, 2)).tolist(), lines.columns, lines.back, decider)
    sign, sizes, total = _Counts(), [_Counts() for _ in range(LONG)], [1, 1]
    by_column = [[0, 0] for _ in columns]
    for row in rows:
        in_row = [0, 0]
        for column, in_column in zip(columns, by_column, strict=True):
            for place in range(cube.shape[2]):
                value = int(cube[row, column, place])
                r, c = _shrunk(in_row, total, lines.row_prior), _shrunk(in_column, total, lines.column_prior)
                bit = decider.decide(*_weights(r[0] * c[0] * total[1], r[1] * c[1] * total[0]), value != 0)
                in_row[bit] += 1
                in_column[bit] += 1
                total[bit] += 2
                if bit:
                    cube[row, column, place] = _integer(value, sign, sizes, decider)


def _integer(value: int, sign: _Counts, sizes: list[_Counts], decider: _DecisionWriter | _DecisionReader) -> int:
    """An integer other than zero: its sign, then whether it is greater than 1, 2, ..; EG0 from LONG on."""
    negative, size = sign.decide(decider, value < 0), 1
    while size < LONG and sizes[size].decide(decider, abs(value) > size):
        size += 1
    if size == LONG:
        excess, width = abs(value) - LONG + 1, 1
        while decider.decide(1, 1, excess >> width != 0):
            width += 1
            if width > 32:
                raise CorruptArtifact("an integer of more than 32 bits")
        decoded = 1
        for k in range(width - 1)[::-1]:
            decoded = 2 * decoded + decider.decide(1, 1, excess >> k & 1)
        size += decoded - 1
    if size - negative >= 1 << 31:
        raise CorruptArtifact("an integer of more than 32 bits")
    return -size if negative else size


def _shrunk(counts: list[int], total: list[int], prior: int) -> tuple[int, int]:
    """Weights of 0 and 1 in a line: its counts, and 2^prior more in the proportion of the whole tensor."""
    if prior == IGNORED:
        return total[0], total[1]
    count = total[0] + total[1]
    return counts[0] * count + (total[0] << prior), counts[1] * count + (total[1] << prior)


def _weights(zero: int, one: int) -> tuple[int, int]:
    """Two weights, divided by the same power of two until both are below 2^38, and at least 1."""
    drop = max(max(zero, one).bit_length() - 38, 0)
    return max(zero >> drop, 1), max(one >> drop, 1)


def _mask(live: list[bool], count: int, back: int, decider: _DecisionWriter | _DecisionReader) -> list[int]:
    """Numbers of the live lines among `count`, of which the last one lives.

    The context of each other line is whether the line before it lives, and whether the one `back` lines before it does.
    """
    flags: list[int] = []
    contexts = [[_Counts(), _Counts()], [_Counts(), _Counts()]]
    for j in range(count - 1):
        before = contexts[flags[j - 1] if j else 1][flags[j - back] if j >= back else 0]
        flags.append(before.decide(decider, live[j]))
    return [j for j, flag in enumerate([*flags, 1]) if flag]


def _fit(cube: np.ndarray) -> Lines:
    rows, columns = np.flatnonzero(cube.any((1, 2))), np.flatnonzero(cube.any((0, 2)))
    if not len(rows):
        return Lines(0)
    lines = Lines(int(rows[-1]) + 1, int(columns[-1]) + 1)
    if len(cube) == 1:
        return lines

    def mask_bits(back: int) -> float:
        decider = _DecisionWriter()
        _mask(cube.any((0, 2)).tolist(), lines.columns, back, decider)
        back_bits = 2 * (back + 7).bit_length()
        return back_bits + sum(math.log2((zero + one) / (one if bit else zero)) for bit, zero, one in decider.decisions)

    lines.back = min(range(1, MAX_BACK + 1), key=mask_bits)
    bits = _significance(cube[np.ix_(rows, columns)] != 0)
    lines.row_prior, lines.column_prior = min(bits, key=bits.__getitem__)
    return lines


def _significance(hit: np.ndarray) -> dict[tuple[int, int], float]:
    """Bits that zero-or-not takes in live lines (O, I, P), by the priors of rows and of columns."""
    o, i, p = hit.shape
    flat = hit.reshape(-1).astype(np.float64)
    ones = np.cumsum(flat) - flat
    index = np.arange(o * i * p)
    in_row = ones - ones[index // (i * p) * (i * p)], index % (i * p)
    sums = hit.sum(2)
    above, within = np.cumsum(sums, 0) - sums, np.cumsum(hit, 2) - hit
    in_column = (above[:, :, None] + within).reshape(-1), index // (i * p) * p + index % p
    t = (2 * ones + 1) / (2 * index + 2)

    def odds(counts: tuple[np.ndarray, np.ndarray], prior: int) -> np.ndarray:
        if prior == IGNORED:
            return t / (1 - t)
        return (counts[0] + t * 2**prior) / (counts[1] - counts[0] + (1 - t) * 2**prior)

    bits = {}
    for r in range(IGNORED + 1):
        for c in range(IGNORED + 1):
            ratio = odds(in_row, r) * odds(in_column, c) * (1 - t) / t
            bits[r, c] = float(np.log2(1 + np.where(flat > 0, 1 / ratio, ratio)).sum())
    return bits
