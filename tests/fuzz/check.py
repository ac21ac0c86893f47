"""One case: the file is decoded, all that the decoder really does is counted, and the outcome gets a class."""

from __future__ import annotations

import contextlib
import re
import time
from collections import Counter
from dataclasses import dataclass
from unittest import mock

import numpy as np

from zoo import codec, reparam
from zoo.codec import ans, classes, context, entropy, interleaved
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
    allowed, begin = 0, time.process_time()
    with counting() as counts:
        try:
            header, groups = codec.decode(blob, layout)
            shapes = layout(header)
            for name, coded in groups.items():
                arrays = reparam.decode(coded.decoder, coded.phi, coded.psi, list(shapes[name]))
                assert [a.shape for a in arrays] == [tuple(shape) for shape in shapes[name]]
                assert all(a.dtype == np.float32 and np.isfinite(a).all() for a in arrays), "a weight is not finite"
            kind = "decoded"
        except CorruptArtifact as error:
            kind = f"{type(error).__name__}: {_without_numbers(str(error))}"
            assert 15 < len(str(error)) < 400 and "\n" not in str(error), error
        except AssertionError:
            raise
        except BaseException as error:  # also the panics of constriction
            raise AssertionError(f"{type(error).__name__}: {error}") from error
    seconds = time.process_time() - begin
    with contextlib.suppress(CorruptArtifact):
        shapes = layout(codec.read_header(blob))
        allowed = most_steps(len(blob), sum(int(np.prod(shape)) for tensors in shapes.values() for shape in tensors))
    outcome = Outcome(kind, counts, allowed, seconds)
    assert outcome.steps <= allowed, f"{outcome.steps:,} steps of {allowed:,}: {dict(counts)}"
    return outcome


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
            (interleaved, "pop_escapes", count_escaped),
        ):
            stack.enter_context(mock.patch.object(target, name, replacement))
        yield counts


def _without_numbers(message: str) -> str:
    message = re.sub(r"'[^']*'|b'.*'|[0-9a-f]{8}|0x[0-9a-f]+", "_", message)
    return re.sub(r"-?[0-9][0-9,.]*(\^[0-9]+)?|_ ?_", "#", message)[:90]
