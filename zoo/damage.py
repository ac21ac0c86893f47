"""Where a model file is damaged, found from its CRC-32 and the recorded SHA-256 alone.

One wrong, missing or surplus byte can be located, because the register of a CRC runs both ways:

    magic ... ──F[p]──> register before byte p        register before byte p <──B[p]── ... stored checksum

The damage is at p where one byte v leads from F[p] to B[p + 1] (wrong), from F[p] to B[p] (missing), or none is needed
(surplus). The repaired file must have the recorded SHA-256, so a find is certain.
"""

from __future__ import annotations

import hashlib
import zlib
from array import array
from dataclasses import dataclass

LIMIT = 1 << 25  # bytes; the search takes about half a microsecond a byte

_TABLE = [zlib.crc32(bytes([i]), 0xFFFFFFFF) ^ 0xFFFFFFFF for i in range(256)]  # register after byte i, from zero
_FROM_HIGH = {entry >> 24: i for i, entry in enumerate(_TABLE)}
_FROM_ENTRY = {entry: i for i, entry in enumerate(_TABLE)}


@dataclass(frozen=True)
class Damage:
    """One damaged byte: its offset, what happened to it, and the file as it was."""

    offset: int
    kind: str  # wrong | missing | surplus
    repaired: bytes

    def __str__(self) -> str:
        where = f"byte {self.offset:,}"
        if self.kind == "surplus":
            return f"{where} does not belong there"
        was = f"0x{self.repaired[self.offset]:02x}"
        return f"{where} is missing, it was {was}" if self.kind == "missing" else f"{where} is wrong, it was {was}"


def locate(blob: bytes, size: int, sha256: str) -> Damage | None:
    """The one byte in which `blob` differs from the file of `size` bytes with that digest; None if it is not one byte."""
    kinds = {0: "wrong", -1: "missing", 1: "surplus"}
    if len(blob) - size not in kinds or not 8 < len(blob) <= LIMIT:
        return None
    kind = kinds[len(blob) - size]
    candidates = (repaired for find in (_in_checksum, _in_body) for repaired in find(blob, size, kind))
    for offset, repaired in candidates:
        if len(repaired) == size and hashlib.sha256(repaired).hexdigest() == sha256:
            return Damage(offset, kind, repaired)
    return None


def _in_checksum(blob: bytes, size: int, kind: str):
    """The body is whole, so its checksum can be computed anew."""
    whole = blob[: size - 4]
    whole += zlib.crc32(whole).to_bytes(4, "little")
    first = next((i for i, (a, b) in enumerate(zip(blob, whole, strict=False)) if a != b), min(len(blob), size))
    yield first, whole


def _in_body(blob: bytes, size: int, kind: str):
    body = blob[:-4]
    forward, backward = _forward(body), _backward(body, int.from_bytes(blob[-4:], "little"))
    for p in range(len(body) + (kind == "missing")):
        if kind == "surplus":
            if forward[p] == backward[p + 1]:
                yield p, blob[:p] + blob[p + 1 :]
            continue
        index = _FROM_ENTRY.get(forward[p] >> 8 ^ backward[p + (kind == "wrong")])
        if index is not None:
            value = bytes([(forward[p] ^ index) & 255])
            yield p, blob[:p] + value + blob[p + (kind == "wrong") :]


def _forward(body: bytes) -> array:
    """Registers before each byte and after the last."""
    state, out = 0xFFFFFFFF, array("I", [0xFFFFFFFF])
    for byte in body:
        state = state >> 8 ^ _TABLE[(state ^ byte) & 255]
        out.append(state)
    return out


def _backward(body: bytes, checksum: int) -> array:
    """The registers that would lead to the stored checksum."""
    state = checksum ^ 0xFFFFFFFF
    out = array("I", [state])
    for byte in reversed(body):
        index = _FROM_HIGH[state >> 24]
        state = (state ^ _TABLE[index]) << 8 & 0xFFFFFFFF | index ^ byte
        out.append(state)
    out.reverse()
    return out
