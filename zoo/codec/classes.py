"""Classes of rows and columns: the model for tensors of millions of integers (FORMAT.md, "classes").

How large the integers of a layer are depends on its output channel, its input channel, and the place in the kernel.
So a tensor is taken as planes (O, I), one for each of P places, and its integer (o, i, p) is coded with table

    k = base + row_o + column_i + place_p        clipped to 0 .. K - 1

The shares are small integers in the stream, the K tables belong to the whole group. Rows and columns in the order of their
shares make each class a set of rectangles, so decoding is K calls of the coder and some block copies:

    stream --pop, class by class--> symbols --rectangles--> planes, sorted --take--> planes, in order
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from zoo.codec.ans import Ans
from zoo.codec.bits import Reader, Writer
from zoo.codec.entropy import Alphabet, Shapes
from zoo.codec.work import RECTANGLE
from zoo.errors import CorruptArtifact

MAX_CLASSES = 64
MAX_SHARE = 40
QUIET = 2.0**-9  # smaller mean magnitudes count as this one
SPACINGS = (1, 2)  # classes for each doubling of the magnitude, as the encoder tries them; 0 gives one class a tensor
KINDS = 4  # base, places, rows, columns


class Classes:
    """Tables by class; a share for each tensor, place, row and column."""

    name, narrow = "classes", True

    def __init__(self, shapes: Shapes, l: int, tables: list[Alphabet], kinds: list[Alphabet], shares: list[np.ndarray] | None):
        self.planes = [planes(shape) for shape in shapes]
        self.l, self.tables, self.kinds, self.shares = l, tables, kinds, shares

    @classmethod
    def fit(cls, phi: np.ndarray, shapes: Shapes) -> Classes:
        """The model with the spacing that costs fewer bits, those of shares and tables included."""
        return min((cls._fit(phi, shapes, spacing) for spacing in SPACINGS), key=lambda pair: pair[1])[0]

    def simpler(self, phi: np.ndarray, shapes: Shapes) -> Classes | None:
        """The model with one class a tensor, which takes least work; None if this model has no more classes."""
        if all(not shares[1:].any() for shares in self.shares):
            return None
        return self._fit(phi, shapes, 0)[0]

    @classmethod
    def _fit(cls, phi: np.ndarray, shapes: Shapes, spacing: int) -> tuple[Classes, float]:
        l = phi.shape[1]
        model = cls(shapes, l, [], [], [])
        measures = [_measure(cube, spacing) for cube in model._cubes(phi)]
        quietest = (base + float(r.min() + c.min() + p.min()) for base, p, r, c in measures if r.size and c.size and p.size)
        lowest = min(quietest, default=0.0)
        lowest = max(lowest, spacing * math.log2(QUIET))
        model.shares = [
            np.clip(np.rint(np.concatenate([[base - lowest], places, rows, columns])), -MAX_SHARE, MAX_SHARE).astype(np.int64)
            for base, places, rows, columns in measures
        ]
        symbols = model._gather(phi, MAX_CLASSES)
        count = max((k + 1 for k, values in enumerate(symbols) if len(values)), default=1)
        model.tables = [Alphabet.fit(values) for values in symbols[:count]]
        model.kinds = [Alphabet.fit(values) for values in model._by_kind()]
        return model, math.fsum(alphabet.cost for alphabet in model.kinds + model.tables)

    def write(self, writer: Writer) -> None:
        writer.golomb(len(self.tables), 3)
        for alphabet in self.kinds + self.tables:
            alphabet.write(writer)
        writer.align()

    @classmethod
    def read(cls, reader: Reader, l: int, shapes: Shapes) -> Classes:
        count = reader.golomb(3)
        if not 1 <= count <= MAX_CLASSES:
            raise CorruptArtifact(f"{count} classes; 1 to {MAX_CLASSES} are allowed")
        kinds = [Alphabet.read(reader) for _ in range(KINDS)]
        tables = [Alphabet.read(reader) for _ in range(count)]
        reader.align()
        return cls(shapes, l, tables, kinds, None)

    def push(self, coder: Ans, phi: np.ndarray) -> None:
        self._spend(coder)
        self._push_classes(coder, self._gather(phi, len(self.tables)))
        for alphabet, values in list(zip(self.kinds, self._by_kind(), strict=True))[::-1]:
            alphabet.push(coder, values)

    def pop(self, coder: Ans) -> np.ndarray:
        self._pop_shares(coder)
        self._spend(coder)
        tensors = self._rectangles(len(self.tables))
        buffers = [np.empty((p, o, i), np.int8) for o, i, p in self.planes]
        work: list[list[tuple[int, int, slice, slice]]] = [[] for _ in self.tables]
        counts = [0] * len(self.tables)
        for t, tensor in enumerate(tensors):
            for place, rectangles in enumerate(tensor.rectangles):
                for k, rows, columns in rectangles:
                    work[k].append((t, place, rows, columns))
                    counts[k] += (rows.stop - rows.start) * (columns.stop - columns.start)
        kind = np.dtype(np.int8)
        for values, jobs in zip(self._pop_classes(coder, counts), work, strict=True):
            kind = np.promote_types(kind, values.dtype)
            buffers = [buffer.astype(kind, copy=False) for buffer in buffers]
            begin = 0
            for t, place, rows, columns in jobs:
                height, width = rows.stop - rows.start, columns.stop - columns.start
                buffers[t][place, rows, columns] = values[begin : begin + height * width].reshape(height, width)
                begin += height * width
        out = np.empty((self.l, sum(math.prod(planes) for planes in self.planes) // self.l), kind)
        for t, (view, tensor) in enumerate(zip(self._cubes(out.T), tensors, strict=True)):
            rows, columns = np.argsort(tensor.row_order), np.argsort(tensor.column_order)
            for plane, ordered in zip(view, buffers[t], strict=True):
                plane[:] = np.take(np.take(ordered, columns, axis=1), rows, axis=0)
            buffers[t] = None
        return out.T

    def _push_classes(self, coder: Ans, symbols: list[np.ndarray]) -> None:
        for table, values in list(zip(self.tables, symbols, strict=True))[::-1]:
            table.push(coder, values)

    def _pop_classes(self, coder: Ans, counts: list[int]):
        """The integers of each class, in a type that holds them."""
        for table, count in zip(self.tables, counts, strict=True):
            yield table.pop(coder, count)

    def bits(self, phi: np.ndarray) -> float:
        gathered = self._gather(phi, len(self.tables))
        symbols = math.fsum(table.bits(values) for table, values in zip(self.tables, gathered, strict=True))
        return symbols + math.fsum(a.bits(v) for a, v in zip(self.kinds, self._by_kind(), strict=True))

    def _cubes(self, phi: np.ndarray):
        """Views (P, O, I) of phi (d, l), tensor by tensor."""
        begin = 0
        for o, i, p in self.planes:
            size = o * i * p // self.l
            rows_of_phi = phi[begin : begin + size]
            yield rows_of_phi.T.reshape(p, o, i) if self.l > 1 else rows_of_phi.reshape(o, i, p).transpose(2, 0, 1)
            begin += size

    def _by_kind(self) -> list[np.ndarray]:
        """All bases, all shares of places, of rows, of columns."""
        pieces = [np.split(s, np.cumsum([1, p, o])) for s, (o, i, p) in zip(self.shares, self.planes, strict=True)]
        return [np.concatenate(kind).astype(np.int32) for kind in zip(*pieces, strict=True)]

    def _pop_shares(self, coder: Ans) -> None:
        counts = [len(self.planes)] + [sum(planes[axis] for planes in self.planes) for axis in (2, 0, 1)]
        kinds = [alphabet.pop(coder, count) for alphabet, count in zip(self.kinds, counts, strict=True)]
        for values in kinds:
            if values.size and max(int(values.max()), -int(values.min())) > MAX_SHARE:
                raise CorruptArtifact(f"a class share beyond {MAX_SHARE}")
        bases, places, rows, columns = kinds
        self.shares, at = [], [0, 0, 0]
        for t, (o, i, p) in enumerate(self.planes):
            self.shares.append(np.concatenate([
                bases[t : t + 1], places[at[0] : at[0] + p], rows[at[1] : at[1] + o], columns[at[2] : at[2] + i]
            ]).astype(np.int64))
            at = [at[0] + p, at[1] + o, at[2] + i]

    def _spend(self, coder: Ans) -> None:
        """The work of as many rectangles as the shares make."""
        count = 0
        for shares, (o, _, p) in zip(self.shares, self.planes, strict=True):
            rows, columns = shares[1 + p : 1 + p + o], shares[1 + p + o :]
            count += p * len(np.unique(rows)) * len(np.unique(columns))
        coder.work.spend(count * RECTANGLE, f"{count:,} rectangles of classes")

    def _rectangles(self, count: int) -> list[_Tensor]:
        return [_rectangles(shares, planes, count) for shares, planes in zip(self.shares, self.planes, strict=True)]

    def _gather(self, phi: np.ndarray, count: int) -> list[np.ndarray]:
        """The symbols of each of `count` classes, in the order of the stream."""
        symbols: list[list[np.ndarray]] = [[] for _ in range(count)]
        for cube, tensor in zip(self._cubes(phi), self._rectangles(count), strict=True):
            for plane, rectangles in zip(_sorted(cube, tensor), tensor.rectangles, strict=True):
                for k, rows, columns in rectangles:
                    symbols[k].append(plane[rows, columns].reshape(-1))
        return [np.concatenate(s) if s else np.zeros(0, np.int32) for s in symbols]


@dataclass
class _Tensor:
    """One tensor while it is coded.

    row_order, column_order: numbers of rows and columns by ascending share, those of equal share in their own order.
    rectangles: for each place in the kernel, row by row of rectangles: (class, rows, columns).
    """

    row_order: np.ndarray
    column_order: np.ndarray
    rectangles: list[list[tuple[int, slice, slice]]]


def planes(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(O, I, P) of a tensor: output channels, input channels, places in the kernel. A vector is one row."""
    if len(shape) < 2:
        return 1, math.prod(shape), 1
    return shape[0], shape[1], math.prod(shape[2:])


def _rectangles(shares: np.ndarray, planes: tuple[int, int, int], count: int) -> _Tensor:
    o, _, p = planes
    base, places, rows, columns = int(shares[0]), shares[1 : 1 + p], shares[1 + p : 1 + p + o], shares[1 + p + o :]
    row_order, column_order = np.argsort(rows, kind="stable"), np.argsort(columns, kind="stable")
    row_runs, column_runs = _runs(rows[row_order]), _runs(columns[column_order])
    rectangles = []
    for place in places.tolist():
        rectangles.append([
            (min(max(base + place + r + c, 0), count - 1), across, down)
            for r, across in row_runs for c, down in column_runs
        ])
    return _Tensor(row_order, column_order, rectangles)


def _runs(values: np.ndarray) -> list[tuple[int, slice]]:
    """Equal neighbours of a sorted array: (value, where)."""
    if not len(values):
        return []
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    return [(int(values[a]), slice(a, b)) for a, b in itertools.pairwise(edges)]


def _sorted(cube: np.ndarray, tensor: _Tensor):
    for plane in cube:
        yield np.take(np.take(plane, tensor.row_order, axis=0), tensor.column_order, axis=1)


def _measure(cube: np.ndarray, spacing: int) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """Logarithms of the mean magnitude of a tensor (P, O, I), and by how much places, rows and columns differ from it."""
    magnitude = cube.astype(np.float32)
    np.abs(magnitude, out=magnitude)  # of float32: -2^31 has no absolute value in int32
    mean = max(float(magnitude.mean()), QUIET) if cube.size else QUIET

    def share(axes: tuple[int, int]) -> np.ndarray:
        n = max(1, math.prod(cube.shape[a] for a in axes))
        values = (magnitude.sum(axes, dtype=np.float64) + 0.2 * mean) / (n + 0.2)
        return np.clip(spacing * np.log2(values / mean), -MAX_SHARE // 2, MAX_SHARE // 2)

    return spacing * math.log2(mean), share((1, 2)), share((0, 2)), share((0, 1))
