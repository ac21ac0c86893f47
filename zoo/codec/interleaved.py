"""Classes coded by thousands of states side by side: the model for fast decoding (FORMAT.md, "interleaved").

Rows, columns and tables are those of classes.py. The integers of a class with few symbols are coded by L = 2^e lanes, each an
asymmetric numeral system of its own with 32 bits of state and 16-bit words. All lanes take one step at once, as arrays:

    lane       0    1   ..  L-1
    step 0    x0   x1      xL-1        integer i of a class stands in step i // L, lane i mod L
    step 1    xL   xL+1

Words are read lane after lane within a step, from one list for the whole group. What 14 bits cannot tell (classes of more
than `NARROW` symbols, escaped integers) stands in the stream of the file, as in `classes`.
"""

from __future__ import annotations

import math

import numpy as np

from zoo.codec.ans import PRECISION, Ans
from zoo.codec.bits import Reader, Writer
from zoo.codec.classes import Classes
from zoo.codec.entropy import Alphabet, Shapes, push_escapes
from zoo.codec.work import ENTRY, SYMBOL, Work
from zoo.errors import CorruptArtifact

BITS = 14
SLOTS = 1 << BITS
NARROW = 256  # symbols of a class, at most, that lanes code
LOW = 1 << 16  # states are LOW .. 2^32 - 1; each lane begins with LOW, where its encoder does
MAX_EXPONENT = 14  # of the number of lanes
_SLOT, _BITS, _HALF, _SIXTEEN, _LOW = map(np.uint32, (SLOTS - 1, BITS, 0xFFFF, 16, LOW))
STEP = 1500  # steps of work (work.py) to advance all lanes once, beside the symbols


class Interleaved(Classes):
    """`Classes` whose narrow tables are coded in lanes. The lanes go on from one such group of a file to the next."""

    name, narrow = "interleaved", False

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.begins = self.ends = False  # whether the lanes begin with this group, and end with it
        self.exponent, self.words, self.lanes = 0, None, None

    @property
    def lane_bytes(self) -> float:
        """About how many bytes lanes will take."""
        return math.fsum(table.cost for table in self.tables if _narrow(table)) / 8

    @property
    def payload_bytes(self) -> int:
        """Bytes of the words, which are symbols although they stand with the side information."""
        return 2 * len(self.words)

    def write(self, writer: Writer) -> None:
        """After `push`, which makes the words."""
        super().write(writer)
        self.begins = self.lanes.first is self
        self._spend_tables(writer.work)
        writer.bits(self.begins, 1)
        writer.bits(self.ends, 1)
        words = self.words
        if self.begins:
            writer.bits(self.lanes.exponent, 4)
            words = np.concatenate([self.lanes.states.astype("<u4").view("<u2"), words])
        writer.varint(len(words))
        writer.raw(words.astype("<u2").tobytes())

    @classmethod
    def read(cls, reader: Reader, l: int, shapes: Shapes) -> Interleaved:
        model = super().read(reader, l, shapes)
        model._spend_tables(reader.work)
        model.begins, model.ends = bool(reader.bits(1)), bool(reader.bits(1))
        model.exponent = reader.bits(4) if model.begins else 0
        if model.exponent > MAX_EXPONENT:
            raise CorruptArtifact(f"2^{model.exponent} lanes; at most 2^{MAX_EXPONENT} are allowed")
        count = reader.varint()
        if model.begins and count < 2 << model.exponent:
            raise CorruptArtifact(f"{count:,} words, fewer than {1 << model.exponent:,} lanes need")
        model.words = np.frombuffer(reader.raw(2 * count), "<u2")
        return model

    def _spend_tables(self, work: Work) -> None:
        narrow = sum(map(_narrow, self.tables))
        work.spend(narrow * SLOTS * ENTRY, f"{narrow:,} tables for lanes")

    def _push_classes(self, coder: Ans, symbols: list[np.ndarray]) -> None:
        self.ends = self.name not in coder.shared
        if self.ends:  # as many lanes as a thousandth of the bytes pays for: three bytes each
            total = coder.shared.get("lane_bytes", self.lane_bytes)
            coder.shared[self.name] = Encoder(min(max(int(total / 1000).bit_length() - 1, 0), 11))
        self.lanes = coder.shared[self.name]
        self.lanes.first = self
        classes = list(zip(self.tables, symbols, strict=True))[::-1]
        narrow = [(table, values) for table, values in classes if _narrow(table)]
        _spend(coder.work, self.lanes.states, [len(values) for _, values in narrow])
        self.words = self.lanes.push(narrow)
        for table, values in classes:
            if not _narrow(table):
                table.push(coder, values)
            elif table.escape:
                push_escapes(coder, values[(values < table.low) | (values > table.high)], table.low, table.high)

    def _pop_classes(self, coder: Ans, counts: list[int]):
        if self.begins == (self.name in coder.shared):
            raise CorruptArtifact("lanes that begin twice, or go on without a beginning")
        if self.begins:
            coder.shared[self.name] = Decoder(self.exponent)
        lanes = coder.shared[self.name]
        lanes.read(self.words, self.begins)
        _spend(coder.work, lanes.states, [count for table, count in zip(self.tables, counts, strict=True) if _narrow(table)])
        for table, count in zip(self.tables, counts, strict=True):
            if not _narrow(table):
                yield table.pop(coder, count)
            else:
                yield table.integers(lanes.pop(count, table), coder)
        if lanes.at != len(lanes.words) or (self.ends and (lanes.states != LOW).any()):
            raise CorruptArtifact("the lanes do not end with the last integer of their group")
        if self.ends:
            del coder.shared[self.name]


def _spend(work: Work, states: np.ndarray, counts: list[int]) -> None:
    steps = sum(-(-count // len(states)) for count in counts)
    work.spend(steps * STEP + sum(counts) * SYMBOL, f"{steps:,} steps of {len(states):,} lanes")


def _narrow(table: Alphabet) -> bool:
    return not table.constant and table.high - table.low + 1 + table.escape <= NARROW


def edges(table: Alphabet) -> np.ndarray:
    """Left edges of the symbols in 2^14 slots, int64 (K + 1,): those of 24 bits (FORMAT.md, section 4), made coarser."""
    counts = np.array(table.table.counts)
    size = len(counts)
    return np.concatenate([[0], (np.cumsum(counts) * (SLOTS - size) >> PRECISION) + np.arange(1, size + 1)])


class Decoder:
    """The lanes while they are read: states uint32 (L,), the words of a group, and where the next one is."""

    def __init__(self, exponent: int):
        lanes = 1 << exponent
        self.states, self.words, self.at = np.empty(lanes, np.uint32), None, 0
        self._slots, self._low = np.empty(lanes, np.intp), np.empty(lanes, bool)
        self._wide, self._more = np.empty(lanes, np.uint32), np.empty(lanes, np.uint32)

    def read(self, words: np.ndarray, begins: bool) -> None:
        """The words of the next group; the first ones are the states if the lanes begin with it."""
        self.words, self.at = words, 0
        if begins:
            self.at = 2 * len(self.states)
            self.states[:] = words[0 : self.at : 2]
            self.states |= words[1 : self.at : 2].astype(np.uint32) << 16
            if self.states.min() < LOW:
                raise CorruptArtifact("a lane begins below 2^16")

    def pop(self, count: int, table: Alphabet) -> np.ndarray:
        """Symbols 0 .. K-1, uint8 (count,)."""
        bounds = edges(table)
        widths = np.diff(bounds)
        symbol_of = np.repeat(np.arange(len(widths), dtype=np.uint8), widths)
        places = np.arange(SLOTS) - np.repeat(bounds[:-1], widths)
        step_of = (np.repeat(widths, widths) << 16 | places).astype(np.uint32)  # both in one table: one look-up less
        out, lanes = np.empty(count, np.uint8), len(self.states)
        states, slots, wide, more, low = self.states, self._slots, self._wide, self._more, self._low
        for begin in range(0, count, lanes):
            n = count - begin
            if n < lanes:
                states, slots, wide, more, low = states[:n], slots[:n], wide[:n], more[:n], low[:n]
            # Arguments by position: calls are what a step of few lanes costs. Slots are in range; "clip" spares a buffer.
            np.bitwise_and(states, _SLOT, slots, casting="unsafe")
            symbol_of.take(slots, 0, out[begin : begin + lanes], "clip")
            step_of.take(slots, 0, wide, "clip")
            np.right_shift(states, _BITS, states)
            np.bitwise_and(wide, _HALF, more)
            np.right_shift(wide, _SIXTEEN, wide)
            np.multiply(states, wide, states)
            np.add(states, more, states)
            (due,) = np.less(states, _LOW, low).nonzero()
            if due.size:
                words = self.words[self.at : self.at + due.size]
                if len(words) < due.size:
                    raise CorruptArtifact("the lanes need more words than there are")
                fed = states.take(due, 0, wide[: due.size], "clip")
                np.left_shift(fed, _SIXTEEN, fed)
                states[due] = np.bitwise_or(fed, words, fed)
                self.at += due.size
        return out


class Encoder:
    """The lanes while they are written, from the last group to the first."""

    def __init__(self, exponent: int):
        self.exponent, self.states = exponent, np.full(1 << exponent, LOW, np.uint32)
        self.first = None  # the group that was pushed last

    def push(self, classes: list[tuple[Alphabet, np.ndarray]]) -> np.ndarray:
        """Words, uint16, of classes given last first; integers that a table does not list are its escape."""
        lanes, pieces = len(self.states), [np.zeros(0, np.uint16)]
        for table, values in classes:
            bounds = edges(table)
            lefts, widths = bounds[:-1].astype(np.uint32), np.diff(bounds).astype(np.uint32)
            symbols = values.astype(np.int64) - table.low
            symbols[(symbols < 0) | (symbols > table.high - table.low)] = table.high - table.low + 1
            for begin in range(0, len(symbols), lanes)[::-1]:
                step = symbols[begin : begin + lanes]
                states, width = self.states[: len(step)], widths.take(step)
                (due,) = (states >> np.uint32(32 - BITS) >= width).nonzero()
                pieces.append(states[due].astype(np.uint16))  # the lower half
                states[due] >>= np.uint32(16)
                quotient, remainder = np.divmod(states, width)
                states[:] = (quotient << np.uint32(BITS)) + remainder + lefts.take(step)
        return np.concatenate(pieces[::-1])
