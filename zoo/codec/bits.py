"""Bytes and bits of the side information: varints, short strings, exponential-Golomb codes (FORMAT.md, section 2)."""

from __future__ import annotations

from zoo.errors import CorruptArtifact, TruncatedArtifact


class Writer:
    """Collects bytes; `bits` are packed most significant first and padded with zeros when bytes follow."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._bits, self._held = 0, 0
        self.steps = 0  # that decoding the contexts written so far takes, see context.py

    def raw(self, data: bytes) -> None:
        self.align()
        self._bytes += data

    def varint(self, value: int) -> None:
        """LEB128, unsigned."""
        self.raw(varint(value))

    def text(self, value: str) -> None:
        """One byte of length, then printable ASCII without spaces. Raises ValueError for another name, or a longer one."""
        data = value.encode("ascii")
        if len(data) > 63:
            raise ValueError(f"name {value!r} is longer than 63 characters")
        if not all(map(_printable, data)):
            raise ValueError(f"name {value!r} is not printable ASCII without spaces")
        self.raw(bytes([len(data)]) + data)

    def bits(self, value: int, count: int) -> None:
        self._held = self._held << count | value
        self._bits += count
        while self._bits >= 8:
            self._bits -= 8
            self._bytes.append(self._held >> self._bits)
            self._held &= (1 << self._bits) - 1

    def golomb(self, value: int, k: int = 0) -> None:
        """Exponential-Golomb code of order k of an integer >= 0."""
        value += 1 << k
        width = value.bit_length()
        self.bits(0, width - 1 - k)
        self.bits(value, width)

    def signed(self, value: int, k: int = 0) -> None:
        """Exponential-Golomb code of 0, 1, -1, 2, -2, ..."""
        self.golomb(2 * value - 1 if value > 0 else -2 * value, k)

    def align(self) -> None:
        if self._bits:
            self.bits(0, 8 - self._bits)

    def __len__(self) -> int:
        return len(self._bytes) + (self._bits > 0)

    def to_bytes(self) -> bytes:
        self.align()
        return bytes(self._bytes)


class Reader:
    """Reads what `Writer` wrote, raising `TruncatedArtifact` or `CorruptArtifact` instead of running past the end."""

    def __init__(self, data: bytes | memoryview) -> None:
        self.data = memoryview(data)
        self.position = 0  # bytes
        self._bits, self._held = 0, 0
        self.steps = 0  # that decoding the contexts read so far takes, see context.py

    def raw(self, count: int) -> memoryview:
        self.align()
        part = self.data[self.position : self.position + count]
        if len(part) < count:
            found = f"the file ends at byte {len(self.data)}"
            raise TruncatedArtifact(f"{found}; {count} bytes were expected at byte {self.position}")
        self.position += count
        return part

    def varint(self) -> int:
        value = 0
        for shift in range(0, 63, 7):
            (byte,) = self.raw(1)
            value |= (byte & 127) << shift
            if byte == 0 and shift:
                raise CorruptArtifact(f"an integer with needless bytes at byte {self.position - 1}")
            if byte < 128:
                return value
        raise CorruptArtifact(f"an integer of more than nine bytes at byte {self.position}")

    def text(self) -> str:
        (length,) = self.raw(1)
        if length > 63:
            raise CorruptArtifact(f"a name of {length} characters at byte {self.position}; at most 63 are allowed")
        data = bytes(self.raw(length))
        if not all(map(_printable, data)):
            raise CorruptArtifact(f"a name that is not printable ASCII at byte {self.position - length}: {data!r}")
        return data.decode("ascii")

    def bits(self, count: int) -> int:
        while self._bits < count:
            if self.position >= len(self.data):
                raise TruncatedArtifact(f"the file ends at byte {len(self.data)}, inside a table")
            self._held = self._held << 8 | self.data[self.position]
            self.position += 1
            self._bits += 8
        self._bits -= count
        value = self._held >> self._bits
        self._held &= (1 << self._bits) - 1
        return value

    def golomb(self, k: int = 0) -> int:
        zeros = 0
        while not self.bits(1):
            zeros += 1
            if zeros > 32:
                raise CorruptArtifact(f"an integer of more than 32 bits at byte {self.position}")
        width = zeros + k
        return (1 << width | self.bits(width)) - (1 << k)

    def signed(self, k: int = 0) -> int:
        value = self.golomb(k)
        return (value + 1) // 2 if value % 2 else -(value // 2)

    def align(self) -> None:
        if self._held:
            raise CorruptArtifact(f"padding bits that are not zero at byte {self.position - 1}")
        self._bits = 0


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _printable(byte: int) -> bool:
    return 32 < byte < 127
