"""The context model: an independent reader, sizes against the empirical entropy, hostile side information, speed."""

import functools
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_codec_damage import seal, text
from test_codec_reader import BYTES, Bytes, Stream, edges, read_alphabet, read_column

import zoo
from zoo import codec, registry
from zoo.codec import container, context, entropy
from zoo.codec.ans import ConstrictionAns, PythonAns
from zoo.codec.bits import Reader, Writer, varint
from zoo.codec.context import Contexts, Counted, Fixed, Lanes, Plane, Window
from zoo.codec.work import Work, most_steps
from zoo.errors import CorruptArtifact


def markov(count: int, rows: int, symbols: int, stay: float, seed: int = 0, zeros: float = 0.8) -> np.ndarray:
    """int32 (count,): runs of `rows` integers in which one repeats its predecessor with the probability `stay`."""
    draw = np.random.default_rng(seed)
    shares = [zeros] + [(1 - zeros) / (symbols - 1)] * (symbols - 1)
    fresh = draw.choice(symbols, count, p=shares).astype(np.int32)
    for start in range(0, count, rows):
        lane, keep = fresh[start : start + rows], draw.random(rows) < stay
        for i in range(1, len(lane)):
            if keep[i]:
                lane[i] = lane[i - 1]
    return fresh


def side_of(plane: Plane) -> bytes:
    writer = Writer()
    plane.write(writer)
    return writer.to_bytes()


def roundtrip(plane: Plane, values: np.ndarray, ans=ConstrictionAns) -> tuple[bytes, bytes]:
    """Side information and stream; asserts that a plane read back pops the values and empties the stream."""
    coder = ans()
    plane.push(coder, values)
    side, words = side_of(plane), coder.words()
    coder = ans(words)
    popped = Plane.read(Reader(side), len(values)).pop(coder, len(values))
    assert np.can_cast(popped.dtype, np.int32) and np.array_equal(popped, values) and coder.empty
    return side, words.astype("<u4").tobytes()


# ---- a reader written from section 5.3 of FORMAT.md ----------------------------------------------------------------


def read_weights(data, m, count):
    x, weights = 0, []
    for _ in range(count):
        x += data.sg(0)
        weights.append((2**m + data.bits(m)) * 2 ** (x - 1) if x else 0)
    return weights


def counts_of(weights):
    n = [w * 2**24 // sum(weights) for w in weights]
    n[weights.index(max(weights))] += 2**24 - sum(n)
    return n


def read(side: bytes, stream: bytes, d: int) -> list[int]:
    data, stream = Bytes(side), Stream(stream)
    n = data.eg(0) + 1
    if n == 1:
        return read_column(stream, d, read_alphabet(data))
    low, span, escape = data.sg(2), data.eg(2), data.bits(1)
    K, C, strided = span + 1 + escape, data.eg(6) + 1, data.bits(1)
    R, classes = -(-d // C), [0]
    for _ in range(K - 1):
        classes.append(classes[-1] + data.bits(1))
    G, p, counted = classes[-1] + 1, data.eg(0), data.bits(1)
    if counted:
        s, b, m = data.bits(4), data.bits(4), data.bits(3)
        root = counts_of(read_weights(data, m, K))
        N = [[[0] * K for _ in range(G**j)] for j in range(n)]
    else:
        has_table = [data.bits(1) for _ in range(G ** (n - 1))]
        m, tables = data.bits(3), {}
        shared = [] if all(has_table) else [edges(read_weights(data, m, K))]
        for c in range(len(has_table)):
            if has_table[c]:
                tables[c] = edges(read_weights(data, m, K))
    place = {}
    for i in range(d):
        place[(i // C, i % C) if strided else (i % R, i // R)] = i
    values, stands = [None] * d, {}
    for r in range(R):
        row = []
        for lane in range(C):
            if (r, lane) in place:
                above = [classes[stands[r - j, lane]] if r >= j else p for j in range(1, n)]
                row.append((sum(g * G**j for j, g in enumerate(above)), lane))
        if counted:
            E = [root]  # E[c mod 1] for j = 0, E[c mod G^(j-1)] after that
            for j in range(n):
                E = [
                    [(N[j][c][i] * 2**24 + 2**s * E[c % len(E)][i]) // (sum(N[j][c]) + 2**s) for i in range(K)]
                    for c in range(G**j)
                ]
        if not counted:
            number = {c: i + 1 for i, c in enumerate(tables)}
        for c, lane in sorted(row, key=lambda x: (x[0] if counted else number.get(x[0], 0), x[1])):
            table = edges(E[c]) if counted else tables[c] if c in tables else shared[0]
            stands[r, lane] = stream.symbol(table)
            values[place[r, lane]] = stands[r, lane] + low
        if counted:
            for c, lane in row:
                for j in range(n):
                    N[j][c % G**j][stands[r, lane]] += 1
            for counts in (c for level in N for c in level):
                while b < 15 and sum(counts) >= 2**b:
                    counts[:] = [x // 2 for x in counts]
    waiting, codes, shift = [i for i in range(d) if values[i] > low + span], {}, 0
    while waiting:
        read = [(i, stream.symbol(BYTES)) for i in waiting]
        for i, byte in read:
            codes[i] = codes.get(i, 0) + (byte % 128 << shift)
        waiting, shift = [i for i, byte in read if byte >= 128], shift + 7
    for i, v in codes.items():
        values[i] = low - 1 - v // 2 if v % 2 else low + span + 1 + v // 2
    assert not stream.words and stream.state == 0
    return values


@st.composite
def planes(draw):
    """Any plane and integers for it, whether an encoder would choose it or not."""
    span, escape = draw(st.integers(1, 5)), draw(st.booleans())
    window = Window(draw(st.integers(-9, 9)), span, escape or span == 1)
    count = draw(st.integers(1, 120))
    values = np.array(draw(st.lists(st.integers(0, span - 1), min_size=count, max_size=count)), np.int32) + window.low
    if window.escape and draw(st.booleans()):
        far = draw(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=5))
        values[: len(far)] = far[: len(values)]
    lanes = Lanes(count, draw(st.integers(1, count)), draw(st.booleans()))
    steps = draw(st.lists(st.integers(0, 1), min_size=window.symbols - 1, max_size=window.symbols - 1))
    order = draw(st.integers(2, 4 if sum(steps) < 3 else 2))
    contexts = Contexts(order, np.cumsum([0, *steps]), draw(st.integers(0, sum(steps))))

    def weights():
        drawn = draw(st.lists(st.integers(0, 40), min_size=window.symbols, max_size=window.symbols))
        return [entropy.round_weight(w, 2) for w in drawn] if any(drawn) else [4] * window.symbols

    if draw(st.booleans()):
        tables = Counted(draw(st.integers(0, 15)), draw(st.integers(0, 15)), 2, weights())
    else:
        has_table = np.array(draw(st.lists(st.booleans(), min_size=contexts.count, max_size=contexts.count)))
        tables = Fixed(2, has_table, [weights() for _ in range(has_table.sum() + (not has_table.all()))])
    return Plane(None, window, lanes, contexts, tables), values


@settings(max_examples=60, deadline=None)
@given(planes())
def test_reader_of_the_page_reads_any_plane(drawn):
    plane, values = drawn
    side, stream = roundtrip(plane, values)
    assert read(side, stream, len(values)) == values.tolist()


@pytest.mark.parametrize("seed", range(3))
def test_pure_python_coder_gives_the_same_stream(seed):
    values = markov(600, 60, 5, 0.9, seed)
    for counted in (False, True):
        plane = context.fit(values, ((10, 60),), counted=counted)
        assert roundtrip(plane, values) == roundtrip(plane, values, PythonAns)


def test_lanes_place_every_integer_once():
    for count in (1, 2, 7, 12, 100):
        for lanes in range(1, count + 1):
            for strided in (False, True):
                order = Lanes(count, lanes, strided)
                matrix = order.spread(np.arange(1, count + 1))
                assert matrix.shape == (order.rows, lanes)
                assert sum(order.width(r) for r in range(order.rows)) == count
                for r, row in enumerate(matrix):
                    assert row[: order.width(r)].all() and not row[order.width(r) :].any()
                assert order.gather(matrix).tolist() == list(range(1, count + 1))


# ---- sizes -----------------------------------------------------------------------------------------------------------


def conditional_bits(values: np.ndarray, rows: int, order: int) -> float:
    """Empirical entropy of all symbols given their order - 1 predecessors in runs of `rows`, fewer at their start."""
    lanes = values.reshape(-1, rows)
    grams: dict = {}
    for r in range(rows):
        above = lanes[:, max(0, r - order + 1) : r]
        for past, symbol in zip(map(tuple, above.tolist()), lanes[:, r].tolist(), strict=True):
            has_table = grams.setdefault(past, {})
            has_table[symbol] = has_table.get(symbol, 0) + 1
    return sum(-n * math.log2(n / sum(has_table.values())) for has_table in grams.values() for n in has_table.values())


@pytest.mark.parametrize(
    ("count", "rows", "symbols", "stay"), [(2000, 50, 3, 0.9), (40_000, 400, 8, 0.6), (235_200, 784, 9, 0.3)]
)
def test_size_is_near_the_empirical_conditional_entropy(count, rows, symbols, stay):
    values, sizes = markov(count, rows, symbols, stay), []
    for counted in (False, None):
        plane = context.fit(values, ((count // rows, rows),), orders=(2,), counted=counted)
        side, stream = roundtrip(plane, values)
        assert plane.order == 2
        entropy_bytes = conditional_bits(values, rows, 2) / 8
        assert len(stream) <= 1.01 * entropy_bytes + 60  # the tables, in `side`, come on top
        assert len(stream) <= plane.bits(values) / 8 + 8
        sizes.append(len(side) + len(stream))
    assert sizes[1] <= sizes[0]  # counted tables are chosen only where they are smaller


def test_order_three_is_found_where_two_predecessors_decide():
    draw = np.random.default_rng(3)
    lanes = draw.integers(0, 2, (100, 200)).astype(np.int32)
    for r in range(2, 200):
        noise = draw.random(100) < 0.05
        lanes[:, r] = lanes[:, r - 1] ^ lanes[:, r - 2] ^ noise  # invisible to one predecessor
    values = lanes.reshape(-1)
    plane = context.fit(values, ((100, 200),))
    side, stream = roundtrip(plane, values)
    assert plane.order == 3
    assert len(side) + len(stream) <= 1.01 * conditional_bits(values, 200, 3) / 8 + 60


def test_predecessors_along_the_other_dimension_are_found():
    values = markov(30_000, 300, 4, 0.9).reshape(100, 300).T.copy().reshape(-1)
    plane = context.fit(values, ((300, 100),))
    assert plane.order > 1 and plane.lanes.strided and plane.lanes.lanes == 100


def test_independent_symbols_keep_order_one():
    values = np.random.default_rng(0).choice(6, 20_000, p=[0.5, 0.3, 0.1, 0.05, 0.03, 0.02]).astype(np.int32)
    plane = context.fit(values, ((100, 200),))
    assert plane.order == 1
    roundtrip(plane, values)


def test_tables_are_counted_where_they_would_be_a_large_part_of_the_file():
    for count, rows, kind in ((600, 40, Counted), (100_000, 200, Fixed)):
        values = markov(count, rows, 6, 0.8)
        plane = context.fit(values, ((count // rows, rows),))
        other = context.fit(values, ((count // rows, rows),), counted=kind is Fixed)
        assert isinstance(plane.tables, kind) and not isinstance(other.tables, kind)
        assert sum(map(len, roundtrip(plane, values))) <= sum(map(len, roundtrip(other, values)))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(-4, 4) | st.sampled_from([0] * 20 + [1000, -70_000]), min_size=1, max_size=400),
    st.integers(1, 30),
)
def test_never_larger_than_the_static_model_by_more_than_a_bit(values, rows):
    values = np.array(values, np.int32)
    plane = context.fit(values, ((-(-len(values) // rows), rows),))
    roundtrip(plane, values)
    static = entropy.Alphabet.fit(values)
    counter = entropy.BitCounter()
    static.write(counter)
    assert plane.header_bits() + plane.bits(values) <= counter.count + static.bits(values) + 1 + 1e-6


def test_whole_files_with_several_columns_tensors_and_models():
    bias = np.random.default_rng(1).integers(-9, 9, (30, 1)).astype(np.int32)
    kernels = np.stack([markov(600, 60, 5, 0.8, seed) for seed in range(9)], 1)
    weights = markov(3000, 100, 7, 0.9, 5) - 3
    layout = {"convs": ((10, 30, 3, 3), (20, 15, 3, 3)), "fc": ((30, 100),), "bias": ((30,),)}
    groups = {
        "convs": codec.Coded("sq", "context", kernels, {"scale": np.full((1, 9), 0.5, np.float32)}),
        "fc": codec.Coded("codebook", "context", weights[:, None] + 3, {"codebook": np.arange(7, dtype=np.float32)[None]}),
        "bias": codec.Coded("scalar", "static", bias, {"scale": np.ones((1, 1), np.float32)}),
    }
    blob = codec.encode("example", "paper", groups, layout)
    _, decoded = codec.decode(blob, lambda header: layout)
    for name, group in groups.items():
        assert decoded[name].model == group.model
        assert np.array_equal(decoded[name].phi, group.phi)
    _, breakdown = codec.anatomy(blob, lambda header: layout)
    for group_bytes in breakdown:
        assert abs(group_bytes.coded_bits - group_bytes.ideal_bits) < 64
    static = {name: codec.Coded(g.decoder, "static", g.phi, g.psi) for name, g in groups.items()}
    assert len(blob) < 0.7 * len(codec.encode("example", "paper", static, layout))


# ---- hostile files -----------------------------------------------------------------------------------------------------


def hostile(*fields) -> bytes:
    writer = Writer()
    for method, *arguments in fields:
        getattr(writer, method)(*arguments)
    writer.raw(b"\xaa" * 64)
    return writer.to_bytes()


WINDOW = (("signed", 0, 2), ("golomb", 3, 2), ("bits", 0, 1))  # four integers from 0
PLAIN = (("bits", 0, 1), ("bits", 0, 3), ("golomb", 0), ("bits", 0, 1))  # not strided, one class, tables in the file


@pytest.mark.parametrize(
    ("words", "count", "fields"),
    [
        ("order 5; at most 4", 100, [("golomb", 4)]),
        ("100 integers in 101 lanes", 100, [("golomb", 1), *WINDOW, ("golomb", 100, 6)]),
        ("10,000,000 rows of contexts would take the file beyond", 10**7, [("golomb", 1), *WINDOW, ("golomb", 0, 6), *PLAIN]),
        ("a constant", 100, [("golomb", 1), ("signed", 0, 2), ("golomb", 0, 2), ("bits", 0, 1)]),
        ("beyond 32 bits", 100, [("golomb", 1), ("signed", 2**31 - 2, 2), ("golomb", 3, 2), ("bits", 0, 1)]),
        ("16,385 integers; at most 16,384", 100, [("golomb", 1), ("signed", 0, 2), ("golomb", 2**14, 2), ("bits", 0, 1)]),
        ("integers; at most 16,384", 100, [("golomb", 1), ("signed", 0, 2), ("golomb", 2**31, 2), ("bits", 0, 1)]),
        (
            "class 1 above the first row; there are only 1",
            100,
            [("golomb", 1), *WINDOW, ("golomb", 9, 6), ("bits", 0, 1), ("bits", 0, 3), ("golomb", 1)],
        ),
        (
            "8,000,000 contexts of 200 symbols; at most 262,144",
            1000,
            [("golomb", 3), ("signed", 0, 2), ("golomb", 199, 2), ("bits", 0, 1), ("golomb", 99, 6), ("bits", 0, 1)]
            + [("bits", 1, 1)] * 199
            + [("golomb", 0), ("bits", 0, 1)],
        ),
        (
            "16,384 rows of contexts would take the file beyond the 20,",
            16384,
            [("golomb", 1), ("signed", 0, 2), ("golomb", 63, 2), ("bits", 0, 1), ("golomb", 0, 6), ("bits", 0, 1)]
            + [("bits", 1, 1)] * 63
            + [("golomb", 0), ("bits", 1, 1)],
        ),
    ],
)
def test_side_information_beyond_its_bounds_is_refused(words, count, fields):
    reader = Reader(hostile(*fields))
    reader.work = Work(most_steps(len(reader.data), count))
    with pytest.raises(CorruptArtifact, match=words):
        Plane.read(reader, count)


def test_a_table_of_as_many_integers_as_the_page_allows_is_read():
    fields = [("golomb", 1), ("signed", 0, 2), ("golomb", 2**14 - 1, 2), ("bits", 0, 1), ("golomb", 9, 6), ("bits", 0, 1)]
    fields += [*[("bits", 0, 1)] * (2**14 - 1), ("golomb", 0), ("bits", 0, 1), ("bits", 0, 1), ("bits", 0, 3), ("signed", 1)]
    plane = Plane.read(Reader(hostile(*fields, *[("signed", 0)] * (2**14 - 1))), 100)
    assert plane.window.symbols == 2**14


def test_a_small_file_does_not_keep_the_reader_busy(monkeypatch):
    """One column takes half a second and may be allowed, 441 of them would take minutes."""
    layout, writer, count = {"g": ((64, 64, 21, 21),)}, Writer(), 64 * 64
    for _ in range(441):  # tables of two symbols, made anew and halved after each integer
        tables = Counted(3, 1, 0, [1, 1])
        Plane(None, Window(0, 2, False), Lanes(count, 1, False), Contexts(4, np.arange(2), 0), tables).write(writer)
    inner = text("n") + text("p") + varint(441 * count) + varint(1) + b"\1" + text("sq") + text("context") + bytes(2 * 441)
    blob = seal(inner + writer.to_bytes())
    assert len(blob) < 5000
    monkeypatch.setattr(Plane, "pop", lambda *_: pytest.fail("a column was decoded before the last one's steps were known"))
    with pytest.raises(CorruptArtifact, match="4,096 rows of contexts would take the file beyond"):
        codec.decode(blob, lambda header: layout)


@pytest.mark.parametrize("counted", [False, True])
def test_steps_are_counted_as_the_page_says(counted):
    values = markov(600, 40, 6, 0.8)
    plane = context.fit(values, ((15, 40),), counted=counted)
    n, G, K, R = plane.order, plane.contexts.groups, plane.window.symbols, plane.lanes.rows
    C, b = plane.lanes.lanes, plane.tables.limit if counted else None
    reader = Reader(side_of(plane))
    Plane.read(reader, len(values))
    assert n > 1 and isinstance(plane.tables, Counted) == counted
    row = 1000 + 3 * C + min(C * K, min(C, G ** (n - 1)) * (300 + K))
    if counted:
        h = 0 if b == 15 else math.floor(math.log2(C // 2**b + 1)) + 1
        steps = R * (row + n * (1300 + 500 * h + G ** (n - 1) * K)) + 102 * K + 5000
    else:
        steps = R * row + 100 * G ** (n - 1) + len(plane.tables.weights) * (102 * K + 5000)
    assert reader.work.steps == steps + 100 * K


def test_the_encoder_stays_within_the_work_of_a_file(monkeypatch):
    values = markov(2000, 50, 3, 0.9)
    layout = {name: ((40, 50),) for name in "abc"}
    groups = {name: codec.Coded("scalar", "context", values[:, None], {"scale": np.ones((1, 1), "f4")}) for name in layout}
    plenty = codec.encode("n", "p", groups, layout)
    plane = context.fit(values, layout["a"])
    assert 0 < plane.work < most_steps(len(plenty), len(values)) // 3
    monkeypatch.setattr(container, "most_steps", lambda length, numbers: 2 * plane.work + 50_000)
    with pytest.raises(CorruptArtifact, match="steps to decode"):
        codec.decode(plenty, lambda header: layout)
    blob = codec.encode("n", "p", groups, layout)
    assert len(blob) > len(plenty)  # one group goes without contexts
    _, decoded = codec.decode(blob, lambda header: layout)
    assert all(np.array_equal(decoded[name].phi[:, 0], values) for name in layout)


def test_the_encoder_chooses_nothing_that_the_reader_refuses(monkeypatch):
    values = markov(2000, 50, 6, 0.9)
    chosen = context.fit(values, ((40, 50),), counted=False)
    assert chosen.order > 1
    monkeypatch.setattr(context, "MAX_CELLS", chosen.contexts.count * chosen.window.symbols - 1)
    roundtrip(context.fit(values, ((40, 50),), counted=False), values)


@pytest.mark.parametrize("name", ["lenet300-100-lc-pow2", "vgg16-dft-small", "resnet20-4-orth", "resnet50-dft"])
def test_committed_files_are_far_from_the_bound(name, monkeypatch):
    monkeypatch.setattr(container, "most_steps", lambda length, numbers: most_steps(length, numbers) // 2)
    zoo.decode(registry.read(registry.find(name)))


def test_a_network_that_would_take_long_is_written_with_many_lanes_and_tables_in_the_file(monkeypatch):
    values = markov(60_000, 300, 5, 0.8, 2)
    layout = {"a": ((200, 300),), "b": ((5,),)}
    groups = {"a": codec.Coded("scalar", "context", values[:, None], {"scale": np.ones((1, 1), np.float32)}),
              "b": codec.Coded("scalar", "static", values[:5, None], {"scale": np.ones((1, 1), np.float32)})}  # fmt: skip

    def written(steps):
        monkeypatch.setattr(container, "quick_steps", lambda numbers: steps)
        planes, read = [], Plane.read.__func__
        monkeypatch.setattr(Plane, "read", classmethod(lambda cls, *a: planes.append(read(cls, *a)) or planes[-1]))
        blob = codec.encode("n", "p", groups, layout)
        _, decoded = codec.decode(blob, lambda header: layout)
        assert np.array_equal(decoded["a"].phi, groups["a"].phi)
        monkeypatch.setattr(Plane, "read", classmethod(read))
        return len(blob), *planes

    (small, best), (large, quick) = written(1e9), written(0)
    assert quick.lanes.lanes >= context.QUICK_LANES > best.lanes.lanes and isinstance(quick.tables, context.Fixed)
    assert small < large < 1.5 * small and quick.work < best.work


def test_tables_of_zero_weight_are_refused():
    fields = [("golomb", 1), *WINDOW, ("golomb", 9, 6), ("bits", 0, 1), ("bits", 0, 3), ("golomb", 0), ("bits", 0, 1)]
    writer = Writer()
    for method, *arguments in [*fields, ("bits", 1, 1), ("bits", 0, 3), *[("signed", 0)] * 4]:
        getattr(writer, method)(*arguments)
    with pytest.raises(CorruptArtifact, match="all zero"):
        Plane.read(Reader(writer.to_bytes()), 100)


@functools.cache
def two_planes() -> list[tuple[bytes, bytes, int]]:
    values = markov(400, 40, 5, 0.8, 2)
    fitted = [context.fit(values, ((10, 40),), counted=counted) for counted in (False, True)]
    return [(*roundtrip(plane, values), len(values)) for plane in fitted]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_side_information_is_refused_or_decodes_to_something(data):
    side, stream, count = two_planes()[data.draw(st.integers(0, 1))]
    damaged = bytearray(side)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(side) - 1))] = data.draw(st.integers(0, 255))
    try:
        damaged_plane = Plane.read(Reader(bytes(damaged)), count)
        popped = damaged_plane.pop(ConstrictionAns(np.frombuffer(stream, "<u4")), count)
    except CorruptArtifact:
        return
    assert popped.shape == (count,)


# ---- speed -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_order_two_decodes_twenty_million_symbols_a_second():
    draw = np.random.default_rng(0)
    lanes = draw.choice(12, (8000, 500), p=[0.7, *[0.3 / 11] * 11]).astype(np.int32)
    for r in range(1, 500):
        lanes[:, r] = np.where(draw.random(8000) < 0.4, lanes[:, r - 1], lanes[:, r])
    values = lanes.reshape(-1)
    plane = context.fit(values, ((8000, 500),), orders=(2,))
    assert plane.order == 2 and plane.lanes.lanes >= 4096
    coder = ConstrictionAns()
    plane.push(coder, values)
    words, best = coder.words(), math.inf
    for _ in range(5):
        coder, start = ConstrictionAns(words), time.process_time()
        popped = plane.pop(coder, len(values))
        best = min(best, time.process_time() - start)
    assert np.array_equal(popped, values)
    assert len(values) / best >= 20e6, f"{len(values) / best / 1e6:.1f} million symbols a second"
