"""One budget of work for a whole file, spent before anything is expanded (FORMAT.md, section 7).

Work is counted in steps of about ten nanoseconds. Whoever reads or codes spends the steps of a piece of work before doing it:

    reader.work, writer.work    side information: stored weights, tables, rows of contexts
    coder.work                  the stream: symbols, rectangles, escaped integers

The limit follows from the length of the file and from the numbers of the network that it names. An encoder counts the same
steps and chooses within the limit; a reader raises `CorruptArtifact` at the first step beyond it.
"""

from __future__ import annotations

import math

from zoo.errors import CorruptArtifact

STORED = 100  # a weight of a table, or one flag of a context, read from the file
TABLE = 5_000  # a table beside its entries; an alphabet of one integer, which needs none, takes a tenth
ENTRY = 2  # a symbol of a table
SYMBOL = 3  # a symbol of the stream
ESCAPED = 64  # an escaped integer: what matters is the memory it takes
DECISION = 300  # one that depends on those before, and the counts that it moves (live.py)
GROUP = 3_000  # a group of a file that describes itself (described.py)
BASIS = 25  # times l^3: an orthogonal basis of kernels of l numbers, drawn from a seed
RECTANGLE = 512  # of one class (classes.py)


class Work:
    """Steps spent so far, and how many there may be."""

    def __init__(self, limit: float = math.inf):
        self.limit, self.steps = limit, 0

    def spend(self, steps: int, cause: str) -> None:
        """Counts steps, before they are taken. Raises `CorruptArtifact` when the file asks for more than it may."""
        self.steps += steps
        if self.steps > self.limit:
            limit = f"{self.limit:,} steps to decode, its length and its network allow no more"
            raise CorruptArtifact(f"{cause} would take the file beyond the {limit}")


def most_steps(length: int, numbers: int) -> int:
    """What a file of so many bytes, of a network of so many numbers, may take."""
    return 2 * 10**7 + 4 * numbers + min(1000 * length, 5 * 10**7 + 20 * numbers, 12 * 10**7)


def quick_steps(numbers: int) -> int:
    """What a writer aims at: some 20 million numbers a second, or a fifth of a second for small networks."""
    return max(2 * 10**7, 5 * numbers)


def most_bytes(numbers: int) -> int:
    """How long the file of a network of so many numbers may be: four bytes a number, and what small files need."""
    return (1 << 20) + 4 * numbers
