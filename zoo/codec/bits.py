"""Bytes and bits of the side information: varints, short strings, exponential-Golomb codes (FORMAT.md, section 2)."""

from __future__ import annotations

from zoo.codec.work import Work
from zoo.errors import CorruptArtifact, TruncatedArtifact

WINDOW = 512  # bytes


class Writer:
    """Collects bytes; `bits` are packed most significant first and padded with zeros when bytes follow."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._bits, self._pending = 0, 0
        self.work = Work()  # steps that it will take to read what was written

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
        self._pending = self._pending << count | value
        self._bits += count
        while self._bits >= 8:
            self._bits -= 8
            self._bytes.append(self._pending >> self._bits)
            self._pending &= (1 << self._bits) - 1

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
    """Reads what `Writer` wrote, raising `TruncatedArtifact` or `CorruptArtifact` instead of running past the end.

    Bits come from a window of the data, written out as a string of zeros and ones: searching it is fast.
    """

    def __init__(self, data: bytes | memoryview) -> None:
        self.data = memoryview(data)
        self.position = 0  # bytes
        self.work = Work()
        # The window, its first byte in the data and the next bit in it; the window is empty while whole bytes are read.
        self._window, self._start, self._at = "", 0, 0

    def raw(self, count: int) -> memoryview:
        self.align()
        piece = self.data[self.position : self.position + count]
        if len(piece) < count:
            end = f"the file ends at byte {len(self.data)}"
            raise TruncatedArtifact(f"{end}; {count} bytes were expected at byte {self.position}")
        self.position += count
        return piece

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
        at = self._ahead(count)
        if not count:
            return 0
        self._advance(count)
        return int(self._window[at : at + count], 2)

    def golomb(self, k: int = 0) -> int:
        at = self._ahead(1)
        leading = self._window.find("1", at)
        if leading < 0 or leading - at > 32 or leading + leading - at + k >= len(self._window):  # the window is too short
            at = self._ahead(33, exact=False)
            leading = self._window.find("1", at, at + 33)
            if leading < 0:
                self._ahead(33)
                raise CorruptArtifact(f"an integer of more than 32 bits at byte {self.position}")
            at = self._ahead(2 * (leading - at) + 1 + k)
            leading = self._window.find("1", at)
        end = leading + leading - at + k + 1
        self._advance(end - at)
        return int(self._window[leading:end], 2) - (1 << k)

    def signed(self, k: int = 0) -> int:
        value = self.golomb(k)
        return (value + 1) // 2 if value % 2 else -(value // 2)

    def align(self) -> None:
        """Skips the remaining bits of the current byte, which must be zero."""
        if self._at % 8 and "1" in self._window[self._at : -(-self._at // 8) * 8]:
            raise CorruptArtifact(f"padding bits that are not zero at byte {self.position - 1}")
        self._window, self._at = "", 0

    def _advance(self, count: int) -> None:
        self._at += count
        self.position = self._start + (self._at + 7 >> 3)

    def _ahead(self, count: int, exact: bool = True) -> int:
        """The place of the next bit in a window that holds `count` bits from there; fewer if not exact and the file ends."""
        if self._at + count > len(self._window):
            begin = self.position - (self._at % 8 > 0)
            size = min(len(self.data) - begin, WINDOW)
            data = self.data[begin : begin + size]
            self._window = format(int.from_bytes(data, "big"), f"0{8 * size}b") if size else ""
            self._start, self._at = begin, self._at % 8
            if exact and self._at + count > len(self._window):
                raise TruncatedArtifact(f"the file ends at byte {len(self.data)}, inside a table")
        return self._at


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _printable(byte: int) -> bool:
    return 32 < byte < 127
