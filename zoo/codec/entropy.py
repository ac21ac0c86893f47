"""Entropy models: how the integers of one group become symbols of the stream (FORMAT.md, section 5).

A model is a class with a `name`, found in MODELS. It splits its work, because the stream is a stack:

    fit(phi, shapes) -> model          the encoder's: tables chosen by what they cost and save together
    write(writer)                      side information into the header
    push(coder, phi)                   symbols onto the stream, last first
    read(reader, l, shapes) -> model   the decoder's: from the side information, which it checks
    pop(coder) -> phi                  int8, int16 or int32 (d, l), symbols off the stream
    bits(phi) -> float                 ideal code length of the symbols alone, for `anatomy`; may use what was popped
    simpler(phi, shapes) -> model      one that takes less work, for a file beyond its budget; None if there is none
    narrow                             where there is this attribute: whether phi may come as int8 or int16, too
    quicker(phi, shapes) -> model      where there is this method: one for few more bytes, for a large network; or None

Work (work.py): what a model expands or repeats, it spends before: `read` and `write` on the work of their reader or writer,
`pop` and `push` on that of their coder. Coders count the symbols. `read` spends before it reads a table, so that a file is
refused at the first thing that it cannot afford.

shapes are those of the group's tensors. To add one: a class with these methods in a file of its own, named in the last
line of zoo/codec/__init__.py, and a paragraph in FORMAT.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from zoo.codec.ans import Ans, Table, ideal_bits
from zoo.codec.bits import Reader, Writer
from zoo.codec.work import ENTRY, ESCAPED, STORED, TABLE, Work
from zoo.errors import CorruptArtifact, UnknownName

Shapes = tuple[tuple[int, ...], ...]  # of the tensors of a group

MAX_ALPHABET = 1 << 14
MAX_EXPONENT = 40
MANTISSAS = 8  # precisions of a table's weights: 0 to 7 bits after the first
BLOCK = 1 << 18  # symbols coded at a time: the coder takes and gives four bytes for each
BYTE = Table([1] * 256)  # codes the bytes of escaped values


class Alphabet:
    """The integers low .. high that a table lists, an escape for the others, and their weights.

    Each stored weight holds for 2^coarse neighbouring integers (the escape has its own). It is a small floating-point
    number, (2^mantissa + f) << e: what matters are ratios, and both precisions are chosen by bytes.
    """

    def __init__(self, low: int, high: int, escape: bool, mantissa: int, weights: Sequence[int], coarse: int = 0):
        self.low, self.high, self.escape, self.mantissa = low, high, escape, mantissa
        self.weights, self.coarse, self.cost = np.asarray(weights, np.int64), coarse, math.nan

    @property
    def constant(self) -> bool:
        """Whether the only integer needs no symbols."""
        return self.low == self.high and not self.escape

    @property
    def table(self) -> Table | None:
        """The weights expanded, made anew each time; None for a constant."""
        if self.constant:
            return None
        if not self.coarse:
            return Table(self.weights)
        listed = len(self.weights) - self.escape
        spans = np.full(len(self.weights), 1 << self.coarse)
        spans[listed - 1] = self.high - self.low + 1 - (listed - 1 << self.coarse)
        spans[listed:] = 1
        return Table(self.weights, spans)

    def _spend(self, work: Work) -> None:
        stored = (self.high - self.low >> self.coarse) + 1 + self.escape
        entries = self.high - self.low + 1 + self.escape
        steps = TABLE // 10 if self.constant else TABLE + stored * STORED + entries * ENTRY
        work.spend(steps, f"a table of {entries:,} integers")

    @classmethod
    def fit(cls, values: np.ndarray) -> Alphabet:
        """The alphabet with the fewest bits for these integers, its own table included; `cost` says how many."""
        if not len(values):
            values = np.zeros(1, np.int32)
        low, high = int(values.min()), int(values.max())
        far = values[:0]
        if high - low >= MAX_ALPHABET:  # only a window around the median can be listed
            low = max(low, int(np.partition(values, len(values) // 2)[len(values) // 2]) - MAX_ALPHABET // 2)
            high = min(high, low + MAX_ALPHABET - 1)
            far = values[(values < low) | (values > high)].astype(np.int64)
        counts = _histogram(values, low, high - low + 1)
        best = None
        for begin, end in _clips(counts):
            tails = np.concatenate([_escape_lengths(np.arange(begin)[::-1]), _escape_lengths(np.arange(len(counts) - end))])
            tail_counts = np.concatenate([counts[:begin], counts[end:]])
            rare = len(far) + int(tail_counts.sum())
            outside = _golomb_bits(low + begin, end - 1 - begin) + 8 * int((tail_counts * tails).sum())
            if len(far):
                outside += 8 * int(_escape_lengths(np.where(far < low, low + begin - 1 - far, far - (low + end))).sum())
            for coarse in range(max((end - begin).bit_length() - 3, 1))[::-1]:
                bins, spans = _bins(counts[begin:end], rare, coarse)
                if best is not None and len(bins) + outside >= best[0]:
                    break  # a weight takes a bit or more
                weights, bits = _prices(bins, spans, coarse)
                mantissa = int(bits.argmin())
                if best is None or bits[mantissa] + outside < best[0]:
                    best = bits[mantissa] + outside, low + begin, low + end - 1, rare > 0, mantissa, weights[mantissa], coarse
        cost, low, high, escape, mantissa, weights, coarse = best
        alphabet = cls(low, high, escape, mantissa, weights, coarse)
        alphabet.cost = float(cost)
        return alphabet

    def write(self, writer: Writer) -> None:
        writer.signed(self.low, 2)
        writer.golomb(self.high - self.low, 2)
        writer.bits(self.escape, 1)
        self._spend(writer.work)
        if self.constant:
            return
        writer.bits(self.mantissa, 3)
        writer.golomb(self.coarse)
        write_weights(writer, self.mantissa, self.weights)

    @classmethod
    def read(cls, reader: Reader) -> Alphabet:
        low, span, escape = reader.signed(2), reader.golomb(2), reader.bits(1)
        if span >= MAX_ALPHABET:
            raise CorruptArtifact(f"a table of {span + 1:,} integers; at most {MAX_ALPHABET:,} are allowed")
        if not -(2**31) <= low <= low + span < 2**31:
            raise CorruptArtifact(f"a table of the integers from {low:,} to {low + span:,}, beyond 32 bits")
        alphabet = cls(low, low + span, bool(escape), 0, [1])
        if not alphabet.constant:
            alphabet.mantissa, alphabet.coarse = reader.bits(3), reader.golomb()
            if alphabet.coarse and span >> alphabet.coarse == 0:
                raise CorruptArtifact(f"a table whose weights hold for 2^{alphabet.coarse} integers each has only {span + 1}")
        alphabet._spend(reader.work)
        if not alphabet.constant:
            alphabet.weights = read_weights(reader, alphabet.mantissa, (span >> alphabet.coarse) + 1 + escape)
        return alphabet

    def push(self, coder: Ans, values: np.ndarray) -> None:
        table = self.table
        if table is None:
            return
        if self.escape:
            push_escapes(coder, values[(values < self.low) | (values > self.high)], self.low, self.high)
        for begin in range(0, len(values), BLOCK)[::-1]:
            symbols = values[begin : begin + BLOCK] - np.int32(self.low)  # may wrap around, but never into the list
            if self.escape:
                symbols[(symbols < 0) | (symbols > self.high - self.low)] = self.high - self.low + 1
            coder.push(symbols, table)

    def pop(self, coder: Ans, count: int) -> np.ndarray:
        """The integers (count,), in the smallest of int8, int16 and int32 that holds what is listed and what was escaped."""
        table = self.table
        if table is None:
            return np.full(count, self.low, smallest(self.low, self.high))
        symbols = np.empty(count, np.uint8 if len(table) <= 256 else np.uint16)
        for begin in range(0, count, BLOCK):
            block = symbols[begin : begin + BLOCK]
            block[:] = coder.pop(len(block), table)
        return self.integers(symbols, coder)

    def integers(self, symbols: np.ndarray, coder: Ans) -> np.ndarray:
        """Of these symbols, whose escaped integers are popped; see `pop`."""
        kind, rare = smallest(self.low, self.high), ()
        if self.escape:
            (rare,) = (symbols == self.high - self.low + 1).nonzero()
        if len(rare):
            escaped = pop_escapes(coder, len(rare), self.low, self.high)
            kind = smallest(min(self.low, int(escaped.min())), max(self.high, int(escaped.max())))
        values = symbols.astype(kind, copy=False)
        values += kind(self.low)  # modulo 2^8 or 2^16, as symbols may be
        if len(rare):
            values[rare] = escaped
        return values

    def bits(self, values: np.ndarray) -> float:
        """Ideal code length of the values under this alphabet, escapes included."""
        table = self.table
        if table is None:
            return 0.0
        counts = _histogram(values, self.low, self.high - self.low + 1)
        if not self.escape:
            return ideal_bits(counts, table)
        far = values[(values < self.low) | (values > self.high)]
        return ideal_bits(np.append(counts, len(far)), table) + 8.0 * escape_count(far, self.low, self.high)


def smallest(low: int, high: int) -> type:
    """Of int8, int16 and int32 the first that holds these two integers."""
    return next((kind for kind in (np.int8, np.int16) if np.iinfo(kind).min <= low <= high <= np.iinfo(kind).max), np.int32)


class Static:
    """One table a column of phi, shared by all tensors of the group: the factorised model of the EPR paper (equation 5)."""

    name, narrow = "static", True

    def __init__(self, alphabets: list[Alphabet], rows: int):
        self.alphabets, self.rows = alphabets, rows

    @classmethod
    def fit(cls, phi: np.ndarray, shapes: Shapes) -> Static:
        return cls([Alphabet.fit(column) for column in phi.T], len(phi))

    def write(self, writer: Writer) -> None:
        for alphabet in self.alphabets:
            alphabet.write(writer)
        writer.align()

    @classmethod
    def read(cls, reader: Reader, l: int, shapes: Shapes) -> Static:
        alphabets = [Alphabet.read(reader) for _ in range(l)]
        reader.align()
        return cls(alphabets, sum(math.prod(shape) for shape in shapes) // l)

    def push(self, coder: Ans, phi: np.ndarray) -> None:
        for alphabet, column in zip(self.alphabets[::-1], phi.T[::-1], strict=True):
            alphabet.push(coder, column)

    def pop(self, coder: Ans) -> np.ndarray:
        if len(self.alphabets) == 1:
            return self.alphabets[0].pop(coder, self.rows)[:, None]
        planes = np.empty((len(self.alphabets), self.rows), np.int8)
        for i, alphabet in enumerate(self.alphabets):
            values = alphabet.pop(coder, self.rows)
            planes = planes.astype(np.promote_types(planes.dtype, values.dtype), copy=False)
            planes[i] = values
        return planes.T

    def bits(self, phi: np.ndarray) -> float:
        return math.fsum(alphabet.bits(column) for alphabet, column in zip(self.alphabets, phi.T, strict=True))

    def simpler(self, phi: np.ndarray, shapes: Shapes) -> None:
        return None


class Bytes(Static):
    """A table for each byte of a number; phi is uint8. For numbers that are kept exactly (container.py)."""

    def pop(self, coder: Ans) -> np.ndarray:
        out = np.empty((self.rows, len(self.alphabets)), np.uint8)
        for place, alphabet in enumerate(self.alphabets):
            values = alphabet.pop(coder, self.rows)
            if len(values) and not 0 <= values.min() <= values.max() < 256:
                raise CorruptArtifact(f"a byte of the value {values.min() if values.min() < 0 else values.max()}")
            out[:, place] = values
        return out

    @classmethod
    def read(cls, reader: Reader, l: int, shapes: Shapes) -> Bytes:
        model = super().read(reader, l, shapes)
        model.rows = sum(math.prod(shape) for shape in shapes)
        return model


class Raw:
    """Four bytes a number, as they are: uncompressed leftovers."""

    name = "raw"

    def __init__(self, phi: np.ndarray):
        self.phi = phi

    @classmethod
    def fit(cls, phi: np.ndarray, shapes: Shapes) -> Raw:
        return cls(phi)

    def write(self, writer: Writer) -> None:
        writer.raw(self.phi.astype("<i4").tobytes())

    @classmethod
    def read(cls, reader: Reader, l: int, shapes: Shapes) -> Raw:
        count = sum(math.prod(shape) for shape in shapes)
        return cls(np.frombuffer(reader.raw(4 * count), "<i4").astype(np.int32).reshape(-1, l))

    def push(self, coder: Ans, phi: np.ndarray) -> None:
        pass

    def pop(self, coder: Ans) -> np.ndarray:
        return self.phi

    def bits(self, phi: np.ndarray) -> float:
        return 0.0

    def simpler(self, phi: np.ndarray, shapes: Shapes) -> None:
        return None


MODELS = {model.name: model for model in (Static, Raw)}


def find(name: str) -> type:
    """The entropy model of that name, or `UnknownName`."""
    if name not in MODELS:
        raise UnknownName(f"unknown entropy model {name!r}; known: {', '.join(MODELS)}")
    return MODELS[name]


class BitCounter(Writer):
    """Counts what a `Writer` would write."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def bits(self, value: int, count: int) -> None:
        self.count += count


def write_weights(writer: Writer, mantissa: int, weights: Sequence[int]) -> None:
    """For each weight (2^mantissa + f) << e: the change of e + 1, which is 0 for a weight of zero; then f."""
    previous = 0
    for weight in map(int, weights):
        exponent = 0 if weight == 0 else weight.bit_length() - mantissa
        writer.signed(exponent - previous)
        if weight:
            writer.bits(weight >> (exponent - 1) & ((1 << mantissa) - 1), mantissa)
        previous = exponent


def read_weights(reader: Reader, mantissa: int, count: int) -> np.ndarray:
    """int64 (count,); whoever calls has spent the work of reading them."""
    exponent, weights = 0, []
    for _ in range(count):
        exponent += reader.signed()
        if not 0 <= exponent <= MAX_EXPONENT:
            raise CorruptArtifact(f"a table weight with exponent {exponent}")
        weights.append(((1 << mantissa) + reader.bits(mantissa)) << (exponent - 1) if exponent else 0)
    if not any(weights):
        raise CorruptArtifact("a table whose weights are all zero")
    return np.array(weights, np.int64)


def round_weight(count: int, mantissa: int) -> int:
    """The count rounded to mantissa + 1 significant bits, times 2^mantissa, so that small counts keep theirs."""
    value = count << mantissa
    drop = max(value.bit_length() - mantissa - 1, 0)
    return (value + (1 << drop >> 1)) >> drop << drop


def _histogram(values: np.ndarray, low: int, size: int) -> np.ndarray:
    """How often each of low .. low + size - 1 occurs: int64 (size,). In blocks, to stay in the cache."""
    counts = np.zeros(size, np.int64)
    for begin in range(0, len(values), 1 << 18):
        block = values[begin : begin + (1 << 18)].astype(np.int64)
        block -= low
        if block.min() < 0 or block.max() >= size:
            block = block[(block >= 0) & (block < size)]
        counts += np.bincount(block, minlength=size)
    return counts


def _clips(counts: np.ndarray) -> list[tuple[int, int]]:
    """Ranges worth listing: all of it, and those that drop tails of integers seen at most 1, 2, 4, .. times each."""
    clips, threshold = [], 0
    while threshold <= max(1, int(counts.sum()) // 1000):
        frequent = np.flatnonzero(counts > threshold)
        if len(frequent):
            clips.append((int(frequent[0]), int(frequent[-1]) + 1))
        threshold = 2 * threshold or 1
    return list(dict.fromkeys(clips))


def _bins(counts: np.ndarray, rare: int, coarse: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts summed over 2^coarse neighbours, and the number of integers in each bin; the escape, if any, last."""
    edges = np.arange(0, len(counts), 1 << coarse)
    bins, spans = np.add.reduceat(counts, edges), np.diff(edges, append=len(counts))
    return (np.append(bins, rare), np.append(spans, 1)) if rare else (bins, spans)


def _golomb_bits(low: int, span: int) -> int:
    """Bits of an alphabet's ends."""
    return 2 * ((abs(2 * low) + 4).bit_length() + (span + 4).bit_length())


def _prices(bins: np.ndarray, spans: np.ndarray, coarse: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights (M, n) rounded to 1 .. M significant bits, and the bits (M,) that table and symbols take with them."""
    mantissa = np.arange(MANTISSAS)[:, None]
    used = bins > 0
    weights = -(-(bins << mantissa + coarse) // spans)
    drop = np.maximum(_bit_length(weights) - mantissa - 1, 0)
    weights = (weights + (1 << drop >> 1)) >> drop << drop
    exponents = np.where(used, _bit_length(weights) - mantissa, 0)
    smallest = exponents.min(1, keepdims=True, where=used, initial=64) - 1
    weights >>= smallest  # ratios are all that counts
    exponents -= smallest * used
    steps = np.diff(exponents, prepend=0)
    golomb = 2 * _bit_length(np.where(steps > 0, 2 * steps, 1 - 2 * steps)) - 1
    table = golomb.sum(1) + mantissa[:, 0] * used.sum() + 2 * (coarse + 1).bit_length()
    total = np.log2((weights * spans).sum(1, keepdims=True).astype(np.float64))
    symbols = bins[used] * (total - np.log2(np.compress(used, weights, axis=1).astype(np.float64)))
    return weights, np.where(exponents.max(1) > MAX_EXPONENT, np.inf, table + symbols.sum(1))


def _bit_length(values: np.ndarray) -> np.ndarray:
    """int64, 0 for 0: exact below 2^53."""
    return np.frexp(values.astype(np.float64))[1].astype(np.int64)


def _distances(values: np.ndarray, low: int, high: int) -> np.ndarray:
    """Escaped integers as 2 * steps above high + 0, or 2 * steps below low + 1; the first integer outside is at 0 steps."""
    values = values.astype(np.int64)
    return np.where(values > high, 2 * (values - high - 1), 2 * (low - 1 - values) + 1)


def _escape_lengths(steps: np.ndarray) -> np.ndarray:
    """Bytes of the escape code of integers so many steps outside the alphabet."""
    return np.maximum(np.frexp((2 * steps.astype(np.int64)).astype(np.float64))[1] + 6, 7) // 7


def _escape_bytes(distances: np.ndarray) -> list[np.ndarray]:
    """LEB128, first all first bytes, then all second bytes of those that have one, ..."""
    rounds = []
    while len(distances):
        longer = distances >= 128
        rounds.append((distances & 127 | longer << 7).astype(np.int32))
        distances = distances[longer] >> 7
    return rounds


def escape_count(values: np.ndarray, low: int, high: int) -> int:
    """Bytes that `push_escapes` codes."""
    return int(_escape_lengths(_distances(values, low, high) >> 1).sum())


def push_escapes(coder: Ans, values: np.ndarray, low: int, high: int) -> None:
    """Integers outside low .. high, by their distance from it."""
    coder.work.spend(len(values) * ESCAPED, f"{len(values):,} escaped integers")
    for codes in _escape_bytes(_distances(values, low, high))[::-1]:
        coder.push(codes, BYTE)


def pop_escapes(coder: Ans, count: int, low: int, high: int) -> np.ndarray:
    """int32 (count,)"""
    coder.work.spend(count * ESCAPED, f"{count:,} escaped integers")
    if not count:
        return np.empty(0, np.int32)
    distances, waiting = np.zeros(count, np.int64), np.arange(count)
    for shift in range(0, 35, 7):
        codes = coder.pop(len(waiting), BYTE)
        distances[waiting] |= (codes & 127).astype(np.int64) << shift
        waiting = waiting[codes >= 128]
        if not len(waiting):
            break
    else:
        raise CorruptArtifact("an escaped integer of more than five bytes")
    steps = distances >> 1
    values = np.where(distances & 1, low - 1 - steps, high + 1 + steps)
    if values.min() < -(2**31) or values.max() >= 2**31:
        raise CorruptArtifact("an escaped integer beyond 32 bits")
    return values.astype(np.int32)
