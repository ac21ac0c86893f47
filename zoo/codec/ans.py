"""Integer probability tables and the asymmetric numeral system that codes with them (FORMAT.md, section 4).

A table is a list of integer weights. Everything that decides a bit of a stream is computed from it with integers, so a
stream written on one machine decodes on every other. constriction does the coding where it is installed; `PythonAns`
reads and writes the same streams where it is not (and checks constriction in the tests).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

try:
    import constriction
except ImportError:  # no wheel for this platform
    constriction = None

PRECISION = 24  # bits: probabilities are multiples of 2^-24
ONE = 1 << PRECISION


class Table:
    """The coding table of K >= 2 symbols 0 .. K-1 with integer weights (any total below 2^63; zeros allowed).

    normalised count  n_i = w_i * 2^24 // sum(w), the remainder going to the first largest weight
    left edge         e_i = (n_0 + .. + n_{i-1}) * (2^24 - K) // 2^24 + i
    probability       (e_{i+1} - e_i) / 2^24, at least 2^-24 for every symbol
    """

    __slots__ = ("_model", "counts", "edges")

    def __init__(self, weights: Sequence[int]):
        weights = [int(w) for w in weights]
        total, size = sum(weights), len(weights)
        if size < 2 or total <= 0 or min(weights) < 0:
            raise ValueError(f"a table needs two or more symbols and a positive total, found {weights[:8]}")
        counts = [w * ONE // total for w in weights]
        counts[weights.index(max(weights))] += ONE - sum(counts)
        edges, cumulative = [0], 0
        for i, count in enumerate(counts, 1):
            cumulative += count
            edges.append(cumulative * (ONE - size) // ONE + i)
        self.counts, self.edges, self._model = counts, edges, None

    def __len__(self) -> int:
        return len(self.counts)

    def costs(self) -> np.ndarray:
        """Bits that each symbol costs: float64 (K,)."""
        return PRECISION - np.log2(np.diff(np.array(self.edges, np.float64)))

    @property
    def model(self):
        """constriction's model of this table; `perfect=False` and float64 counts of total 2^24 give the edges above."""
        if self._model is None:
            counts = np.array(self.counts, np.float64)
            self._model = constriction.stream.model.Categorical(counts, perfect=False)
        return self._model


class ConstrictionAns:
    """A stack of symbols: what is pushed last pops first."""

    def __init__(self, words: np.ndarray | None = None):
        if words is None:
            self._coder = constriction.stream.stack.AnsCoder()
        else:
            self._coder = constriction.stream.stack.AnsCoder(words.astype(np.uint32))

    def push(self, symbols: np.ndarray, table: Table) -> None:
        """Pushes a whole array so that `pop` returns it in order."""
        self._coder.encode_reverse(np.ascontiguousarray(symbols, np.int32), table.model)

    def pop(self, count: int, table: Table) -> np.ndarray:
        """int32 (count,)"""
        return self._coder.decode(table.model, count)

    @property
    def empty(self) -> bool:
        return self._coder.is_empty()

    @property
    def size_bits(self) -> int:
        return self._coder.num_valid_bits()

    def words(self) -> np.ndarray:
        return self._coder.get_compressed()


class PythonAns:
    """The same coder in plain Python: 64-bit state, 32-bit words, the last word read first."""

    def __init__(self, words: np.ndarray | None = None):
        self._words = [] if words is None else [int(w) for w in words]
        self._state = 0
        for _ in range(2):
            if self._words:
                self._state = self._state << 32 | self._words.pop()

    def push(self, symbols: np.ndarray, table: Table) -> None:
        edges = table.edges
        for symbol in reversed(symbols.tolist()):
            left, width = edges[symbol], edges[symbol + 1] - edges[symbol]
            if self._state >> (64 - PRECISION) >= width:
                self._words.append(self._state & 0xFFFFFFFF)
                self._state >>= 32
            self._state = self._state // width << PRECISION | left + self._state % width

    def pop(self, count: int, table: Table) -> np.ndarray:
        edges, out = table.edges, np.empty(count, np.int32)
        for i in range(count):
            quantile = self._state & (ONE - 1)
            symbol = bisect_right(edges, quantile) - 1
            left, width = edges[symbol], edges[symbol + 1] - edges[symbol]
            self._state = (self._state >> PRECISION) * width + quantile - left
            if self._state < 1 << 32 and self._words:
                self._state = self._state << 32 | self._words.pop()
            out[i] = symbol
        return out

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


Ans = PythonAns if constriction is None else ConstrictionAns


def ideal_bits(counts: np.ndarray, table: Table) -> float:
    """Code length, in bits, of symbols that occur `counts` times each under the table."""
    return math.fsum(np.asarray(counts, np.float64) * table.costs())
