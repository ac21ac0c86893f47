"""Changes of a file: a list of small steps, drawn by hypothesis or by a seed, each of which aims at one kind of fault."""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass

from zoo import partitionings

from .seeds import TARGETS, files
from .tokens import HEADER, Token, put_together

NUMBERS = sorted({0, 1, 2, 3, 5, 7, 9, 13, 14, 31, 40, 41, 63, 64, 100, 127, 128, 255, 256, 300, 511, 512, 784, 1000, 4096, 4097}
                 | {2**k + d for k in (10, 13, 14, 15, 16, 18, 20, 24, 31, 32, 40) for d in (-1, 0, 1)})  # fmt: skip
NAMES = ["", "paper", "layers", "scalar", "static", "raw", "context", "classes", "codebook", "float32", "sq", "dft", "orth:1",
         "orth:999999999", "orth:x", "x" * 63, "lenet300-100:10", "lenet300-100:1", "resnet50:32768", *TARGETS]  # fmt: skip
KINDS = ("number", "near", "negate", "repeat", "drop", "swap", "splice", "name", "bytes", "group", "retarget", "stream", "junk",
         "cut", "flip")  # fmt: skip


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
    tokens, stream, groups, flips = list(seed.tokens), seed.stream, list(seed.groups), []
    for change in program.changes:
        if change.kind == "flip":
            flips.append(change)
        elif change.kind in ("stream", "junk", "cut"):
            stream = _stream(change, stream)
        else:
            tokens = _tokens(change, tokens, groups)
    blob = put_together(tokens, stream)
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


def _tokens(change: Change, tokens: list[Token], groups: list[int]) -> list[Token]:
    if change.kind == "retarget":
        return _retarget(change, tokens, groups)
    if change.kind == "group":  # the tokens of one group, once more or instead of another
        begins = [*groups, len(tokens)]
        i, j = int(change.where * len(groups)), int(change.size * len(groups))
        piece = tokens[begins[i] : begins[i + 1]]
        return tokens[: begins[j]] + piece + tokens[begins[j + change.value % 2] :]
    begin = HEADER if change.value % 16 else 0  # the header is easily wrong: seldom
    if len(tokens) <= begin:
        return tokens
    at = begin + int(change.where * (len(tokens) - begin))
    token = tokens[at]
    if change.kind == "name":
        names = [i for i, token in enumerate(tokens) if token.method == "text"]
        at = names[int(change.where * len(names))]
        return [*tokens[:at], Token("text", 0, NAMES[change.value % len(NAMES)]), *tokens[at + 1 :]]
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
        donor = files()[change.value % len(files())].tokens
        start = HEADER + int(change.size * max(len(donor) - HEADER, 0))
        return tokens[:at] + donor[start : start + length] + tokens[at + change.value % 2 * length :]
    value = token.value
    if isinstance(value, bytes):
        value = random.Random(change.value).randbytes(len(value)) if change.kind == "bytes" else value[:-1]
    elif isinstance(value, int):
        value = {"number": NUMBERS[change.value % len(NUMBERS)], "near": value + (change.value % 7 - 3), "negate": -value,
                 "bytes": change.value}[change.kind]  # fmt: skip
    return [*tokens[:at], Token(token.method, token.argument, value), *tokens[at + 1 :]]


def _retarget(change: Change, tokens: list[Token], groups: list[int]) -> list[Token]:
    """The file of another network, all of whose groups look like those that are there: bombs grow with networks."""
    network, name = TARGETS[change.value % len(TARGETS)], ("paper", "layers")[change.value // 16 % 2]
    target = partitionings.get(network, name)
    begins = [*groups, len(tokens)]
    header = [Token("text", 0, network), Token("text", 0, "" if name == "paper" else name),
              Token("varint", 0, target.parameters), Token("varint", 0, len(target.groups))]  # fmt: skip
    inner: list[Token] = []
    for i in range(len(target.groups)):
        chosen = int(change.where * len(groups)) if change.value // 32 % 2 else i % len(groups)
        inner += tokens[begins[chosen] : begins[chosen + 1]]
    return header + inner
