"""Context model: a symbol is coded given its n - 1 predecessors, many lanes at a time (FORMAT.md, "context").

A symbol that depends on its predecessor cannot be decoded before it. So the d integers of a column are laid out
as a matrix of R rows and C lanes; the n-grams run down the lanes, and all lanes advance together:

             lane 0  lane 1  ..  C-1
    row 0      x0      xR    ..         runs:    a lane holds R consecutive integers (the inputs of one neuron)
    row 1      x1      xR+1  ..         strided: a lane holds every C-th integer (the outputs of one input)

When row r is due, the contexts of all its C symbols are known; a stable sort by context makes one segment for
each table, and each segment is one call of the coder. The tables are in the file, or are counted while decoding
(integers too); the encoder chooses by bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from zoo.codec.ans import ONE, PRECISION, Ans, Table, costs, ideal_bits, normalise_rows
from zoo.codec.bits import Reader, Writer
from zoo.codec.entropy import (
    MAX_ALPHABET,
    Alphabet,
    BitCounter,
    Shapes,
    escape_count,
    pop_escapes,
    push_escapes,
    read_weights,
    round_weight,
    write_weights,
)
from zoo.codec.work import ENTRY, STORED, TABLE
from zoo.errors import CorruptArtifact

MAX_ORDER = 4
MAX_CELLS = 1 << 18  # contexts times symbols
ROW, LEVEL, HALVING, CELL, LANE, CALL = 1000, 1300, 500, 1, 3, 300  # steps, see work.py
# What the encoder tries, to spare time:
MAX_ROWS = 1 << 15  # rows
MAX_UPDATES = 1 << 21  # rows times contexts, and times symbols where tables are counted
LISTED = 256  # integers of an alphabet: it does not look for contexts in larger ones
QUICK_LANES = 1 << 13  # where a quick plane is asked for: rows cost time, the beginnings of lanes a few bytes
COUNTED = 1 << 19  # symbols of a tensor: counted tables, which decode slowly, are not tried in larger ones


class Lanes:
    """Which of `count` integers stands in which row and lane."""

    def __init__(self, count: int, lanes: int, strided: bool):
        self.count, self.lanes, self.strided = count, lanes, strided
        self.rows = -(-count // lanes)

    def width(self, row: int) -> int:
        """How many lanes, the first ones, have a symbol in this row."""
        if self.strided:
            return min(self.lanes, self.count - row * self.lanes)
        return (self.count - row + self.rows - 1) // self.rows

    def spread(self, values: np.ndarray) -> np.ndarray:
        """(count,) -> (rows, lanes), what is missing filled with zeros."""
        full = np.zeros(self.rows * self.lanes, values.dtype)
        full[: self.count] = values
        if self.strided:
            return full.reshape(self.rows, self.lanes)
        return np.ascontiguousarray(full.reshape(self.lanes, self.rows).T)

    def gather(self, matrix: np.ndarray) -> np.ndarray:
        """The inverse of `spread`."""
        flat = matrix if self.strided else matrix.T
        return np.ascontiguousarray(flat).reshape(-1)[: self.count]


class Contexts:
    """Context numbers of symbols: n - 1 predecessors, each one of G classes, the latest least significant."""

    def __init__(self, order: int, classes: np.ndarray, pad: int):
        self.order, self.classes, self.pad = order, classes, pad  # classes: int (K,), ascending from 0
        self.symbols, self.groups = len(classes), int(classes[-1]) + 1
        self.count = self.groups ** (order - 1)
        self._small = np.asarray(classes, np.uint16 if self.count > 256 else np.uint8)
        self._keep = self.groups ** (order - 2)

    def start(self, lanes: int) -> np.ndarray:
        """Before the first row all predecessors are of the class `pad`."""
        number = sum(self.pad * self.groups**i for i in range(self.order - 1))
        return np.full(lanes, number, self._small.dtype)

    def follow(self, contexts: np.ndarray, symbols: np.ndarray) -> np.ndarray:
        """Contexts of the row after `symbols`, lane by lane."""
        latest = self._small.take(symbols)
        if self.order == 2:
            return latest
        return (contexts[: len(symbols)] % self._keep * self.groups + latest).astype(self._small.dtype)


class Fixed:
    """Tables in the file: one for each context that is worth its bytes, one shared by all others."""

    def __init__(self, mantissa: int, has_table: np.ndarray, weights: Sequence[Sequence[int]]):
        # has_table: bool (contexts,). weights: first those of the shared table, if a context needs it.
        self.mantissa, self.has_table, self.weights = mantissa, has_table, weights
        shared = int(not has_table.all())
        self.table_of = np.where(has_table, np.cumsum(has_table) - 1 + shared, 0)
        self.table_of = self.table_of.astype(np.uint8 if len(weights) <= 256 else np.uint16)

    def write(self, writer: Writer, lanes: Lanes, contexts: Contexts) -> None:
        writer.work.spend(self.work(lanes, contexts), "rows of contexts")
        writer.work.spend(len(self.weights) * _stored(contexts.symbols), "tables of contexts")
        for flag in self.has_table:
            writer.bits(int(flag), 1)
        writer.bits(self.mantissa, 3)
        for weights in self.weights:
            write_weights(writer, self.mantissa, weights)

    @classmethod
    def read(cls, reader: Reader, lanes: Lanes, contexts: Contexts) -> Fixed:
        reader.work.spend(cls.work(lanes, contexts), f"{lanes.rows:,} rows of contexts")
        has_table = np.array([reader.bits(1) for _ in range(contexts.count)], bool)
        mantissa = reader.bits(3)
        count = int(has_table.sum()) + int(not has_table.all())
        reader.work.spend(count * _stored(contexts.symbols), f"{count:,} tables of contexts")
        weights = [read_weights(reader, mantissa, contexts.symbols) for _ in range(count)]
        return cls(mantissa, has_table, weights)

    @staticmethod
    def work(lanes: Lanes, contexts: Contexts) -> int:
        """Steps of all rows, and of the flags of all contexts."""
        return contexts.count * STORED + lanes.rows * (ROW + _row(lanes.lanes, contexts))

    def bits(self, cells: np.ndarray) -> float:
        """Ideal code length of symbols counted in cells (contexts, K)."""
        return math.fsum((cells * costs(self._counts())[self.table_of]).sum(1))

    def begin(self, contexts: Contexts) -> FixedRows:
        return FixedRows(self.table_of, self._counts().astype(np.float64))

    def _counts(self) -> np.ndarray:
        """Normalised counts (tables, K)."""
        return np.array([Table(weights).counts for weights in self.weights])


class FixedRows:
    """Tables in the file, while rows are coded."""

    def __init__(self, table_of: np.ndarray, counts: np.ndarray):
        self.table_of, self.counts = table_of, counts

    def tables(self, contexts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The number of each context's table, and the normalised counts of all tables."""
        return self.table_of.take(contexts), self.counts

    def update(self, contexts: np.ndarray, symbols: np.ndarray) -> None:
        pass


class Counted:
    """Tables counted while decoding, renewed after every row.

    The estimate of a context of j predecessors is its counts plus 2^strength times the estimate of its j - 1
    latest; that of no predecessor leans on a table in the file. Halving keeps totals below 2^limit (15: never).
    """

    def __init__(self, strength: int, limit: int, mantissa: int, weights: Sequence[int]):
        self.strength, self.limit, self.mantissa, self.weights = strength, limit, mantissa, weights

    def write(self, writer: Writer, lanes: Lanes, contexts: Contexts) -> None:
        writer.work.spend(self.work(lanes, contexts) + _stored(contexts.symbols), "rows of contexts")
        writer.bits(self.strength, 4)
        writer.bits(self.limit, 4)
        writer.bits(self.mantissa, 3)
        write_weights(writer, self.mantissa, self.weights)

    @classmethod
    def read(cls, reader: Reader, lanes: Lanes, contexts: Contexts) -> Counted:
        tables = cls(reader.bits(4), reader.bits(4), reader.bits(3), ())
        steps = tables.work(lanes, contexts) + _stored(contexts.symbols)
        reader.work.spend(steps, f"{lanes.rows:,} rows of contexts")
        tables.weights = read_weights(reader, tables.mantissa, contexts.symbols)
        return tables

    def work(self, lanes: Lanes, contexts: Contexts) -> int:
        """Steps of all rows."""
        halvings = ((lanes.lanes >> self.limit) + 1).bit_length() if self.limit < 15 else 0
        levels = contexts.order * (LEVEL + HALVING * halvings)
        cells = contexts.order * contexts.count * contexts.symbols
        return lanes.rows * (ROW + levels + cells * CELL + _row(lanes.lanes, contexts))

    def begin(self, contexts: Contexts) -> CountedRows:
        return CountedRows(self.strength, self.limit, np.array(Table(self.weights).counts), contexts)


class CountedRows:
    """Counted tables, while rows are coded: the counts of all contexts of 0, 1, .. n - 1 symbols, one below the other."""

    def __init__(self, strength: int, limit: int, root: np.ndarray, contexts: Contexts):
        self.strength, self.limit, self.root = strength, limit, root
        sizes = [contexts.groups**j for j in range(contexts.order)]
        begins = np.cumsum([0, *sizes])
        self.levels = [slice(begin, begin + size) for begin, size in zip(begins, sizes, strict=False)]
        self.counts = np.zeros((begins[-1], contexts.symbols), np.int64)
        self.totals = np.zeros(begins[-1], np.int64)
        full = np.arange(contexts.count)
        rows = [begin + full % size for begin, size in zip(begins, sizes, strict=False)]  # a context and its shorter ones
        self.cells = np.array(rows) * contexts.symbols

    def tables(self, contexts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return contexts, normalise_rows(self.estimate()).astype(np.float64)

    def estimate(self) -> np.ndarray:
        """Weights of every full context: int64 (contexts, K)."""
        counts, divisors = self.counts << PRECISION, (self.totals + (1 << self.strength))[:, None]
        return _estimate([counts[level] for level in self.levels], [divisors[level] for level in self.levels],
                         self.root, self.strength)  # fmt: skip

    def update(self, contexts: np.ndarray, symbols: np.ndarray) -> None:
        """Counts the symbols of one row."""
        cells = self.cells.take(contexts, 1)
        cells += symbols
        self.add(np.bincount(cells.reshape(-1), minlength=self.counts.size).reshape(self.counts.shape))

    def add(self, cells: np.ndarray) -> None:
        """Counts one row: cells, of the shape of `counts`, tells how often each symbol followed each context in it."""
        self.counts += cells
        self.totals = np.add.reduce(self.counts, 1)
        while self.limit < 15 and (large := self.totals >= 1 << self.limit).any():
            self.counts[large] >>= 1
            self.totals = np.add.reduce(self.counts, 1)


def _estimate(counts: list[np.ndarray], divisors: list[np.ndarray], root: np.ndarray, strength: int) -> np.ndarray:
    """Weights of every full context: int64 (.., contexts, K), each row adding up to 2^24 at most.

    counts: for j = 0 .. n - 1, those of contexts of j symbols times 2^24, which are overwritten; divisors: their totals
    plus 2^strength.
    """
    lower = root[None]
    for weights, divisor in zip(counts, divisors, strict=True):
        by_shorter = weights.reshape(*weights.shape[:-2], -1, *lower.shape[-2:])  # the oldest symbol forgotten
        by_shorter += (lower << strength)[..., None, :, :]
        weights //= divisor
        lower = weights
    return lower


def _stored(symbols: int) -> int:
    """Steps of a table that is stored in full."""
    return symbols * (STORED + ENTRY) + TABLE


def _row(lanes: int, contexts: Contexts) -> int:
    """Steps to code one row of lanes, symbol by symbol or table by table, whichever is less."""
    size = contexts.symbols
    return lanes * LANE + min(lanes * size, min(lanes, contexts.count) * (CALL + size))


class Window:
    """The integers low .. low + span - 1 that tables list; all others are one more symbol, the escape."""

    def __init__(self, low: int, span: int, escape: bool):
        self.low, self.span, self.escape = low, span, escape

    @property
    def high(self) -> int:
        return self.low + self.span - 1

    @property
    def symbols(self) -> int:
        return self.span + self.escape

    def write(self, writer: Writer) -> None:
        writer.signed(self.low, 2)
        writer.golomb(self.span - 1, 2)
        writer.bits(self.escape, 1)

    @classmethod
    def read(cls, reader: Reader) -> Window:
        low, span = reader.signed(2), reader.golomb(2) + 1
        if span > MAX_ALPHABET:
            raise CorruptArtifact(f"contexts of {span:,} integers; at most {MAX_ALPHABET:,} are allowed")
        if not -(2**31) <= low < low + span <= 2**31:
            raise CorruptArtifact(f"contexts of the integers from {low:,} to {low + span - 1:,}, beyond 32 bits")
        window = cls(low, span, bool(reader.bits(1)))
        if window.symbols < 2:
            raise CorruptArtifact("contexts of a constant")
        return window

    def symbols_of(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Symbols 0 .. K-1 (int32), the last one the escape where there is one; and the escaped integers."""
        rare = (values < self.low) | (values > self.high)
        return np.where(rare, np.int32(self.span), values - np.int32(self.low)).astype(np.int32), values[rare]


class Plane:
    """One column of phi: the window of listed integers, lanes, contexts and tables; or an alphabet alone (order 1)."""

    def __init__(
        self,
        alphabet: Alphabet | None,
        window: Window | None = None,
        lanes: Lanes | None = None,
        contexts: Contexts | None = None,
        tables: Fixed | Counted | None = None,
    ):
        self.alphabet, self.window, self.lanes = alphabet, window, lanes
        self.contexts, self.tables = contexts, tables

    @property
    def order(self) -> int:
        return self.contexts.order if self.contexts else 1

    @property
    def work(self) -> int:
        """Steps of the rows."""
        return self.tables.work(self.lanes, self.contexts) if self.contexts else 0

    def write(self, writer: Writer) -> None:
        writer.golomb(self.order - 1)
        if self.contexts is None:
            self.alphabet.write(writer)
            return
        self.window.write(writer)
        writer.golomb(self.lanes.lanes - 1, 6)
        writer.bits(self.lanes.strided, 1)
        writer.work.spend(self.window.symbols * STORED, "contexts")
        for step in np.diff(self.contexts.classes):
            writer.bits(int(step), 1)
        writer.golomb(self.contexts.pad)
        writer.bits(isinstance(self.tables, Counted), 1)
        self.tables.write(writer, self.lanes, self.contexts)

    @classmethod
    def read(cls, reader: Reader, count: int) -> Plane:
        order = reader.golomb() + 1
        if order > MAX_ORDER:
            raise CorruptArtifact(f"contexts of order {order}; at most {MAX_ORDER} are allowed")
        if order == 1:
            return cls(Alphabet.read(reader))
        window, lanes = Window.read(reader), reader.golomb(6) + 1
        if lanes > count:
            raise CorruptArtifact(f"{count:,} integers in {lanes:,} lanes; at most as many are allowed")
        lanes = Lanes(count, lanes, bool(reader.bits(1)))
        reader.work.spend(window.symbols * STORED, f"contexts of {window.symbols:,} symbols")
        steps = [reader.bits(1) for _ in range(window.symbols - 1)]
        groups, pad = sum(steps) + 1, reader.golomb()
        if pad >= groups:
            raise CorruptArtifact(f"class {pad} above the first row; there are only {groups}")
        number, counted = groups ** (order - 1), reader.bits(1)
        if number * window.symbols > MAX_CELLS:
            raise CorruptArtifact(f"{number:,} contexts of {window.symbols:,} symbols; at most {MAX_CELLS:,} of both are allowed")
        contexts = Contexts(order, np.cumsum([0, *steps]), pad)
        tables = (Counted if counted else Fixed).read(reader, lanes, contexts)
        return cls(None, window, lanes, contexts, tables)

    def push(self, coder: Ans, values: np.ndarray) -> None:
        if self.contexts is None:
            self.alphabet.push(coder, values)
            return
        symbols, rare = self.window.symbols_of(values)
        push_escapes(coder, rare, self.window.low, self.window.high)
        for row, index, counts in reversed(list(self._rows(symbols))):
            coder.push_each(row, index, counts)

    def pop(self, coder: Ans, count: int) -> np.ndarray:
        """int32 (count,)"""
        if self.contexts is None:
            return self.alphabet.pop(coder, count)
        lanes, tables = self.lanes, self.tables.begin(self.contexts)
        matrix = np.zeros((lanes.rows, lanes.lanes), np.int32)
        contexts = self.contexts.start(lanes.lanes)
        for row in range(lanes.rows):
            symbols = matrix[row, : lanes.width(row)]
            contexts = contexts[: len(symbols)]
            index, counts = tables.tables(contexts)
            order = index.argsort(kind="stable")
            symbols[order] = coder.pop_each(index[order], counts)
            tables.update(contexts, symbols)
            contexts = self.contexts.follow(contexts, symbols)
        values, window = lanes.gather(matrix), self.window
        rare = np.flatnonzero(values == window.span) if window.escape else ()
        values += np.int32(window.low)
        if len(rare):
            values[rare] = pop_escapes(coder, len(rare), window.low, window.high)
        return values

    def bits(self, values: np.ndarray) -> float:
        """Ideal code length under the tables as they are at each row, escapes included."""
        if self.contexts is None:
            return self.alphabet.bits(values)
        symbols, rare = self.window.symbols_of(values)
        total = [8.0 * escape_count(rare, self.window.low, self.window.high)]
        if isinstance(self.tables, Fixed):
            cells = _cells(self.lanes, self.contexts, self.lanes.spread(symbols)).sum(0)
            return math.fsum(total) + self.tables.bits(cells)
        for row, index, counts in self._rows(symbols):
            cells = np.zeros(counts.shape)
            np.add.at(cells, (index, row), 1.0)
            total.append(float((cells * costs(counts)).sum()))
        return math.fsum(total)

    def header_bits(self) -> int:
        writer = BitCounter()
        self.write(writer)
        return writer.count

    def _rows(self, symbols: np.ndarray):
        """For each row, in decoding order: its symbols, the table of each of them, the counts of all tables."""
        tables, contexts = self.tables.begin(self.contexts), self.contexts.start(self.lanes.lanes)
        matrix = self.lanes.spread(symbols)
        for row in range(self.lanes.rows):
            symbols = matrix[row, : self.lanes.width(row)]
            contexts = contexts[: len(symbols)]
            index, counts = tables.tables(contexts)
            order = index.argsort(kind="stable")
            yield symbols[order], index[order], counts
            tables.update(contexts, symbols)
            contexts = self.contexts.follow(contexts, symbols)


class Context:
    """One `Plane` a column of phi. Order, lanes, classes and tables are the encoder's choice, by bytes."""

    name = "context"

    def __init__(self, planes: list[Plane], rows: int):
        self.planes, self.rows = planes, rows

    @classmethod
    def fit(cls, phi: np.ndarray, shapes: Shapes) -> Context:
        return cls([fit(np.ascontiguousarray(column), shapes, phi.shape[1]) for column in phi.T], len(phi))

    def quicker(self, phi: np.ndarray, shapes: Shapes) -> Context | None:
        """The model with many lanes and with tables in the file; None if that spares no work."""
        columns = map(np.ascontiguousarray, phi.T)
        quick = Context([fit(c, shapes, phi.shape[1], counted=False, min_lanes=QUICK_LANES) for c in columns], self.rows)
        return quick if quick.work < self.work else None

    @property
    def work(self) -> int:
        """Steps of the rows of all planes."""
        return sum(plane.work for plane in self.planes)

    def simpler(self, phi: np.ndarray, shapes: Shapes) -> Context | None:
        """The model without contexts where they take most work; None if there are none."""
        work = [plane.work for plane in self.planes]
        if not any(work):
            return None
        most = work.index(max(work))
        return Context([Plane(p.alphabet) if i == most else p for i, p in enumerate(self.planes)], self.rows)

    def write(self, writer: Writer) -> None:
        for plane in self.planes:
            plane.write(writer)
        writer.align()

    @classmethod
    def read(cls, reader: Reader, l: int, shapes: Shapes) -> Context:
        rows = sum(math.prod(shape) for shape in shapes) // l
        planes = [Plane.read(reader, rows) for _ in range(l)]
        reader.align()
        return cls(planes, rows)

    def push(self, coder: Ans, phi: np.ndarray) -> None:
        for plane, column in zip(self.planes[::-1], phi.T[::-1], strict=True):
            plane.push(coder, np.ascontiguousarray(column))

    def pop(self, coder: Ans) -> np.ndarray:
        if len(self.planes) == 1:
            return self.planes[0].pop(coder, self.rows)[:, None]
        columns = np.empty((len(self.planes), self.rows), np.int32)
        for column, plane in zip(columns, self.planes, strict=True):
            column[:] = plane.pop(coder, self.rows)
        return columns.T

    def bits(self, phi: np.ndarray) -> float:
        pairs = zip(self.planes, phi.T, strict=True)
        return math.fsum(plane.bits(np.ascontiguousarray(column)) for plane, column in pairs)


# -- what the encoder chooses; a decoder needs nothing below --------------------------------------------------


def fit(
    values: np.ndarray, shapes: Shapes, l: int = 1, orders=(2, 3), counted: bool | None = None, min_lanes: int = 0
) -> Plane:
    """The plane with the fewest bytes for the integers of one column (count,).

    `orders` limits what is tried beside order 1; `counted` demands counted tables, or (False) tables in the file; `min_lanes`
    asks for more lanes than decoding within the budget of a file needs.
    """
    alphabet = Alphabet.fit(values)
    best = Plane(alphabet)
    least = alphabet.bits(values) + best.header_bits()
    if not 0 < alphabet.high - alphabet.low < LISTED or len(values) < 64:
        return best
    window = Window(alphabet.low, alphabet.high - alphabet.low + 1, alphabet.escape)
    symbols, rare = window.symbols_of(values)
    escaped = 8.0 * escape_count(rare, window.low, window.high)
    classes = _coarse(np.bincount(symbols, minlength=window.symbols))
    options = []
    for lanes in _lane_orders(len(values), shapes, l, min_lanes):
        matrix = lanes.spread(symbols)
        pairs = _cells(lanes, Contexts(2, classes, _pad(classes, symbols)), matrix).sum(0)
        options.append((_entropy_bits(pairs), lanes, matrix, pairs))
    options.sort(key=lambda option: option[0])
    adaptive = None
    for _, lanes, matrix, pairs in options[:2]:
        merged = _merge(pairs)[classes]
        for order in orders:
            for groups in {tuple(merged.tolist()), tuple(classes.tolist())}:
                contexts = Contexts(order, np.array(groups), _pad(np.array(groups), symbols))
                if contexts.groups < 2 or contexts.count * window.symbols > MAX_CELLS:
                    continue
                if contexts.count * lanes.rows > MAX_UPDATES:
                    continue
                cells = _cells(lanes, contexts, matrix)
                if not counted:
                    for tables in _fixed(cells.sum(0)):
                        plane = Plane(alphabet, window, lanes, contexts, tables)
                        bits = tables.bits(cells.sum(0)) + escaped + plane.header_bits()
                        if bits < least:
                            best, least = plane, bits
                if counted is not False and len(cells) > 1:
                    tables = Counted(3, 15, 1, _weights(cells.sum((0, 1)), 1))
                    bits = _simulate(tables, contexts, cells)
                    if adaptive is None or bits < adaptive[0]:
                        adaptive = bits, tables, lanes, contexts, cells
    if adaptive is not None:
        _, tables, lanes, contexts, cells = adaptive
        tables, bits = _tune(tables, contexts, cells)
        plane = Plane(alphabet, window, lanes, contexts, tables)
        if bits + escaped + plane.header_bits() < least:
            best = plane
    return best


def _tune(tables: Counted, contexts: Contexts, cells: np.ndarray) -> tuple[Counted, float]:
    """The best strength, then limit, then strength again; and the ideal bits of the symbols with them."""
    bits_of = {}

    def bits(strength: int, limit: int) -> float:
        if (strength, limit) not in bits_of:
            trial = Counted(strength, limit, tables.mantissa, tables.weights)
            bits_of[strength, limit] = _simulate(trial, contexts, cells)
        return bits_of[strength, limit]

    strength = min((1, 2, 3, 5, 7), key=lambda s: bits(s, 15))
    limit = min((15, 7, 9, 11, 13), key=lambda b: bits(strength, b))
    strength = min((strength, strength - 1, strength + 1), key=lambda s: bits(s, limit))
    return Counted(strength, limit, tables.mantissa, tables.weights), bits(strength, limit)


def _fixed(cells: np.ndarray):
    """Tables of the contexts worth one, at each precision: cells (contexts, K) are counts."""
    used = cells.sum(1) > 0
    for mantissa in range(5):
        rounded = [_weights(row, mantissa) if u else None for row, u in zip(cells, used, strict=True)]
        alone = np.full(len(cells), np.inf)
        for c in np.flatnonzero(used):
            alone[c] = ideal_bits(cells[c], Table(rounded[c])) + _table_bits(rounded[c], mantissa)
        has_table = used
        for _ in range(3):
            pool = cells[~has_table].sum(0)
            pool = _weights(pool if pool.any() else cells.sum(0), mantissa)
            has_table = alone < cells @ Table(pool).costs()
        pool = cells[~has_table].sum(0)
        pool = _weights(pool if pool.any() else cells.sum(0), mantissa)
        weights = ([] if has_table.all() else [pool]) + [rounded[c] for c in np.flatnonzero(has_table)]
        yield Fixed(mantissa, has_table, weights)


def _simulate(tables: Counted, contexts: Contexts, cells: np.ndarray) -> float:
    """Ideal bits under counted tables of rows whose counts are cells (rows, contexts, K)."""
    state = tables.begin(contexts)
    if tables.limit == 15:  # no halving: the counts before every row at once
        before = np.cumsum(cells, 0) - cells
        counts = [level << PRECISION for level in _levels(before, contexts)]
        divisors = [level.sum(-1, keepdims=True) + (1 << tables.strength) for level in _levels(before, contexts)]
        return _bits_given(cells, _estimate(counts, divisors, state.root, tables.strength))
    total, rows = 0.0, np.concatenate(_levels(cells, contexts), 1)
    for row, row_of_all in zip(cells, rows, strict=True):
        total += _bits_given(row, state.estimate())
        state.add(row_of_all)
    return total


def _levels(cells: np.ndarray, contexts: Contexts) -> list[np.ndarray]:
    """Counts (rows, contexts, K) of full contexts, summed for contexts of 0, 1, .. n - 1 symbols."""
    sizes = [contexts.groups**j for j in range(contexts.order)]
    return [cells.reshape(len(cells), -1, size, cells.shape[2]).sum(1) for size in sizes]


def _bits_given(cells: np.ndarray, estimate: np.ndarray) -> float:
    """Bits of symbols counted in cells (.., K) under the weights (.., K)."""
    occurring = cells.any(-1)
    cells, weights = cells[occurring], estimate[occurring].astype(np.float64)
    weights = weights / weights.sum(1, keepdims=True) + 1.0 / ONE
    return -float((cells * np.log2(weights)).sum())


def _lane_orders(count: int, shapes: Shapes, l: int, least: int) -> list[Lanes]:
    """Natural rows and columns of the tensors, split further where they make too few lanes to decode fast."""
    natural = set()
    for shape in shapes[:1] if len(shapes) > 1 else shapes:
        inner = math.prod(shape[1:]) // l or 1
        natural |= {(count // max(inner, 1), False), (inner, True)}
        if len(shape) == 4 and l == 1:
            natural |= {(math.prod(shape[:2]), False), (math.prod(shape[2:]), True)}
    min_lanes = max(least, 4096 if count >= 1 << 20 else max(8, count >> 12))
    layouts = {}
    for lanes, strided in natural:
        lanes = min(max(lanes, 1), count)
        if lanes < min_lanes:
            lanes = min(lanes * -(-min_lanes // lanes), count) if not strided else min_lanes
        if -(-count // lanes) <= MAX_ROWS:
            layouts[lanes, strided] = Lanes(count, lanes, strided)
    return [layouts[key] for key in sorted(layouts)]


def _cells(lanes: Lanes, contexts: Contexts, matrix: np.ndarray) -> np.ndarray:
    """How often each symbol follows each context: (rows, contexts, K), or (1, contexts, K) where that is large."""
    shape = (contexts.count, contexts.symbols)
    by_row = matrix.shape[0] * shape[0] * shape[1] <= MAX_UPDATES and lanes.count <= COUNTED
    out = np.zeros((lanes.rows if by_row else 1, *shape), np.int64)
    current = contexts.start(matrix.shape[1])
    for row, symbols in enumerate(matrix):
        symbols = symbols[: lanes.width(row)]
        current = current[: len(symbols)]
        index = current.astype(np.int32) * np.int32(shape[1]) + symbols
        counts = np.bincount(index, minlength=shape[0] * shape[1])
        out[row if by_row else 0] += counts.reshape(shape)
        current = contexts.follow(current, symbols)
    return out


def _coarse(counts: np.ndarray, most: int = 32) -> np.ndarray:
    """At most about `most` classes of consecutive symbols; frequent symbols stay alone."""
    if len(counts) <= most:
        return np.arange(len(counts))
    classes, mass, group, share = np.zeros(len(counts), np.int64), 0, 0, counts.sum() / (most - 1)
    for i, count in enumerate(counts.tolist()):
        if mass and mass + count > share:
            group, mass = group + 1, 0
        classes[i] = group
        mass += count
    return classes


def _merge(pairs: np.ndarray) -> np.ndarray:
    """Classes of the rows of pairs (G, K), int (G,): neighbours joined while that saves bits, tables included."""

    def bits(row: np.ndarray) -> float:
        return _entropy_bits(row[None]) + _table_bits(_weights(row, 2), 2) if row.any() else 0.0

    rows = [(row, bits(row)) for row in pairs]
    joints = [bits(a[0] + b[0]) - a[1] - b[1] for a, b in zip(rows, rows[1:], strict=False)]
    ends, total = [1] * len(rows), sum(cost for _, cost in rows)
    best = (total, list(ends))
    while len(rows) > 2:
        i = int(np.argmin(joints))
        total += joints[i]
        row = rows[i][0] + rows[i + 1][0]
        rows[i : i + 2] = [(row, bits(row))]
        ends[i : i + 2] = [ends[i] + ends[i + 1]]
        del joints[i]
        for k in (i - 1, i):
            if 0 <= k < len(rows) - 1:
                joints[k] = bits(rows[k][0] + rows[k + 1][0]) - rows[k][1] - rows[k + 1][1]
        if total < best[0]:
            best = (total, list(ends))
    return np.repeat(np.arange(len(best[1])), best[1])


def _pad(classes: np.ndarray, symbols: np.ndarray) -> int:
    """The class of the most frequent symbol."""
    return int(classes[np.bincount(symbols).argmax()])


def _entropy_bits(cells: np.ndarray) -> float:
    """Bits of symbols counted in cells (contexts, K) given their context."""
    cells = cells.astype(np.float64)
    logs = np.log2(np.where(cells > 0, cells, 1.0))
    totals = cells.sum(1)
    return float((totals * np.log2(np.where(totals > 0, totals, 1.0))).sum() - (cells * logs).sum())


def _weights(counts: np.ndarray, mantissa: int) -> list[int]:
    """Counts rounded to mantissa + 1 significant bits; as only ratios matter, the smallest exponent is zero."""
    weights = [round_weight(int(c), mantissa) for c in counts]
    shift = min(w.bit_length() for w in weights if w) - mantissa - 1
    return [w >> shift for w in weights]


def _table_bits(weights: list[int], mantissa: int) -> int:
    writer = BitCounter()
    write_weights(writer, mantissa, weights)
    return writer.count
