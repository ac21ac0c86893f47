"""Integer probability tables and the asymmetric numeral system that codes with them (FORMAT.md, section 4).

A table is a list of integer weights. Everything that decides a bit of a stream is computed from it with integers, so a
stream written on one machine decodes on every other. constriction does the coding where it is installed; `PythonAns`
reads and writes the same streams where it is not (and checks constriction in the tests).
"""

from __future__ import annotations

import logging
import math
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

try:
    import constriction
except ImportError:  # no wheel for this platform
    constriction = None
    word = "constriction is not installed, or has no wheel for this platform: plain Python reads files, at a tenth of the speed"
    logging.getLogger("zoo").warning(word)

from zoo.codec.work import DECISION, SYMBOL, Work

PRECISION = 24  # bits: probabilities are multiples of 2^-24
ONE = 1 << PRECISION


class Table:
    """The coding table of K >= 2 symbols 0 .. K-1 with integer weights (any total below 2^63; zeros allowed).

    normalised count  n_i = w_i * 2^24 // sum(w), the remainder going to the first largest weight
    left edge         e_i = (n_0 + .. + n_{i-1}) * (2^24 - K) // 2^24 + i
    probability       (e_{i+1} - e_i) / 2^24, at least 2^-24 for every symbol
    """

    __slots__ = ("_counts", "_model")

    def __init__(self, weights: Sequence[int] | np.ndarray, spans: np.ndarray | None = None):
        """spans: for how many neighbouring symbols each weight holds; one if None."""
        weights = np.asarray(weights, np.int64)
        spans = np.ones(len(weights), np.int64) if spans is None else spans
        if spans.sum() < 2 or weights.min() < 0 or not weights.any():
            raise ValueError(f"a table needs two or more symbols and a positive total, found {weights[:8].tolist()}")
        self._counts, self._model = _normalise(weights, spans), None

    def __len__(self) -> int:
        return len(self._counts)

    @property
    def counts(self) -> list[int]:
        """The n_i."""
        return self._counts.tolist()

    @property
    def edges(self) -> list[int]:
        """The e_i, 2^24 at the end."""
        return edges_of(self._counts).tolist()

    def costs(self) -> np.ndarray:
        """Bits that each symbol costs: float64 (K,)."""
        return costs(self._counts)

    @property
    def model(self):
        """constriction's model of this table; `perfect=False` and float64 counts of total 2^24 give the edges above."""
        if self._model is None:
            self._model = constriction.stream.model.Categorical(self._counts.astype(np.float64), perfect=False)
        return self._model


def _normalise(weights: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """Weights of one table, each for as many symbols as its span -> its normalised counts, int64 (K,)."""
    total = sum(w * s for w, s in zip(weights.tolist(), spans.tolist(), strict=True))
    if total >= 1 << 39:  # 2^24 times a weight may go beyond 64 bits
        quotients = np.array([w * ONE // total for w in weights.tolist()], np.int64)
    else:
        quotients = (weights << PRECISION) // total
    counts = np.repeat(quotients, spans)
    largest = int(weights.argmax())
    counts[int(spans[:largest].sum())] += ONE - int((quotients * spans).sum())
    return counts


def normalise_rows(weights: np.ndarray) -> np.ndarray:
    """Weights (T, K) of many tables, each row adding up to less than 2^39 -> their normalised counts, int64 (T, K)."""
    counts = (weights << PRECISION) // np.add.reduce(weights, 1, keepdims=True)
    counts[np.arange(len(counts)), weights.argmax(1)] += ONE - np.add.reduce(counts, 1)
    return counts


def edges_of(counts: np.ndarray) -> np.ndarray:
    """Normalised counts (.., K) -> left edges and 2^24, int64 (.., K + 1)."""
    size = counts.shape[-1]
    edges = np.zeros((*counts.shape[:-1], size + 1), np.int64)
    edges[..., 1:] = (np.cumsum(counts, -1, np.int64) * (ONE - size) >> PRECISION) + np.arange(1, size + 1)
    return edges


def costs(counts: np.ndarray) -> np.ndarray:
    """Bits that each symbol costs under normalised counts: float64, of the same shape."""
    return PRECISION - np.log2(np.diff(edges_of(counts)).astype(np.float64))


def _runs(index: np.ndarray):
    """Equal neighbours of an ascending array: (value, first, end)."""
    ends = [*(np.flatnonzero(np.diff(index)) + 1).tolist(), len(index)]
    first = 0
    for end in ends:
        yield int(index[first]), first, end
        first = end


def each_by_itself(symbols: int, tables: int, size: int) -> bool:
    """Whether symbols under several tables of `size` symbols are coded faster one by one than table by table."""
    return symbols * size < 256 * min(tables, symbols)


_FAMILY = constriction and constriction.stream.model.Categorical(perfect=False)  # a table for each symbol


class _Coder:
    """A coder counts the symbols that it codes as work, and keeps what the models of several groups share."""

    def __init__(self, work: Work | None):
        self.work, self.shared = work or Work(), {}

    def _spend(self, symbols: int) -> None:
        self.work.spend(symbols * SYMBOL, f"{symbols:,} symbols")


class ConstrictionAns(_Coder):
    """A stack of symbols: what is pushed last pops first."""

    def __init__(self, words: np.ndarray | None = None, work: Work | None = None):
        super().__init__(work)
        if words is None:
            self._coder = constriction.stream.stack.AnsCoder()
        else:
            self._coder = constriction.stream.stack.AnsCoder(words.astype(np.uint32, copy=False))

    def push(self, symbols: np.ndarray, table: Table) -> None:
        """Pushes a whole array so that `pop` returns it in order."""
        self._spend(len(symbols))
        self._coder.encode_reverse(np.ascontiguousarray(symbols, np.int32), table.model)

    def pop(self, count: int, table: Table) -> np.ndarray:
        """int32 (count,)"""
        self._spend(count)
        return self._coder.decode(table.model, count)

    def push_each(self, symbols: np.ndarray, index: np.ndarray, counts: np.ndarray) -> None:
        """Pushes symbol i under the table of normalised counts[index[i]], counts float64 (T, K), index ascending."""
        self._spend(len(index))
        if each_by_itself(len(index), *counts.shape):
            self._coder.encode_reverse(np.ascontiguousarray(symbols, np.int32), _FAMILY, counts[index])
            return
        for table, first, end in reversed(list(_runs(index))):
            model = constriction.stream.model.Categorical(counts[table], perfect=False)
            self._coder.encode_reverse(np.ascontiguousarray(symbols[first:end], np.int32), model)

    def pop_each(self, index: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """The inverse of `push_each`: int32, one for each index."""
        self._spend(len(index))
        if each_by_itself(len(index), *counts.shape):
            return self._coder.decode(_FAMILY, counts[index])
        pieces = []
        for table, first, end in _runs(index):
            model = constriction.stream.model.Categorical(counts[table], perfect=False)
            pieces.append(self._coder.decode(model, end - first))
        return np.concatenate(pieces)

    def plain(self) -> PythonAns:
        """The same stack in Python, where decisions one by one are faster; `take` takes it back."""
        return PythonAns(self.words(), self.work)

    def take(self, plain: PythonAns) -> None:
        self._coder = constriction.stream.stack.AnsCoder(plain.words())

    @property
    def empty(self) -> bool:
        return self._coder.is_empty()

    @property
    def size_bits(self) -> int:
        return self._coder.num_valid_bits()

    def words(self) -> np.ndarray:
        return self._coder.get_compressed()


class PythonAns(_Coder):
    """The same coder in plain Python: 64-bit state, 32-bit words, the last word read first."""

    def __init__(self, words: np.ndarray | None = None, work: Work | None = None):
        super().__init__(work)
        self._words = [] if words is None else [int(w) for w in words]
        self._state = 0
        for _ in range(2):
            if self._words:
                self._state = self._state << 32 | self._words.pop()

    def push(self, symbols: np.ndarray, table: Table) -> None:
        self._spend(len(symbols))
        edges = table.edges
        for symbol in reversed(symbols.tolist()):
            self._push(symbol, edges)

    def pop(self, count: int, table: Table) -> np.ndarray:
        self._spend(count)
        edges, out = table.edges, np.empty(count, np.int32)
        for i in range(count):
            out[i] = self._pop(edges)
        return out

    def push_each(self, symbols: np.ndarray, index: np.ndarray, counts: np.ndarray) -> None:
        self._spend(len(index))
        edges = edges_of(counts).tolist()
        for symbol, table in zip(symbols.tolist()[::-1], index.tolist()[::-1], strict=True):
            self._push(symbol, edges[table])

    def pop_each(self, index: np.ndarray, counts: np.ndarray) -> np.ndarray:
        self._spend(len(index))
        edges = edges_of(counts).tolist()
        return np.array([self._pop(edges[table]) for table in index.tolist()], np.int32)

    def plain(self) -> PythonAns:
        return self

    def take(self, plain: PythonAns) -> None:
        """Nothing to do: `plain` gave out this coder itself."""

    def push_bit(self, bit: int, zero: int, one: int) -> None:
        """Pushes a symbol 0 or 1 under the table of these two weights, both less than 2^39 and not both 0."""
        self.work.spend(DECISION, "a decision")
        self._push(bit, _edges_of_two(zero, one))

    def pop_bit(self, zero: int, one: int) -> int:
        """The inverse of `push_bit`."""
        self.work.spend(DECISION, "a decision")
        return self._pop(_edges_of_two(zero, one))

    def _push(self, symbol: int, edges: list[int]) -> None:
        left, width = edges[symbol], edges[symbol + 1] - edges[symbol]
        if self._state >> (64 - PRECISION) >= width:
            self._words.append(self._state & 0xFFFFFFFF)
            self._state >>= 32
        self._state = self._state // width << PRECISION | left + self._state % width

    def _pop(self, edges: list[int]) -> int:
        quantile = self._state & (ONE - 1)
        symbol = bisect_right(edges, quantile) - 1
        left, width = edges[symbol], edges[symbol + 1] - edges[symbol]
        self._state = (self._state >> PRECISION) * width + quantile - left
        if self._state < 1 << 32 and self._words:
            self._state = self._state << 32 | self._words.pop()
        return symbol

    @property
    def empty(self) -> bool:
        return not self._words and self._state == 0

    @property
    def size_bits(self) -> int:
        return 32 * len(self._words) + max(self._state.bit_length() - 1, 0)

    def words(self) -> np.ndarray:
        state = [self._state & 0xFFFFFFFF, self._state >> 32]
        while state and state[-1] == 0:
            state.pop()
        return np.array([*self._words, *state], np.uint32)


def _edges_of_two(zero: int, one: int) -> tuple[int, int, int]:
    """The edges of a table of two weights, without its arrays."""
    total = zero + one
    count = (zero << PRECISION) // total if one > zero else ONE - (one << PRECISION) // total
    return 0, (count * (ONE - 2) >> PRECISION) + 1, ONE


Ans = PythonAns if constriction is None else ConstrictionAns


def ideal_bits(counts: np.ndarray, table: Table) -> float:
    """Code length, in bits, of symbols that occur `counts` times each under the table."""
    return math.fsum(np.asarray(counts, np.float64) * table.costs())
