"""Entropy models: how the integers of one group become symbols of the stream (FORMAT.md, section 5).

A model is a class with a name, found in MODELS. It splits its work in four, because the stream is a stack:

    fit(phi, shapes)        -> model, tables chosen by what they cost and save together
    write(writer)           side information into the header       read(reader, l, shapes) -> model
    push(coder, phi)        symbols onto the stream, last first    pop(coder) -> phi (d, l)

To add one: a class with these methods, an entry in MODELS, a paragraph in FORMAT.md.
"""

from __future__ import annotations

import math

import numpy as np

from zoo.codec.ans import ONE, Ans, Table, ideal_bits
from zoo.codec.bits import Reader, Writer
from zoo.errors import CorruptArtifact, UnknownName

Shapes = tuple[tuple[int, ...], ...]

MAX_ALPHABET = 1 << 14
BYTE = Table([1] * 256)  # codes the bytes of escaped values


class Alphabet:
    """The integers low .. high that a table lists, an escape for the others, and their weights.

    Weights are stored as small floating-point numbers, (2^m + f) << e with m bits of mantissa f: what matters is their
    ratio, and m is chosen by bytes.
    """

    def __init__(self, low: int, high: int, escape: bool, mantissa: int, weights: list[int]):
        self.low, self.high, self.escape, self.mantissa, self.weights = low, high, escape, mantissa, weights
        self.table = Table(weights) if len(weights) > 1 else None  # a constant needs no symbols

    @classmethod
    def fit(cls, values: np.ndarray) -> Alphabet:
        """The alphabet with the fewest bytes for these integers, its own table included."""
        if not len(values):
            return cls(0, 0, False, 0, [1])
        low, high = int(values.min()), int(values.max())
        if high - low < MAX_ALPHABET:
            counts = np.bincount(values - low, minlength=high - low + 1)
        else:  # list what lies around the bulk, escape the rest
            low = int(np.quantile(values, 0.001))
            high = min(int(np.quantile(values, 0.999)), low + MAX_ALPHABET - 2)
            counts = np.bincount(values[(values >= low) & (values <= high)] - low, minlength=high - low + 1)
        outside = len(values) - int(counts.sum())
        best = None
        for clip in _clips(counts):
            begin, end = clip
            kept = counts[begin:end].tolist()
            rare = outside + int(counts[:begin].sum() + counts[end:].sum())
            rare_bits = 8.0 * rare * (1 if high - low < 120 else 2)
            frequencies = kept + [rare] if rare else kept
            for mantissa in range(8):
                weights = [_round_weight(c, mantissa) for c in frequencies]
                option = cls(low + begin, low + end - 1, rare > 0, mantissa, weights)
                cost = option.header_bits() + rare_bits
                if option.table is not None:
                    cost += ideal_bits(np.array(frequencies), option.table)
                if best is None or cost < best[0]:
                    best = (cost, option)
        return best[1]

    def header_bits(self) -> int:
        writer = _BitCounter()
        self.write(writer)
        return writer.count

    def write(self, writer: Writer) -> None:
        writer.signed(self.low, 2)
        writer.golomb(self.high - self.low, 2)
        writer.bits(self.escape, 1)
        if self.table is None:
            return
        writer.bits(self.mantissa, 3)
        previous = 0
        for weight in self.weights:  # exponent plus one, 0 for a weight of zero, as a difference; then the mantissa
            exponent = 0 if weight == 0 else weight.bit_length() - self.mantissa
            writer.signed(exponent - previous)
            if weight:
                writer.bits(weight >> (exponent - 1) & ((1 << self.mantissa) - 1), self.mantissa)
            previous = exponent

    @classmethod
    def read(cls, reader: Reader) -> Alphabet:
        low, span, escape = reader.signed(2), reader.golomb(2), bool(reader.bits(1))
        size = span + 1 + escape
        if span >= MAX_ALPHABET:
            raise CorruptArtifact(f"a table of {size:,} symbols; at most {MAX_ALPHABET:,} are allowed")
        if size == 1:
            return cls(low, low, False, 0, [1])
        mantissa, exponent, weights = reader.bits(3), 0, []
        for _ in range(size):
            exponent += reader.signed()
            if not 0 <= exponent <= 40:
                raise CorruptArtifact(f"a table weight with exponent {exponent}")
            weights.append(((1 << mantissa) + reader.bits(mantissa)) << (exponent - 1) if exponent else 0)
        if not any(weights):
            raise CorruptArtifact("a table whose weights are all zero")
        return cls(low, low + span, escape, mantissa, weights)

    def push(self, coder: Ans, values: np.ndarray) -> None:
        if self.table is None:
            return
        symbols = values - self.low
        if self.escape:
            rare = (symbols < 0) | (symbols > self.high - self.low)
            _push_escapes(coder, values[rare])
            symbols = np.where(rare, self.high - self.low + 1, symbols)
        coder.push(symbols, self.table)

    def pop(self, coder: Ans, count: int) -> np.ndarray:
        """int32 (count,)"""
        if self.table is None:
            return np.full(count, self.low, np.int32)
        values = coder.pop(count, self.table)
        if self.low:
            values += np.int32(self.low)
        if self.escape:
            rare = np.flatnonzero(values > self.high)
            values[rare] = _pop_escapes(coder, len(rare))
        return values

    def bits(self, values: np.ndarray) -> float:
        """Ideal code length of the values under this alphabet, escapes included."""
        if self.table is None:
            return 0.0
        symbols = values - self.low
        rare = (symbols < 0) | (symbols > self.high - self.low)
        counts = np.bincount(np.where(rare, self.high - self.low + 1, symbols), minlength=len(self.table))
        return ideal_bits(counts, self.table) + 8.0 * sum(len(part) for part in _escape_bytes(values[rare]))


class Static:
    """One table a column of phi, shared by all tensors of the group: the factorised model of the EPR paper (equation 5)."""

    name = "static"

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
        planes = np.empty((len(self.alphabets), self.rows), np.int32)
        for plane, alphabet in zip(planes, self.alphabets, strict=True):
            plane[:] = alphabet.pop(coder, self.rows)
        return planes.T

    def bits(self, phi: np.ndarray) -> float:
        return math.fsum(alphabet.bits(column) for alphabet, column in zip(self.alphabets, phi.T, strict=True))


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


MODELS = {model.name: model for model in (Static, Raw)}


def find(name: str) -> type:
    """The entropy model of that name, or `UnknownName`."""
    if name not in MODELS:
        raise UnknownName(f"unknown entropy model {name!r}; known: {', '.join(MODELS)}")
    return MODELS[name]


class _BitCounter(Writer):
    def __init__(self) -> None:
        self.count = 0

    def bits(self, value: int, count: int) -> None:
        self.count += count


def _clips(counts: np.ndarray) -> list[tuple[int, int]]:
    """Ranges worth listing: all of it, and those that drop tails of symbols seen at most 1, 2, 4, .. times each."""
    clips = [(0, len(counts))]
    threshold = 1
    while threshold <= max(1, int(counts.sum()) // 1000):
        kept = np.flatnonzero(counts > threshold)
        if len(kept):
            clips.append((int(kept[0]), int(kept[-1]) + 1))
        threshold *= 2
    return list(dict.fromkeys(clips))


def _round_weight(count: int, mantissa: int) -> int:
    """The count rounded to mantissa + 1 significant bits, times 2^mantissa, so that small counts keep theirs."""
    value = count << mantissa
    drop = max(value.bit_length() - mantissa - 1, 0)
    return (value + (1 << drop >> 1)) >> drop << drop


def _escape_bytes(values: np.ndarray) -> list[np.ndarray]:
    """Escaped integers as LEB128 of their zigzag form, byte position by byte position."""
    left = np.where(values > 0, 2 * values.astype(np.int64) - 1, -2 * values.astype(np.int64))
    parts = []
    while len(left):
        more = left >= 128
        parts.append((left & 127 | more << 7).astype(np.int32))
        left = left[more] >> 7
    return parts


def _push_escapes(coder: Ans, values: np.ndarray) -> None:
    for part in _escape_bytes(values)[::-1]:
        coder.push(part, BYTE)


def _pop_escapes(coder: Ans, count: int) -> np.ndarray:
    values, waiting = np.zeros(count, np.int64), np.arange(count)
    for shift in range(0, 35, 7):
        part = coder.pop(len(waiting), BYTE)
        values[waiting] |= (part & 127).astype(np.int64) << shift
        waiting = waiting[part >= 128]
        if not len(waiting):
            break
    else:
        raise CorruptArtifact("an escaped integer of more than five bytes")
    values = np.where(values & 1, (values + 1) >> 1, -(values >> 1))
    if count and not -(2**31) <= values.min() <= values.max() < 2**31:
        raise CorruptArtifact("an escaped integer beyond 32 bits")
    return values.astype(np.int32)


assert ONE // 256 * 256 == ONE
