"""The codec: golden bytes, tables chosen by their cost, overhead, round trips, what the writer refuses."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from zoo import codec, partitionings, reparam
from zoo.codec import Coded, entropy
from zoo.codec.ans import Ans, Table, ideal_bits
from zoo.codec.bits import Reader, Writer
from zoo.codec.entropy import Alphabet
from zoo.errors import CorruptArtifact, LayoutMismatch, UnknownName

# ---- golden bytes --------------------------------------------------------------------------------------------------


def integers(count: int, largest: int = 3) -> np.ndarray:
    """A fixed sequence of mostly small integers that depends on no random number generator."""
    state, out = 12345, []
    for _ in range(count):
        state = (state * 1103515245 + 12345) % 2**31
        size = min((state >> 8) % 997 ** 2 // 997, 996)  # 0 .. 996
        out.append((largest if size > 985 else 2 if size > 950 else 1 if size > 700 else 0) * (1 if state >> 28 & 1 else -1))
    return np.array(out, np.int32)


def example(decoder: str, model: str = "static") -> tuple[dict, dict]:
    """Groups and layout of one golden file: two tensors, every psi array that the decoder has."""
    if decoder in ("scalar", "codebook", "float32"):
        shapes, l = ((10, 6), (6,)), 1
    else:
        shapes, l = ((4, 2, 3, 3), (1, 3, 3, 3)), 9
    d = sum(map(math.prod, shapes)) // l
    phi = integers(d * l).reshape(d, l)
    psi = {}
    for name, allowed in reparam.psi_shapes(decoder, 2, l).items():
        rows, columns = 1 + (name == "shift"), allowed[0][1] or 5
        psi[name] = codec.psi_round(np.arange(1, rows * columns + 1).reshape(rows, columns) / 64 - 0.1)
    if decoder == "codebook":
        phi = np.abs(phi)
    if decoder == "float32":
        phi = (phi.astype(np.float32) / 8 + 1).view(np.int32)
    return {"group": Coded(decoder, model, phi, psi)}, {"group": shapes}


# print(codec.encode("golden", "paper", *example(decoder, model)).hex())
# A writer may learn to choose better; then what it wrote before moves to EARLIER, for it must read for ever.
GOLDEN = {
    ("scalar", "static"): (
        "895a4f4f0d0a1a0a013006676f6c64656e00420199adbdadbd8dbd42028c6125a6bdf01e52bda16299a4272a33f611df"
    ),
    ("sq", "static"): (
        "895a4f4f0d0a1a0a017b06676f6c64656e0063011902737100adbd8dbd5abd1abdb3bccdbb1a3ccd3c263dadbd8dbd5abd1a"
        "bdb3bccdbb1a3ccd3c263d663d933db33dd33df33d0a3e1a3e2a3e3a3e98220f460a9b50a36c1447a851b60a31f60a31f609"
        "91e60882b0b9864cd513e37eb619c47ea8a30ebac8d4dc"
    ),
    ("dft", "static"): (
        "895a4f4f0d0a1a0a017c06676f6c64656e006301190364667400adbd8dbd5abd1abdb3bccdbb1a3ccd3c263dadbd8dbd5abd"
        "1abdb3bccdbb1a3ccd3c263d663d933db33dd33df33d0a3e1a3e2a3e3a3e98220f460a9b50a36c1447a851b60a31f60a31f6"
        "0991e60882b0b9864cd513e37eb619c47ea8a30e1e58573a"
    ),
    ("orth:7", "static"): (
        "895a4f4f0d0a1a0a017f06676f6c64656e00630119066f7274683a3700adbd8dbd5abd1abdb3bccdbb1a3ccd3c263dadbd8d"
        "bd5abd1abdb3bccdbb1a3ccd3c263d663d933db33dd33df33d0a3e1a3e2a3e3a3e98220f460a9b50a36c1447a851b60a31f6"
        "0a31f60991e60882b0b9864cd513e37eb619c47ea8a30ec1253321"
    ),
    ("codebook", "static"): (
        "895a4f4f0d0a1a0a013c06676f6c64656e0042010108636f6465626f6f6b0005adbd8dbd5abd1abdb3bc98230a704d17de62"
        "490a7b6bae30dd95fe75"
    ),
    ("float32", "raw"): (
        "895a4f4f0d0a1a0a01ae0206676f6c64656e0042010007666c6f61743332037261770000803f0000803f0000803f0000603f"
        "0000803f0000803f0000803f0000803f0000803f0000803f0000403f0000803f0000803f0000803f0000803f0000803f0000"
        "603f0000903f0000803f0000803f0000803f0000903f0000803f0000803f0000603f0000903f0000a03f0000803f0000803f"
        "0000803f0000803f0000803f0000803f0000803f0000803f0000803f0000803f0000803f0000803f0000803f0000803f0000"
        "803f0000803f0000803f0000903f0000803f0000803f0000803f0000903f0000803f0000803f0000803f0000803f0000803f"
        "0000803f0000603f0000603f0000803f0000803f0000603f0000803f0000603f0000803f0000803f0000803f0000803f9828"
        "919f"
    ),
    ("scalar", "raw"): (
        "895a4f4f0d0a1a0a01ad0206676f6c64656e004201190003726177adbdadbd8dbd000000000000000000000000ffffffff00"
        "0000000000000000000000000000000000000000000000feffffff0000000000000000000000000000000000000000ffffff"
        "ff01000000000000000000000000000000010000000000000000000000ffffffff0100000002000000000000000000000000"
        "0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
        "0000000000000000000100000000000000000000000000000001000000000000000000000000000000000000000000000000"
        "000000ffffffffffffffff0000000000000000ffffffff00000000ffffffff000000000000000000000000000000002f7efb"
        "ed"
    ),
    ("dft", "raw"): (
        "895a4f4f0d0a1a0a01e40306676f6c64656e006301190364667403726177adbd8dbd5abd1abdb3bccdbb1a3ccd3c263dadbd"
        "8dbd5abd1abdb3bccdbb1a3ccd3c263d663d933db33dd33df33d0a3e1a3e2a3e3a3e000000000000000000000000ffffffff"
        "000000000000000000000000000000000000000000000000feffffff0000000000000000000000000000000000000000ffff"
        "ffff01000000000000000000000000000000010000000000000000000000ffffffff01000000020000000000000000000000"
        "0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
        "0000000000000000000001000000000000000000000000000000010000000000000000000000000000000000000000000000"
        "00000000ffffffffffffffff0000000000000000ffffffff00000000ffffffff000000000000000000000000000000000000"
        "0000ffffffff01000000000000000000000000000000020000000000000000000000ffffffff000000000000000000000000"
        "ffffffff00000000000000000000000000000000010000000000000000000000000000000000000000000000010000000000"
        "000000000000000000000000000000000000010000000000000000000000be5e7dbc"
    ),
}


# Names may be written out even where an empty one would do, as the first files of version 1 did.
EARLIER = {
    ("dft", "static"): (
        "895a4f4f0d0a1a0a01830106676f6c64656e006301190364667406737461746963adbd8dbd5abd1abdb3bccdbb1a3ccd3c26"
        "3dadbd8dbd5abd1abdb3bccdbb1a3ccd3c263d663d933db33dd33df33d0a3e1a3e2a3e3a3e98220f460a9b50a36c1447a851"
        "b60a31f60a31f60991e60882b0b9864cd513e37eb619c47ea8a30e71f9971e"
    ),
}


@pytest.mark.parametrize(("decoder", "model"), EARLIER)
def test_files_that_spell_out_the_usual_names_read_the_same(decoder, model):
    groups, layout = example(decoder, model)
    _, decoded = codec.decode(bytes.fromhex(EARLIER[decoder, model]), lambda header: layout)
    assert (decoded["group"].decoder, decoded["group"].model) == (decoder, model)
    assert np.array_equal(decoded["group"].phi, groups["group"].phi)


@pytest.mark.parametrize(("decoder", "model"), GOLDEN)
def test_golden_bytes(decoder, model):
    groups, layout = example(decoder, model)
    golden = bytes.fromhex(GOLDEN[decoder, model])
    assert codec.encode("golden", "paper", groups, layout).hex() == golden.hex()
    header, decoded = codec.decode(golden, lambda header: layout)
    assert header == codec.Header(1, "golden", "paper", groups["group"].phi.size, 1)
    assert np.array_equal(decoded["group"].phi, groups["group"].phi)
    assert decoded["group"].decoder == decoder and decoded["group"].model == model
    for name, values in groups["group"].psi.items():
        assert np.array_equal(decoded["group"].psi[name], values)


# ---- any integers --------------------------------------------------------------------------------------------------


def through(phi: np.ndarray, decoder: str = "sq", model: str = "static") -> bytes:
    """Encodes and decodes (d, l) integers, checks that they are the same, returns the file."""
    d, l = phi.shape
    k = math.isqrt(l)
    layout = {"g": ((d, 1, k, k),)}
    blob = codec.encode("n", "p", {"g": Coded(decoder, model, phi, {"scale": np.ones((1, l), np.float32)})}, layout)
    _, groups = codec.decode(blob, lambda header: layout)
    result = groups["g"].phi
    assert result.dtype == np.int32 and result.shape == phi.shape and np.array_equal(result, phi)
    return blob


numbers = st.one_of(
    st.integers(-(2**31), 2**31 - 1),
    st.integers(-3, 3),
    st.sampled_from([0, 0, 0, 0, 2**31 - 1, -(2**31), 2**31 - 2, 1, -1, 127, 128, -128]),
    st.integers(10**6, 10**6 + 5),
)


@given(
    st.sampled_from([1, 4, 9]).flatmap(
        lambda l: arrays.arrays(np.int32, st.tuples(st.integers(1, 40), st.just(l)), elements=numbers, fill=st.just(0))
    ),
    st.sampled_from(sorted(entropy.MODELS)),
)
@settings(max_examples=60, deadline=None)
def test_any_integers_round_trip(phi, model):
    through(phi, model=model)


@given(
    st.lists(st.tuples(numbers, st.integers(1, 400)), min_size=1, max_size=30),
    st.integers(0, 2**32),
)
@settings(max_examples=100, deadline=None)
def test_histograms_of_any_kind_round_trip(histogram, seed):
    values = np.repeat([v for v, _ in histogram], [n for _, n in histogram]).astype(np.int32)
    np.random.default_rng(seed).shuffle(values)
    through(values[:, None])


@pytest.mark.parametrize("constant", [0, 5, -1, 2**31 - 1, -(2**31)])
def test_a_constant_column_costs_its_value_alone(constant):
    blob = through(np.full((10_000, 9), constant, np.int32))
    empty = through(np.zeros((10_000, 9), np.int32))
    assert len(empty) <= 50 + 9 * 1  # four bits for the value, three for the span, one for the escape; nine scales
    assert len(blob) - len(empty) <= 9 * 8


@pytest.mark.parametrize("outlier", [1, -7, 1000, 2**31 - 1, -(2**31)])
def test_one_outlier_among_many_zeros_costs_a_few_bytes(outlier):
    phi = np.zeros((100_000, 1), np.int32)
    phi[77_777] = outlier
    blob = through(phi)
    alphabet = Alphabet.fit(phi[:, 0])
    near = (min(outlier, 0), max(outlier, 0), False)  # listing what lies between is cheaper than a byte
    assert (alphabet.low, alphabet.high, alphabet.escape) == (near if abs(outlier) < 8 else (0, 0, True))
    ideal = math.log2(100_000) + 1.5  # which one it is
    assert len(blob) * 8 < ideal + 8 * (50 + 5)


def test_an_empty_column_and_one_row_code():
    through(np.zeros((1, 1), np.int32))
    assert Alphabet.fit(np.zeros(0, np.int32)).table is None


# ---- the choice of tables ------------------------------------------------------------------------------------------


def cost(alphabet: Alphabet, values: np.ndarray) -> float:
    """Bits of table and symbols, measured on what is written."""
    counter = entropy.BitCounter()
    alphabet.write(counter)
    return counter.count + alphabet.bits(values)


def laplace(count: int, scale: float, seed: int = 0) -> np.ndarray:
    return np.round(np.random.default_rng(seed).laplace(0, scale, count)).astype(np.int32)


SAMPLES = {
    "sparse": laplace(20_000, 0.2),
    "wide": laplace(4_000, 40),
    "few": laplace(60, 5),
    "normal": np.round(np.random.default_rng(1).normal(100, 15, 3_000)).astype(np.int32),
    "uniform": np.random.default_rng(2).integers(-50, 50, 2_000).astype(np.int32),
    "heavy": np.clip(np.round(np.random.default_rng(3).standard_cauchy(5_000)), -1e6, 1e6).astype(np.int32),
    "two": np.repeat(np.array([-1, 9], np.int32), [409, 1]),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_the_cheapest_precision_escape_and_resolution_are_chosen(name):
    """No alphabet with another precision, resolution or clipping of the tails is smaller by more than rounding."""
    values = SAMPLES[name]
    chosen = Alphabet.fit(values)
    best = cost(chosen, values)
    bits = [best]
    for mantissa in range(8):
        for low, high in {
            (chosen.low, chosen.high), (chosen.low - 1, chosen.high), (chosen.low, chosen.high + 1),
            (chosen.low + 1, chosen.high), (chosen.low, chosen.high - 1), (int(values.min()), int(values.max())),
        }:  # fmt: skip
            if not low <= high < low + entropy.MAX_ALPHABET:
                continue
            inside = (values >= low) & (values <= high)
            counts = np.bincount(values[inside] - low, minlength=high - low + 1)
            rare = int((~inside).sum())
            weights = [entropy.round_weight(c, mantissa) for c in [*counts.tolist(), *([rare] if rare else [])]]
            if any(weights):
                bits.append(cost(Alphabet(low, high, rare > 0, mantissa, weights), values))
    assert best <= min(bits) * 1.01 + 4


@pytest.mark.parametrize("name", SAMPLES)
def test_a_table_saves_more_than_it_costs(name):
    values = SAMPLES[name]
    chosen = cost(Alphabet.fit(values), values)
    uniform = len(values) * math.log2(int(values.max()) - int(values.min()) + 1)
    assert chosen < uniform + 60
    counts = np.unique(values, return_counts=True)[1]
    entropy_bits = -float((counts * np.log2(counts / len(values))).sum())
    assert chosen < entropy_bits * 1.02 + 8 * len(counts) + 60 and chosen > entropy_bits


def test_precision_grows_with_the_number_of_symbols_and_rare_values_are_escaped():
    few, many = Alphabet.fit(laplace(300, 3)), Alphabet.fit(laplace(3_000_000, 3))
    assert few.mantissa < many.mantissa
    heavy = Alphabet.fit(SAMPLES["heavy"])
    assert heavy.escape and heavy.high - heavy.low < 1000
    assert not Alphabet.fit(SAMPLES["uniform"]).escape and Alphabet.fit(SAMPLES["uniform"]).coarse > 2


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=200).filter(any), st.integers(0, 7), st.booleans())
@settings(max_examples=100, deadline=None)
def test_an_alphabet_reads_back_as_written(counts, mantissa, escape):
    weights = [entropy.round_weight(c, mantissa) for c in counts]
    low = -len(counts) // 2
    alphabet = Alphabet(low, low + len(weights) - 1 - escape, escape, mantissa, weights) if len(weights) > 1 else None
    if alphabet is None:
        return
    writer = Writer()
    alphabet.write(writer)
    reader = Reader(writer.to_bytes())
    again = Alphabet.read(reader)
    reader.align()
    assert reader.position == len(reader.data)
    assert (again.low, again.high, again.escape, again.weights.tolist()) == (low, alphabet.high, escape, weights)
    assert again.table.edges == alphabet.table.edges


@given(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=30), st.integers(-5, 5), st.integers(-1, 20))
@settings(max_examples=100, deadline=None)
def test_escapes_round_trip_and_count_their_bytes(values, low, span):
    high = low + span
    values = np.array([v for v in values if not low <= v <= high], np.int32)
    coder = Ans()
    entropy.push_escapes(coder, values, low, high)
    assert np.array_equal(entropy.pop_escapes(coder, len(values), low, high), values)
    assert coder.empty
    distances = [2 * (int(v) - high - 1) if v > high else 2 * (low - 1 - int(v)) + 1 for v in values]
    assert entropy.escape_count(values, low, high) == sum(max(1, -(-d.bit_length() // 7)) for d in distances)


@given(st.lists(st.tuples(st.integers(-(2**31), 2**31), st.integers(0, 6)), max_size=30), st.integers(0, 2**62))
@settings(max_examples=100, deadline=None)
def test_bits_round_trip(items, number):
    writer = Writer()
    for value, k in items:
        writer.signed(value, k)
        writer.golomb(abs(value), k)
        writer.bits(k, 3)
    writer.varint(number)
    reader = Reader(writer.to_bytes())
    for value, k in items:
        assert (reader.signed(k), reader.golomb(k), reader.bits(3)) == (value, abs(value), k)
    assert reader.varint() == number and reader.position == len(reader.data) == len(writer)


# ---- overhead ------------------------------------------------------------------------------------------------------


def overhead(blob: bytes, layout) -> float:
    """FORMAT.md, section 7: what is neither symbols, tables nor psi."""
    _, breakdown = codec.anatomy(blob, layout)
    _, groups = codec.decode(blob, layout)
    psi = 0
    for group in groups.values():
        for name, values in group.psi.items():
            psi += values.size * (2 if np.array_equal(codec.psi_round(values), values) else 4)
            psi += name == "codebook"  # its length
    return len(blob) - math.fsum(group_bytes.ideal_bits / 8 + group_bytes.table_bytes for group_bytes in breakdown) - psi


def network_file(network: str, keep: float = 1.0, scale: float = 0.4, model: str = "static", name: str = "paper"):
    """A file of a whole network with the paper's decoders, and its layout: Laplacian integers, all but `keep` of them
    zero. With the partitioning `layers`, codebooks of two values for all weights."""
    partitioning = partitionings.get(network, name)
    rng, groups = np.random.default_rng(0), {}
    for group in partitioning.groups:
        if name == "layers" and len(group.tensors) == 1:
            psi = {"codebook": np.array([[-0.1, 0.1]], np.float32)}
            groups[group.name] = Coded("codebook", model, rng.integers(0, 2, (group.size, 1), np.int32), psi)
            continue
        l = reparam.columns(group.decoder, group.shapes[0])
        phi = np.round(rng.laplace(0, scale, (group.size // l, l)))
        phi = np.where(rng.random(phi.shape) < keep, phi, 0).astype(np.int32)
        groups[group.name] = Coded(group.decoder, model, phi, {"scale": codec.psi_round(np.full((1, l), 0.1))})
    shapes = {group.name: group.shapes for group in partitioning.groups}
    return codec.encode(network, name, groups, shapes), partitionings.layout


@pytest.mark.parametrize("keep", [0.001, 0.01, 0.1, 1.0])
@pytest.mark.parametrize("network", ["lenet300-100", "lenet5-caffe"])
def test_overhead_of_a_small_file_is_at_most_60_bytes(network, keep):
    blob, layout = network_file(network, keep)
    if len(blob) > 50_000:
        assert overhead(blob, layout) <= 0.005 * len(blob)
    else:
        assert 25 < overhead(blob, layout) <= 60


def test_overhead_with_codebooks_for_layers():
    blob, layout = network_file("lenet300-100", scale=1, name="layers")
    assert len(blob) < 50_000 and 25 < overhead(blob, layout) <= 60


def test_overhead_of_a_large_file_is_at_most_half_a_percent():
    blob, layout = network_file("resnet20-4", scale=0.4)
    assert len(blob) > 500_000
    assert 0 < overhead(blob, layout) <= 0.005 * len(blob)
    assert overhead(blob, layout) < 100 + 1e-4 * len(blob)  # much less, in fact


def test_anatomy_accounts_for_every_group():
    blob, layout = network_file("lenet5-caffe", 0.05)
    header, breakdown = codec.anatomy(blob, layout)
    assert header == codec.read_header(blob)
    assert [group_bytes.group for group_bytes in breakdown] == ["convs", "fc1", "fc2", "biases"]
    assert [group_bytes.symbols for group_bytes in breakdown] == [25_500, 400_000, 5_000, 580]
    for group_bytes in breakdown:
        assert group_bytes.ideal_bits <= group_bytes.coded_bits + 1 <= group_bytes.ideal_bits * 1.001 + 34
    assert sum(group_bytes.symbols for group_bytes in breakdown) == header.parameters == 431_080


def test_ideal_bits_are_what_the_table_says():
    table = Table([1, 2, 1])
    assert math.isclose(ideal_bits(np.array([4, 8, 4]), table), 4 * 2 + 8 * 1 + 4 * 2, rel_tol=1e-6)


# ---- what the writer refuses ---------------------------------------------------------------------------------------


def encode_one(coded: Coded, shapes=((2, 3),), name="g"):
    return codec.encode("n", "p", {name: coded}, {"g": shapes})


SCALE = {"scale": np.ones((1, 1), np.float32)}


def codebook(entries: int, index: int = 0) -> Coded:
    """Six numbers, the last one `index`."""
    phi = np.array([[0]] * 5 + [[index]], np.int32)
    return Coded("codebook", "static", phi, {"codebook": np.zeros((1, entries), np.float32)})


@pytest.mark.parametrize(
    ("coded", "error", "words"),
    [
        (Coded("scalar", "static", np.zeros((5, 1), np.int32), SCALE), LayoutMismatch, r"\(5, 1\).*\(6, 1\)"),
        (Coded("scalar", "static", np.zeros((6, 1), np.int64), SCALE), TypeError, "int64"),
        (Coded("scalar", "static", np.zeros((6, 1), np.int32), {}), LayoutMismatch, "takes psi"),
        (Coded("scalar", "static", np.zeros((6, 1), np.int32), {"scale": np.ones((2, 1), "f4")}), LayoutMismatch, "shape"),
        (Coded("scalar", "static", np.zeros((6, 1), np.int32), SCALE | {"gain": 1}), LayoutMismatch, "gain"),
        (Coded("scalar", "static", np.zeros((6, 1), np.int32), {"scale": np.array([[np.nan]])}), ValueError, "finite"),
        (Coded("scalar", "static", np.zeros((6, 1), np.int32), {"scale": np.array([[2.0**64]])}), ValueError, "2.64"),
        (Coded("scalar", "static", np.zeros((6, 1), np.int32), {"scale": np.ones(1, "f4")}), LayoutMismatch, r"shape \(1,\)"),
        (codebook(5000), LayoutMismatch, "codebook of 5,000 entries; 1 to 4,096"),
        (codebook(0), LayoutMismatch, "codebook of 0 entries"),
        (codebook(4, 4), LayoutMismatch, "codebook of 4 entries is asked for entries 0 to 4"),
        (codebook(4, -1), LayoutMismatch, "asked for entries -1 to 0"),
        (Coded("dft", "static", np.zeros((6, 1), np.int32), SCALE), LayoutMismatch, "convolutions"),
        (Coded("dct", "static", np.zeros((6, 1), np.int32), SCALE), UnknownName, "dct"),
        (Coded("orth:x", "static", np.zeros((6, 1), np.int32), SCALE), UnknownName, "orth:x"),
        (Coded("scalar", "huffman", np.zeros((6, 1), np.int32), SCALE), UnknownName, "huffman"),
    ],
)
def test_what_is_not_encoded(coded, error, words):
    with pytest.raises(error, match=words):
        encode_one(coded)


def test_groups_must_be_those_of_the_layout():
    with pytest.raises(LayoutMismatch, match=r"\['h'\].*\['g'\]"):
        encode_one(Coded("scalar", "static", np.zeros((6, 1), np.int32), SCALE), name="h")


def test_kernels_of_one_group_have_one_size():
    with pytest.raises(LayoutMismatch, match="one size"):
        encode_one(Coded("sq", "static", np.zeros((2, 9), np.int32), SCALE), shapes=((1, 1, 3, 3), (1, 1, 5, 5)))


def test_a_name_is_short_and_ascii():
    with pytest.raises(ValueError, match="longer than 63"):
        Writer().text("x" * 64)
    with pytest.raises(UnicodeEncodeError):
        Writer().text("é")
    for name in ("a b", "a\n", "\x7f"):
        with pytest.raises(ValueError, match="printable"):
            codec.encode(name, "p", {}, {})


def test_psi_round_keeps_eight_significant_bits():
    values = np.array([0.1, 1.0, -3.14159, 1e-30, 0.0, 257.0], np.float32)
    rounded = codec.psi_round(values)
    assert np.array_equal(codec.psi_round(rounded), rounded)
    assert np.allclose(rounded, values, rtol=2**-8)
    assert not (rounded.view(np.uint32) & 0xFFFF).any()
    assert rounded[5] == 256.0 and codec.psi_round(np.float32(259)) == 260.0  # ties to even


def test_psi_is_stored_short_only_where_that_is_exact():
    layout = {"g": ((2, 3),)}
    sizes = []
    for value in (0.5, 0.1):
        group = Coded("scalar", "static", np.zeros((6, 1), np.int32), {"scale": np.full((1, 1), value, np.float32)})
        blob = codec.encode("n", "p", {"g": group}, layout)
        sizes.append(len(blob))
        assert codec.decode(blob, lambda header: layout)[1]["g"].psi["scale"].tolist() == group.psi["scale"].tolist()
    assert sizes[1] == sizes[0] + 2


def test_weights_that_are_not_finite_are_refused():
    layout = {"g": ((3,),)}
    group = Coded("float32", "raw", np.array([1.0, np.inf, 2.0], np.float32).view(np.int32)[:, None])
    with pytest.raises(CorruptArtifact, match="not finite"):
        codec.decode(codec.encode("n", "p", {"g": group}, layout), lambda header: layout)
