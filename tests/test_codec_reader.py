"""A reader written from FORMAT.md alone, against the library: the page, the writer and constriction must agree.

`read` below uses nothing of zoo and nothing but the standard library. It reads all entropy models but `context`, which
has a reader of its own in test_context.py.
"""

import functools
import itertools
import math
import random
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo import codec, reparam
from zoo.codec import ans
from zoo.codec.ans import ConstrictionAns, PythonAns, Table

FORMAT = Path(codec.__file__).with_name("FORMAT.md").read_text()


# ---- the reader ----------------------------------------------------------------------------------------------------


class Bytes:
    def __init__(self, data):
        self.data, self.at, self.left = data, 0, []

    def raw(self, count):
        assert not any(self.left), "padding"
        self.left, self.at = [], self.at + count
        assert self.at <= len(self.data)
        return self.data[self.at - count : self.at]

    def varint(self):
        value, shift = 0, 0
        while True:
            byte = self.raw(1)[0]
            value, shift = value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    def text(self):
        return self.raw(self.raw(1)[0]).decode("ascii")

    def bits(self, count):
        while len(self.left) < count:
            self.left, (byte,) = self.left, self.data[self.at : self.at + 1]
            self.at += 1
            self.left += [byte >> i & 1 for i in range(7, -1, -1)]
        taken, self.left = self.left[:count], self.left[count:]
        return int("".join(map(str, taken)) or "0", 2)

    def eg(self, k):
        zeros = 0
        while self.bits(1) == 0:
            zeros += 1
        return (1 << zeros + k) + self.bits(zeros + k) - (1 << k)

    def sg(self, k):
        z = self.eg(k)
        return (z + 1) // 2 if z % 2 else -z // 2


class Edges(list):
    """The e of a table, and its n."""


def edges(w):
    n = [x * 2**24 // sum(w) for x in w]
    n[w.index(max(w))] += 2**24 - sum(n)
    table = Edges(sum(n[:i]) * (2**24 - len(w)) // 2**24 + i for i in range(len(w) + 1))
    table.n = n
    return table


BYTES = edges([1] * 256)


class Stream:
    def __init__(self, data):
        self.words = list(struct.unpack(f"<{-(-len(data) // 4)}I", data + bytes(-len(data) % 4)))
        self.state = 0
        for _ in range(2):
            self.refill()

    def refill(self):
        if self.words:
            self.state = self.state * 2**32 + self.words.pop()

    def symbol(self, e):
        q = self.state % 2**24
        i = next(i for i in range(len(e) - 1) if e[i] <= q < e[i + 1])
        self.state = self.state // 2**24 * (e[i + 1] - e[i]) + q - e[i]
        if self.state < 2**32:
            self.refill()
        return i


def read_alphabet(data):
    low, span, escape = data.sg(2), data.eg(2), data.bits(1)
    if span == 0 and not escape:
        return low, 0, None, None
    m, c, x, weights = data.bits(3), data.eg(0), 0, []
    for _ in range(span // 2**c + 1 + escape):
        x += data.sg(0)
        weights.append((2**m + data.bits(m)) * 2 ** (x - 1) if x else 0)
    expanded = [weights[i // 2**c] for i in range(span + 1)] + weights[len(weights) - escape :]
    return low, span, escape, edges(expanded)


def read_column(stream, d, alphabet):
    low, span, escape, e = alphabet
    if e is None:
        return [low] * d
    return escaped(stream, low, span, [stream.symbol(e) for _ in range(d)])


def escaped(stream, low, span, symbols):
    waiting, values, shift = [i for i, s in enumerate(symbols) if s > span], {}, 0
    while waiting:
        codes = [stream.symbol(BYTES) for _ in waiting]
        for i, byte in zip(waiting, codes, strict=True):
            values[i] = values.get(i, 0) + (byte % 128 << shift)
        waiting, shift = [i for i, byte in zip(waiting, codes, strict=True) if byte >= 128], shift + 7
    outside = {i: low - 1 - v // 2 if v % 2 else low + span + 1 + v // 2 for i, v in values.items()}
    return [outside.get(i, low + s) for i, s in enumerate(symbols)]


class Lanes:
    """Section 5.6: states, and the words of the group that is being read."""

    def __init__(self, count):
        self.states, self.words, self.count = None, [], count

    def begin(self, words):
        if self.states is None:
            self.states = [words[2 * j] + 2**16 * words[2 * j + 1] for j in range(self.count)]
            words = words[2 * self.count :]
        self.words = list(words)

    def read_column(self, stream, d, alphabet):
        low, span, escape, e = alphabet
        n = e.n
        g = [sum(n[:i]) * (2**14 - len(n)) // 2**24 + i for i in range(len(n) + 1)]
        symbols = []
        for start in range(0, d, self.count):
            lanes = range(min(self.count, d - start))
            for j in lanes:
                x = self.states[j]
                i = next(i for i in range(len(n)) if g[i] <= x % 2**14 < g[i + 1])
                self.states[j] = x // 2**14 * (g[i + 1] - g[i]) + x % 2**14 - g[i]
                symbols.append(i)
            for j in lanes:
                if self.states[j] < 2**16:
                    self.states[j] = self.states[j] * 2**16 + self.words.pop(0)
        return escaped(stream, low, span, symbols)


def read_classes(stream, l, shapes, alphabets, lanes=None):
    """Columns of phi; lanes: those of `interleaved`, which read the narrow classes."""
    planes = [(s[0], s[1], math.prod(s[2:])) if len(s) > 1 else (1, math.prod(s), 1) for s in shapes]
    kinds, tables = alphabets[:4], alphabets[4:]
    base = read_column(stream, len(shapes), kinds[0])
    shares = []
    for axis, kind in zip((2, 0, 1), kinds[1:], strict=True):
        flat = iter(read_column(stream, sum(p[axis] for p in planes), kind))
        shares.append([list(itertools.islice(flat, p[axis])) for p in planes])
    members = [[] for _ in tables]
    for t, (o, i, p) in enumerate(planes):
        place, row, column = (share[t] for share in shares)
        rows = [list(run) for _, run in itertools.groupby(sorted(range(o), key=row.__getitem__), key=row.__getitem__)]
        columns = [list(run) for _, run in itertools.groupby(sorted(range(i), key=column.__getitem__), key=column.__getitem__)]
        for q, across, down in itertools.product(range(p), rows, columns):
            k = min(max(base[t] + place[q] + row[across[0]] + column[down[0]], 0), len(tables) - 1)
            members[k] += [(t, a, b, q) for a in across for b in down]
    result = {}
    for where, table in zip(members, tables, strict=True):
        narrow = lanes is not None and table[3] is not None and len(table[3]) - 1 <= 256
        column = lanes.read_column(stream, len(where), table) if narrow else read_column(stream, len(where), table)
        result |= zip(where, column, strict=True)
    flat = [result[t, a, b, q] for t, (o, i, p) in enumerate(planes) for a in range(o) for b in range(i) for q in range(p)]
    return [flat[j::l] for j in range(l)]


class Decisions:
    """Symbols 0 and 1, by how often each came before."""

    def __init__(self, stream):
        self.stream, self.before = stream, {}

    def weighed(self, zero, one):
        return self.stream.symbol(edges([zero, one]))

    def counted(self, what):
        before = self.before.setdefault(what, [0, 0])
        answer = self.weighed(1 + 2 * before[0], 1 + 2 * before[1])
        before[answer] += 1
        return answer


def read_mask(decisions, what, count, g):
    answers = []
    for j in range(count - 1):
        context = answers[j - 1] if j >= 1 else 1, answers[j - g] if j >= g else 0
        answers.append(decisions.counted((what, *context)))
    return [j for j, answer in enumerate([*answers, 1]) if answer]


def read_live_size(decisions):
    for size in range(1, 14):
        if not decisions.counted(size):
            return size
    digits = "1"
    while decisions.weighed(1, 1):
        digits += "x"
    return 14 + int("".join(str(decisions.weighed(1, 1)) if d == "x" else d for d in digits), 2) - 1


def read_live(stream, l, shapes, sides):
    """Columns of phi."""
    flat = []
    for shape, side in zip(shapes, sides, strict=True):
        o, i, p = (shape[0], shape[1], math.prod(shape[2:])) if len(shape) > 1 else (1, math.prod(shape), 1)
        cells = [0] * (o * i * p)
        if side is not None:
            rows, columns, a, b, g = side
            decisions = Decisions(stream)
            rows, columns = read_mask(decisions, "rows", rows, 1), read_mask(decisions, "columns", columns, g)
            all_of, in_column = [0, 0], {column: [0, 0] for column in columns}
            for row in rows:
                in_row = [0, 0]
                for column, place in itertools.product(columns, range(p)):
                    zeros, others = 1 + 2 * all_of[0], 1 + 2 * all_of[1]
                    ratio = [others, zeros]
                    for counts, prior in ((in_row, a), (in_column[column], b)):
                        for bit, whole in enumerate((zeros, others)):
                            ratio[bit] *= whole if prior == 7 else counts[bit] * (zeros + others) + 2**prior * whole
                    while max(ratio) >= 2**38:
                        ratio = [x // 2 for x in ratio]
                    bit = decisions.weighed(*(max(x, 1) for x in ratio))
                    for counts in (all_of, in_row, in_column[column]):
                        counts[bit] += 1
                    if bit:
                        negative = decisions.counted("sign")
                        cells[(row * i + column) * p + place] = read_live_size(decisions) * (-1 if negative else 1)
        flat += cells
    return [flat[j::l] for j in range(l)]


@functools.cache
def basis(decoder, k):
    def grid(x):
        return round(x * 2**40) / 2**40

    if decoder == "dft":
        rows = [[math.sqrt(1 / k)] * k]
        for f in range(1, (k + 1) // 2):
            rows.append([math.sqrt(2 / k) * math.cos(2 * math.pi * f * n / k) for n in range(k)])
            rows.append([math.sqrt(2 / k) * math.sin(2 * math.pi * f * n / k) for n in range(k)])
        if k % 2 == 0:
            rows.append([math.sqrt(1 / k) * math.cos(math.pi * n) for n in range(k)])
    else:
        draw, rows = random.Random(int(decoder[5:])), []
        for _ in range(k * k):
            row = [sum(draw.getrandbits(32) for _ in range(12)) / 2**32 - 6.0 for _ in range(k * k)]
            for b in rows + rows:
                dot = 0.0
                for x, y in zip(row, b, strict=True):
                    dot += x * y
                row = [x - dot * y for x, y in zip(row, b, strict=True)]
            square = 0.0
            for x in row:
                square += x * x
            rows.append([x / math.sqrt(square) for x in row])
    return [[grid(x) for x in row] for row in rows]


def pool(decoder, shape, rows):
    """Rows of one integer, with the first of its block of pixels added to each other."""
    side = int(decoder[5:]) if decoder.startswith("pool:") else 0
    if not side or len(shape) != 2 or not shape[1] or shape[1] % side**2:
        return rows
    added = []
    for n, (phi,) in enumerate(rows):
        y, x = n // side % side, n % side
        first = n - y % 2 * side - x % 2
        added.append((phi + (rows[first][0] if first != n else 0),))
    return added


def weights_of(decoder, row, scale, shift, codebook, l):
    if decoder == "float32":
        return list(struct.unpack(f"<{len(row)}f", struct.pack(f"<{len(row)}i", *row)))
    if decoder == "codebook":
        return [codebook[i] for i in row]
    y = [p * a + b for p, a, b in zip(row, scale, shift, strict=True)]
    if decoder in ("scalar", "sq") or decoder.startswith("pool:"):
        return y

    def mix(terms):
        total = None
        for value, factor in terms:
            if factor != 0:
                total = value * factor if total is None else total + value * factor
        return total

    k = math.isqrt(l)
    table = basis(decoder, k)
    if decoder == "dft":
        t = [[mix((y[k * u + v], table[u][a]) for u in range(k)) for v in range(k)] for a in range(k)]
        return [mix((t[a][v], table[v][b]) for v in range(k)) for a in range(k) for b in range(k)]
    return [mix((y[i], table[i][j]) for i in range(l)) for j in range(l)]


def read_psi(data, flags, tensors, l, decoder):
    """The arrays that a group's flags announce: rows of floats each, or None for one that is absent."""
    psi = []
    for field in (flags & 7, flags >> 3 & 7):
        if not field & 1:
            psi.append(None)
            continue
        rows = tensors if field & 2 else 1
        columns = data.varint() if decoder == "codebook" else l
        numbers = data.raw((4 if field & 4 else 2) * rows * columns)
        if not field & 4:
            numbers = b"".join(b"\0\0" + numbers[i : i + 2] for i in range(0, len(numbers), 2))
        flat = struct.unpack(f"<{rows * columns}f", numbers)
        psi.append([flat[i : i + columns] for i in range(0, len(flat), columns)])
    return psi


def read(blob, layouts):
    """Bytes -> (network, partitioning, {group: (phi rows, [weights of each tensor, flat])})."""
    assert blob[:9] == b"\x89ZOO\r\n\x1a\n\x01"
    assert struct.unpack("<I", blob[-4:])[0] == zlib.crc32(blob[:-4])
    data = Bytes(blob[:-4])
    data.raw(9)
    assert data.varint() == len(blob)
    network, partitioning = data.text(), data.text() or "paper"
    layout = layouts[network, partitioning]
    assert data.varint() == sum(math.prod(shape) for shapes in layout.values() for shape in shapes)
    assert data.varint() == len(layout)
    decoder, model, groups = "scalar", "static", []
    for shapes in layout.values():
        (flags,) = data.raw(1)
        if not flags >> 7:
            decoder, model = data.text() or "scalar", data.text() or "static"
        l = 1 if decoder in ("scalar", "codebook", "float32") or decoder.startswith("pool:") else shapes[0][-1] ** 2
        d = sum(map(math.prod, shapes)) // l
        psi = read_psi(data, flags, len(shapes), l, decoder)
        if model == "raw":
            flat = struct.unpack(f"<{d * l}i", data.raw(4 * d * l))
            groups.append((decoder, l, d, shapes, psi, [flat[i::l] for i in range(l)], None))
        elif model == "live" and data.bits(1) == 0:
            sides = []
            for shape in shapes:
                o, i = shape[:2] if len(shape) > 1 else (1, math.prod(shape))
                rows = data.bits(o.bit_length())
                columns = data.bits(i.bit_length()) if rows else 0
                weighed = (data.bits(3), data.bits(3), data.eg(3) + 1) if rows and o > 1 else (7, 7, 1)
                sides.append((rows, columns, *weighed) if rows else None)
            groups.append((decoder, l, d, shapes, psi, None, (model, sides)))
            data.raw(0)
        else:
            assert model in ("static", "classes", "live", "interleaved")
            count = l if model == "static" else 4 + data.eg(3)
            alphabets = [read_alphabet(data) for _ in range(count)]
            if model == "interleaved":
                data.raw(0)
                begins, ends = data.bits(1), data.bits(1)
                before = [group[-1][1][1] for group in groups if group[-1] and group[-1][0] == model]
                lanes = Lanes(2 ** data.bits(4)) if begins else before[-1]
                words = struct.unpack(f"<{(size := data.varint())}H", data.raw(2 * size))
                alphabets = alphabets, lanes, words, ends
            groups.append((decoder, l, d, shapes, psi, None, ("classes" if model == "live" else model, alphabets)))
            data.raw(0)
    assert data.data[-1:] != b"\0" or data.at == len(data.data)
    stream, out = Stream(data.data[data.at :]), {}
    for name, (decoder, l, d, shapes, psi, columns, alphabets) in zip(layout, groups, strict=True):
        if columns is None and alphabets[0] == "classes":
            columns = read_classes(stream, l, shapes, alphabets[1])
        elif columns is None and alphabets[0] == "live":
            columns = read_live(stream, l, shapes, alphabets[1])
        elif columns is None and alphabets[0] == "interleaved":
            tables, lanes, words, ends = alphabets[1]
            lanes.begin(words)
            columns = read_classes(stream, l, shapes, tables, lanes)
            assert not lanes.words and (not ends or set(lanes.states) == {2**16})
        elif columns is None:
            columns = [read_column(stream, d, alphabet) for alphabet in alphabets[1]]
        rows = list(zip(*columns, strict=True))
        tensors, start = [], 0
        for t, shape in enumerate(shapes):
            first, second = ([a[min(t, len(a) - 1)] if a else [0.0] * l for a in psi])
            count = math.prod(shape) // l
            pooled = pool(decoder, shape, rows[start : start + count])
            pieces = [weights_of(decoder, row, first, second, first, l) for row in pooled]
            tensors.append(list(itertools.chain.from_iterable(pieces)))
            start += count
        out[name] = rows, tensors
    assert stream.state == 0 and not stream.words
    return network, partitioning, out


# ---- the page ------------------------------------------------------------------------------------------------------

EXAMPLE_LAYOUT = {"weight": ((4, 6),), "bias": ((4,),)}
EXAMPLE_PHI = [0, 0, 1, 0, -1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, -1, 0, 0, 0, 0, 1, 0, 0, 9]


def example_groups():
    weight, bias = np.array(EXAMPLE_PHI, np.int32)[:, None], np.full((4, 1), 3, np.int32)
    scale, shift = np.array([[0.1]], np.float32), np.array([[-0.5]], np.float32)
    return {
        "weight": codec.Coded("scalar", "static", weight, {"scale": np.array([[0.125]], np.float32)}),
        "bias": codec.Coded("scalar", "static", bias, {"scale": scale, "shift": shift}),
    }


def example_bytes():
    """The bytes of FORMAT.md's section 8."""
    dump = FORMAT.split("```text\n")[1].split("```")[0]
    blob = b""
    for line in dump.splitlines():
        offset, hexadecimal = re.fullmatch(r"([0-9a-f]{2})  ((?:[0-9a-f]{2} )*[0-9a-f]{2}) .*", line).groups()
        assert int(offset, 16) == len(blob)
        blob += bytes.fromhex(hexadecimal)
    return blob


def test_the_example_of_the_page_is_what_the_encoder_writes():
    assert codec.encode("example", "paper", example_groups(), EXAMPLE_LAYOUT) == example_bytes()


def test_the_example_reads_as_the_page_says():
    matrix = FORMAT.split("```text\n")[2].split("```")[0].split()
    assert [int(x) for x in matrix] == EXAMPLE_PHI
    network, partitioning, groups = read(example_bytes(), {("example", "paper"): EXAMPLE_LAYOUT})
    assert (network, partitioning) == ("example", "paper")
    assert groups["weight"] == ([(x,) for x in EXAMPLE_PHI], [[0.125 * x for x in EXAMPLE_PHI]])
    bias = struct.unpack("<f", struct.pack("<f", 0.1))[0] * 3 - 0.5
    assert groups["bias"] == ([(3,)] * 4, [[bias] * 4])
    header, decoded = codec.decode(example_bytes(), lambda header: EXAMPLE_LAYOUT)
    assert header == codec.Header(1, "example", "paper", 28, 2)
    assert decoded["weight"].phi[:, 0].tolist() == EXAMPLE_PHI
    assert reparam.decode("scalar", decoded["bias"].phi, decoded["bias"].psi, [(4,)])[0].tolist() == [np.float32(bias)] * 4


def test_the_table_and_words_of_the_page():
    assert "1398101, 11184812, 2796202, 1398101" in FORMAT
    assert Table([1, 8, 2, 1]).counts == [1398101, 11184812, 2796202, 1398101]
    assert Table([1, 8, 2, 1]).edges == edges([1, 8, 2, 1]) == [0, 1398101, 12582911, 15379114, 16777216]


# ---- the library ---------------------------------------------------------------------------------------------------

small_phi = st.one_of(
    st.integers(-3, 3), st.integers(-200, 200), st.sampled_from([0] * 8 + [1, -1, 2, -(2**31), 2**31 - 1]), st.just(7)
)


@st.composite
def files(draw):
    """A network of one to three groups with any decoder: layout, groups."""
    layout, groups = {}, {}
    for name in ("a", "b", "c")[: draw(st.integers(1, 3))]:
        decoder = draw(
            st.sampled_from(["scalar", "pool:2", "sq", "dft", "orth:3", "orth:123456789", "codebook", "float32"])
        )
        tensors = draw(st.integers(1, 3))
        k = draw(st.sampled_from([1, 2, 3, 5]))
        if decoder in ("scalar", "pool:2", "codebook", "float32"):
            shapes = tuple(draw(st.sampled_from([(4, 3), (5,), (3, 8), (2, 1, 3, 3), (1, 1)])) for _ in range(tensors))
            l = 1
        else:
            shapes = tuple((draw(st.integers(1, 3)), draw(st.integers(1, 3)), k, k) for _ in range(tensors))
            l = k * k
        d = sum(map(math.prod, shapes)) // l
        seed, rows = draw(st.integers(0, 2**32)), draw(st.sampled_from([1, tensors]))
        rng = np.random.default_rng(seed)
        number = draw(st.sampled_from([small_phi, st.integers(-2, 2)]))
        number = {"codebook": st.integers(0, 3), "float32": st.integers(-100, 100)}.get(decoder, number)
        phi = np.array(draw(st.lists(number, min_size=d * l, max_size=d * l)), np.int64).astype(np.int32).reshape(d, l)
        if decoder == "float32":
            phi = (phi * np.float32(0.3)).astype(np.float32).view(np.int32)
        psi = {}
        for array, allowed in reparam.psi_shapes(decoder, tensors, l).items():
            if array == "shift" and draw(st.booleans()):
                continue
            columns = allowed[0][1] or 4
            psi[array] = rng.normal(0, 0.1, (rows, columns)).astype(np.float32)
            if draw(st.booleans()):
                psi[array] = codec.psi_round(psi[array])
        layout[name] = shapes
        model = draw(st.sampled_from(["static", "raw", "classes", "live", "interleaved"]))
        groups[name] = codec.Coded(decoder, model, phi, psi)
    return layout, groups


@given(files())
@settings(max_examples=40, deadline=None)
def test_any_file_reads_the_same_in_the_library_and_from_the_page(file):
    layout, groups = file
    blob = codec.encode("net", "own", groups, layout)
    assert blob == codec.encode("net", "own", groups, layout)
    header, decoded = codec.decode(blob, lambda header: layout)
    network, partitioning, plain = read(blob, {("net", "own"): layout})
    assert (header.network, header.partitioning) == (network, partitioning) == ("net", "own")
    for name, group in groups.items():
        result = decoded[name]
        assert (result.decoder, result.model) == (group.decoder, group.model)
        assert result.phi.dtype == np.int32 and np.array_equal(result.phi, group.phi)
        assert result.psi.keys() == group.psi.keys()
        assert all(np.array_equal(result.psi[key], group.psi[key]) for key in group.psi)
        rows, tensors = plain[name]
        assert np.array_equal(np.array(rows), group.phi)
        weights = reparam.decode(result.decoder, result.phi, result.psi, list(layout[name]))
        for weight, shape, numbers in zip(weights, layout[name], tensors, strict=True):
            assert weight.dtype == np.float32 and weight.shape == shape
            expected = np.array([float(x) for x in numbers], np.float64).astype(np.float32)
            assert weight.reshape(-1).tobytes() == expected.tobytes()


@given(files())
@settings(max_examples=30, deadline=None)
def test_without_constriction_the_library_writes_and_reads_the_same_bytes(file):
    layout, groups = file
    blob = codec.encode("net", "own", groups, layout)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec.container, "Ans", PythonAns)
        assert codec.encode("net", "own", groups, layout) == blob
        _, decoded = codec.decode(blob, lambda header: layout)
    for name, group in groups.items():
        assert np.array_equal(decoded[name].phi, group.phi)


# ---- tables and streams --------------------------------------------------------------------------------------------

weights = st.one_of(
    st.lists(st.integers(0, 2**40), min_size=2, max_size=40),
    st.lists(st.sampled_from([0, 1, 1, 2, 2**20, 2**47]), min_size=2, max_size=300),
).filter(any)


def entropy_of(seed, table, count):
    """Symbols drawn from the table itself, and some at random, so that rare ones come too."""
    rng = np.random.default_rng(seed)
    drawn = np.searchsorted(table.edges, rng.integers(0, 2**24, count), side="right") - 1
    return np.where(rng.random(count) < 0.9, drawn, rng.integers(0, len(table), count)).astype(np.int32)


def quantiles_of_constriction(table):
    """The left edges that constriction really uses, read off single symbols."""
    result = []
    for symbol in range(len(table)):
        coder = ConstrictionAns()
        coder.push(np.array([symbol], np.int32), table)
        words = coder.words()  # of a coder that was empty: left + 0 * 2^24
        result.append(int(words[0]) if len(words) else 0)
    return result


@given(weights)
@settings(max_examples=100, deadline=None)
def test_the_table_is_the_formula_and_what_constriction_does(weights):
    table = Table(weights)
    assert sum(table.counts) == 2**24 and table.edges == edges(weights) and table.edges[-1] == 2**24
    assert all(a < b for a, b in itertools.pairwise(table.edges))
    assert quantiles_of_constriction(table) == table.edges[:-1]
    assert math.isclose(sum(2.0**-table.costs()), 1.0)


@given(st.lists(st.tuples(weights, st.integers(0, 60), st.integers(0, 2**32)), min_size=1, max_size=5))
@settings(max_examples=100, deadline=None)
def test_python_and_constriction_streams_are_identical_both_ways(runs):
    tables = [Table(w) for w, _, _ in runs]
    symbols = [entropy_of(seed, table, count) for table, (_, count, seed) in zip(tables, runs, strict=True)]
    coders = ConstrictionAns(), PythonAns()
    for pieces, table in zip(symbols, tables, strict=True):
        for coder in coders:
            coder.push(pieces, table)
        assert coders[0].size_bits == coders[1].size_bits
        assert coders[0].empty == coders[1].empty
    words = coders[0].words()
    assert words.tolist() == coders[1].words().tolist()
    for kind in (ConstrictionAns, PythonAns):
        coder = kind(words)
        for pieces, table in zip(symbols[::-1], tables[::-1], strict=True):
            popped = coder.pop(len(pieces), table)
            assert popped.dtype == np.int32 and np.array_equal(popped, pieces)
        assert coder.empty


@given(st.lists(st.integers(0, 2**32 - 1), max_size=12).filter(lambda w: not w or w[-1]), weights, st.integers(0, 200))
@settings(max_examples=100, deadline=None)
def test_python_and_constriction_read_the_same_out_of_any_words(words, weights, count):
    table, words = Table(weights), np.array(words, np.uint32)
    one, two = ConstrictionAns(words), PythonAns(words)
    assert np.array_equal(one.pop(count, table), two.pop(count, table))
    assert one.empty == two.empty and one.size_bits == two.size_bits


def test_tables_of_the_largest_alphabet():
    rng = np.random.default_rng(0)
    table = Table([int(w) for w in rng.integers(0, 2**47, 1 << 14)] + [2**47])
    assert table.edges == edges_fast(table.counts)
    symbols = entropy_of(1, table, 2000)
    coder = ConstrictionAns()
    coder.push(symbols, table)
    assert np.array_equal(PythonAns(coder.words()).pop(2000, table), symbols)


def edges_fast(n):
    return [0] + [c * (2**24 - len(n)) // 2**24 + i for i, c in enumerate(itertools.accumulate(n), 1)]


@pytest.mark.parametrize("bad", [[1], [], [0, 0], [3, -1]])
def test_no_table_of_these(bad):
    with pytest.raises(ValueError, match="two or more symbols"):
        Table(bad)


def test_constriction_is_what_codes_here():
    assert ans.constriction is not None and ans.Ans is ConstrictionAns
