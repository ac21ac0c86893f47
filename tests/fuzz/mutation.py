"""Changes of a file: a list of small steps, drawn by hypothesis or by a seed, each of which aims at one kind of fault."""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass, replace

from zoo import partitionings
from zoo.codec import Description, described

from .seeds import TARGETS, files
from .tokens import File, Token, put_together

NUMBERS = sorted({0, 1, 2, 3, 5, 7, 9, 13, 14, 31, 40, 41, 63, 64, 100, 127, 128, 255, 256, 300, 511, 512, 784, 1000, 4096, 4097}
                 | {2**k + d for k in (10, 13, 14, 15, 16, 18, 20, 24, 31, 32, 40) for d in (-1, 0, 1)})  # fmt: skip
NAMES = ["", "paper", "layers", "scalar", "static", "raw", "context", "classes", "codebook", "float32", "sq", "dft", "orth:1",
         "orth:999999999", "orth:x", "exact", "live", "interleaved", "pool:4", "timm/resnet18:5", "x" * 63, "lenet300-100:10",
         "lenet300-100:1", "resnet50:32768", *TARGETS]  # fmt: skip
STRINGS = ["", ".", "a", "a.b", "weight", "0", "é" * 512, "x" * 1024, "x" * 1025, "\0", "\x7f", "\u202e", b"\xff\xfe",
           b"\xc0\x80", b"\xed\xa0\x80"]  # fmt: skip
KINDS = ("number", "near", "negate", "repeat", "drop", "swap", "splice", "name", "bytes", "group", "retarget", "stream", "junk",
         "cut", "flip", "version")  # fmt: skip


@dataclass(frozen=True)
class Change:
    """kind: what to do; where, size: fractions in [0, 1) of what there is to choose from; value: any integer."""

    kind: str
    where: float
    size: float
    value: int


@dataclass(frozen=True)
class Program:
    """A seed file and the changes to it."""

    seed: int
    changes: tuple[Change, ...]


def draw(source: random.Random) -> Program:
    """A program for a case of `python -m tests.fuzz`: the same for the same state of the source."""
    changes = [Change(source.choice(KINDS), source.random(), source.random(), source.getrandbits(32))
               for _ in range(source.choice((1, 1, 2, 2, 3, 5, 8)))]  # fmt: skip
    return Program(source.getrandbits(32), tuple(changes))


def run(program: Program) -> bytes:
    """The file that the program makes."""
    seed = files()[program.seed % len(files())]
    file, flips = replace(seed, tokens=list(seed.tokens)), []
    for change in program.changes:
        if change.kind == "flip":
            flips.append(change)
        elif change.kind == "version":
            file.version ^= 3  # 1 becomes 2, and 2 becomes 1
        elif change.kind in ("stream", "junk", "cut"):
            file.stream = _stream(change, file.stream)
        else:
            file.tokens = _tokens(change, file.tokens, seed)
    blob = put_together(file.tokens, file.stream, file.version)
    if not flips:
        return blob
    body = bytearray(blob)
    for change in flips:
        body[int(change.where * len(body))] ^= 1 << change.value % 8
    return bytes(body[:-4]) + zlib.crc32(body[:-4]).to_bytes(4, "little")


def _stream(change: Change, stream: bytes) -> bytes:
    at = int(change.where * (len(stream) + 1))
    noise = random.Random(change.value).randbytes(int(change.size**3 * 400) + 1)
    if change.kind == "cut":
        return stream[:at]
    if change.kind == "junk":
        return noise + b"\1"
    return stream[:at] + noise + stream[at + len(noise) * (change.value % 2) :]


def _tokens(change: Change, tokens: list[Token], seed: File) -> list[Token]:
    groups = seed.groups
    if change.kind == "retarget":
        return (_retarget if seed.version == 1 else _redescribe)(change, tokens, seed)
    if change.kind == "group":  # the tokens of one group, once more or instead of another
        begins = [*groups, len(tokens)]
        i, j = int(change.where * len(groups)), int(change.size * len(groups))
        piece = tokens[begins[i] : begins[i + 1]] if groups else []
        return tokens[: begins[j]] + piece + tokens[begins[min(j + change.value % 2, len(groups))] :]
    # A header of version 1 is easily wrong: seldom. That of version 2 is most of such a file.
    begin = seed.header if change.value % (16 if seed.version == 1 else 2) else 0
    if len(tokens) <= begin:
        return tokens
    at = begin + int(change.where * (len(tokens) - begin))
    token = tokens[at]
    if change.kind == "name":
        texts = [i for i, token in enumerate(tokens) if token.method in ("text", "string")]
        if not texts:
            return tokens
        at = texts[int(change.where * len(texts))]
        choice = NAMES if tokens[at].method == "text" else STRINGS
        return [*tokens[:at], Token(tokens[at].method, 0, choice[change.value % len(choice)]), *tokens[at + 1 :]]
    length = 1 + int(change.size**2 * 40)
    if change.kind == "repeat":
        return tokens[:at] + tokens[at : at + length] * (1 + change.value % 40) + tokens[at + length :]
    if change.kind == "drop":
        return tokens[:at] + tokens[at + length :]
    if change.kind == "swap":
        other = begin + int(change.size * (len(tokens) - begin))
        tokens = list(tokens)
        tokens[at], tokens[other] = tokens[other], tokens[at]
        return tokens
    if change.kind == "splice":
        donor = files()[change.value % len(files())]
        start = donor.header + int(change.size * (len(donor.tokens) - donor.header))
        return tokens[:at] + donor.tokens[start : start + length] + tokens[at + change.value % 2 * length :]
    value = token.value
    if token.method == "string":
        value = STRINGS[change.value % len(STRINGS)]
    elif isinstance(value, bytes):
        value = random.Random(change.value).randbytes(len(value)) if change.kind == "bytes" else value[:-1]
    elif isinstance(value, int):
        value = {"number": NUMBERS[change.value % len(NUMBERS)], "near": value + (change.value % 7 - 3), "negate": -value,
                 "bytes": change.value}[change.kind]  # fmt: skip
    return [*tokens[:at], Token(token.method, token.argument, value), *tokens[at + 1 :]]


def _retarget(change: Change, tokens: list[Token], seed: File) -> list[Token]:
    """The file of another network, all of whose groups look like those that are there: bombs grow with networks."""
    network, name = TARGETS[change.value % len(TARGETS)], ("paper", "layers")[change.value // 16 % 2]
    target = partitionings.get(network, name)
    header = [Token("text", 0, network), Token("text", 0, "" if name == "paper" else name),
              Token("varint", 0, target.parameters), Token("varint", 0, len(target.groups))]  # fmt: skip
    return header + _groups(change, tokens, seed, len(target.groups))


def _redescribe(change: Change, tokens: list[Token], seed: File) -> list[Token]:
    """A table of other or of more tensors, in a header whose bytes are right, over groups that look like those that are there."""
    draw = random.Random(change.value)
    before, kind = seed.description, draw.choice(("shape", "longer", "kinds", "groups", "deep"))
    rows, dtypes = list(before.tensors), list(before.dtypes)
    members = [row for row, tensor in enumerate(rows) if tensor.group is not None]
    if kind == "shape" and members:  # up to what a file may describe, and beyond it
        row = draw.choice(members)
        rows[row] = replace(rows[row], shape=tuple(draw.choice(NUMBERS[:50]) for _ in range(draw.randrange(5))))
    elif kind == "longer" and members:
        tensor = rows[draw.choice(members)]
        rows += [replace(tensor, name=f"{tensor.name}.{i}") for i in range(draw.choice((1, 30, 300)))]
    elif kind == "kinds":
        dtypes = [draw.choice(tuple(described.DTYPES)) for _ in dtypes]
    elif kind == "groups":
        added = draw.choice((1, 5, 50))
        rows += [described.Tensor(f"more.{i}", draw.choice(((3, 4), (4, 2, 3, 3), (1000, 1000), ())), len(dtypes) + i)
                 for i in range(added)]  # fmt: skip
        dtypes += [draw.choice(tuple(described.DTYPES)) for _ in range(added)]
    elif kind == "deep":  # long names that share their words
        words = ".".join(draw.choice(("w", "weight", "x" * 7)) for _ in range(draw.choice((5, 120))))
        rows += [described.Tensor(f"{words}.{i}", (), None, 0) for i in range(draw.choice((3, 300)))] if members else []
    description = Description(before.network, tuple(dtypes), tuple(rows), before.picture, before.classes)
    return [Token("raw", 0, described._header(description)), *_groups(change, tokens, seed, len(dtypes))]


def _groups(change: Change, tokens: list[Token], seed: File, count: int) -> list[Token]:
    """The tokens of so many groups, those that are there in turn or one of them again and again."""
    begins, there = [*seed.groups, len(tokens)], len(seed.groups)
    chosen = [int(change.where * there) if change.value // 32 % 2 else i % max(there, 1) for i in range(count if there else 0)]
    return [token for i in chosen for token in tokens[begins[i] : begins[i + 1]]]
