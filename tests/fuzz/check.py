"""One case: the file is decoded, all that the decoder really does is counted, and the outcome gets a class."""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections import Counter
from dataclasses import dataclass
from unittest import mock

import numpy as np

from zoo import codec, reparam, states
from zoo.codec import ans, classes, container, context, described, entropy, interleaved
from zoo.codec.work import most_steps
from zoo.errors import CorruptArtifact

from .seeds import layout

# Steps of what is counted here, at least: FORMAT.md, section 7. Counted where the work is done, not where it is announced.
PRICES = {"entries": 2, "stored": 100, "rectangles": 512, "rows": 1000, "symbols": 3, "escaped": 64, "steps": 1500}


@dataclass
class Outcome:
    """kind: `decoded` or the error with its numbers removed; steps counted, steps allowed; seconds of processor time."""

    kind: str
    counts: Counter
    allowed: int
    seconds: float

    @property
    def steps(self) -> int:
        return sum(PRICES[what] * count for what, count in self.counts.items())


def check(blob: bytes) -> Outcome:
    """Decodes down to weights. Raises AssertionError for a foreign exception, wrong weights, or more work than is allowed."""
    begin = time.process_time()
    with counting() as counts:
        try:
            kind = "version 2, decoded" if decode(blob) == described.VERSION else "decoded"
        except CorruptArtifact as error:
            kind = f"{type(error).__name__}: {_without_numbers(str(error))}"
            assert 15 < len(str(error)) < 400 and "\n" not in str(error), error
        except AssertionError:
            raise
        except BaseException as error:  # also the panics of constriction
            raise AssertionError(f"{type(error).__name__}: {error}") from error
    outcome = Outcome(kind, counts, allowed(blob), time.process_time() - begin)
    assert outcome.steps <= outcome.allowed, f"{outcome.steps:,} steps of {outcome.allowed:,}: {dict(counts)}"
    return outcome


def decode(blob: bytes) -> int:
    """Decodes a file of either version down to weights, which must be what the file says; returns its version."""
    version, _ = container.check(blob)
    if version == described.VERSION:
        description, state = states.unpack(blob)
        assert list(state) == [tensor.name for tensor in description.tensors]
        for tensor, values in zip(description.tensors, state.values(), strict=True):
            assert (tuple(values.shape), states.KINDS[values.dtype]) == (tensor.shape, description.dtype(tensor))
        return version
    header, groups = codec.decode(blob, layout, narrow=True)
    shapes = layout(header)
    for name, coded in groups.items():
        arrays = reparam.decode(coded.decoder, coded.phi, coded.psi, list(shapes[name]))
        assert [a.shape for a in arrays] == [tuple(shape) for shape in shapes[name]]
        assert all(a.dtype == np.float32 and np.isfinite(a).all() for a in arrays), "a weight is not finite"
    return version


def allowed(blob: bytes) -> int:
    """Steps that the file may take; for one without a readable header, what a file of no numbers may."""
    numbers = 0
    with contextlib.suppress(CorruptArtifact):
        version, _ = container.check(blob)
        if version == described.VERSION:
            description = described.read_description(blob)
            numbers = sum(described.DTYPES[dtype] * math.prod(shape)
                          for dtype, shapes in zip(description.dtypes, description.shapes().values(), strict=True)
                          for shape in shapes)  # fmt: skip
            assert numbers <= described.most_memory(len(blob))
        else:
            numbers = sum(math.prod(shape) for tensors in layout(codec.read_header(blob)).values() for shape in tensors)
    return most_steps(len(blob), numbers)


@contextlib.contextmanager
def counting():
    """Counts table entries, stored weights, rectangles, rows, steps of lanes, symbols and escaped integers as they are made."""
    counts: Counter = Counter()
    table, rectangles, read = ans.Table.__init__, classes._rectangles, entropy.read_weights
    pop, each, escapes, lanes = ans.Ans.pop, ans.Ans.pop_each, entropy.pop_escapes, interleaved.Decoder.pop

    def count_table(self, *arguments):
        table(self, *arguments)
        counts["entries"] += len(self)

    def count_stored(reader, mantissa, count):
        counts["stored"] += count
        return read(reader, mantissa, count)

    def count_rectangles(*arguments):
        tensor = rectangles(*arguments)
        counts["rectangles"] += sum(map(len, tensor.rectangles))
        return tensor

    def count_pop(self, count, *arguments):
        symbols = pop(self, count, *arguments)
        counts["symbols"] += count
        return symbols

    def count_row(self, index, *arguments):
        symbols = each(self, index, *arguments)
        counts["rows"] += 1
        counts["symbols"] += len(index)
        return symbols

    def count_escaped(coder, count, *arguments):
        values = escapes(coder, count, *arguments)
        counts["escaped"] += count
        return values

    def count_lanes(self, count, *arguments):
        symbols = lanes(self, count, *arguments)
        counts["symbols"] += count
        counts["steps"] += -(-count // len(self.states))
        return symbols

    with contextlib.ExitStack() as stack:
        for target, name, replacement in (
            (ans.Table, "__init__", count_table),
            (ans.Ans, "pop", count_pop),
            (ans.Ans, "pop_each", count_row),
            (interleaved.Decoder, "pop", count_lanes),
            (classes, "_rectangles", count_rectangles),
            (entropy, "read_weights", count_stored),
            (context, "read_weights", count_stored),
            (entropy, "pop_escapes", count_escaped),
            (context, "pop_escapes", count_escaped),
        ):
            stack.enter_context(mock.patch.object(target, name, replacement))
        yield counts


def _without_numbers(message: str) -> str:
    message = re.sub(r"'[^']*'|b'.*'|[0-9a-f]{8}|0x[0-9a-f]+", "_", message)
    return re.sub(r"-?[0-9][0-9,.]*(\^[0-9]+)?|_ ?_", "#", message)[:90]
