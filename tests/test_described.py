"""Version 2 of the file: the page, a reader written from it, round trips of any tensors, and what is refused."""

import itertools
import math
import random
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_codec_damage import seal
from test_codec_reader import Bytes, Stream, read_alphabet, read_classes, read_column, read_psi, weights_of

from zoo import codec
from zoo.codec import Coded, Description, Picture, Tensor, described
from zoo.errors import CorruptArtifact, UnsupportedVersion

PAGE = Path(codec.__file__).with_name("FORMAT.md").read_text().split("## 9. ")[1]
SIZES = [4, 2, 2, 8, 1, 1, 2, 4, 8, 1, 2, 4, 8, 8, 16, 1, 1]  # of the kinds, as the page lists them
KINDS = list(described.DTYPES)


# ---- a reader from the page --------------------------------------------------------------------------------------


def string(data):
    return data.raw(data.varint()).decode("utf-8")


def read(blob):
    """Bytes -> network, pictures, classes, {name: (kind, shape, bytes of an exact tensor or list of decoded float64)}."""
    assert blob[:9] == b"\x89ZOO\r\n\x1a\n\x02"
    assert struct.unpack("<I", blob[-4:])[0] == zlib.crc32(blob[:-4])
    data = Bytes(blob[:-4])
    data.raw(9)
    assert data.varint() == len(blob)
    network, (flags,), pictures, classes = data.text(), data.raw(1), None, []
    if flags & 1:
        name, mode = data.text(), data.text()
        size, resize, enlarge, (code,) = data.varint(), data.varint(), data.varint(), data.raw(1)
        channels = {"L": 1, "RGB": 3}[mode]
        pictures = name, mode, size, resize, enlarge, code, struct.unpack(f"<{1 + 2 * channels}f", data.raw(4 + 8 * channels))
    if flags & 2:
        classes = [string(data) for _ in range(data.varint())]
    kinds = list(data.raw(data.varint()))
    table, words, name = [], [], []
    for _ in range(data.varint()):
        shared, more = data.varint(), data.varint()
        name = name[:shared]
        for _ in range(more):
            number = data.varint()
            if number == len(words):
                words.append(string(data))
            name.append(words[number])
        group = data.varint()
        table.append((".".join(name), group, [data.varint()] if group == 0 else [data.varint() for _ in range(data.varint())]))
    decoder, model, groups = "scalar", "static", []
    for number, kind in enumerate(kinds):
        shapes = [tuple(shape_or_alias) for _, group, shape_or_alias in table if group == number + 1]
        (flags,) = data.raw(1)
        if not flags >> 7:
            decoder, model = data.text() or "scalar", data.text() or "static"
        l = SIZES[kind] if decoder == "exact" else 1 if decoder in ("scalar", "codebook", "float32") else shapes[0][-1] ** 2
        d = sum(map(math.prod, shapes)) // (1 if decoder == "exact" else l)
        psi = read_psi(data, flags, len(shapes), l, decoder)
        alphabets = [read_alphabet(data) for _ in range(4 + data.eg(3) if model == "classes" else l)]
        data.raw(0)
        groups.append((decoder, model, l, d, shapes, psi, alphabets))
    stream, tensors = Stream(data.data[data.at :]), []
    for kind, (decoder, model, l, d, shapes, psi, alphabets) in zip(kinds, groups, strict=True):
        if model == "classes":
            columns = read_classes(stream, l, shapes, alphabets)
        else:
            columns = [read_column(stream, d, alphabet) for alphabet in alphabets]
        rows, start, members = list(zip(*columns, strict=True)), 0, []
        for t, shape in enumerate(shapes):
            count = math.prod(shape) // (1 if decoder == "exact" else l)
            tensor_rows = rows[start : start + count]
            start += count
            if decoder == "exact":
                members.append((KINDS[kind], shape, b"".join(map(bytes, tensor_rows))))
                continue
            scale, shift = ([a[min(t, len(a) - 1)] if a else [0.0] * l for a in psi])
            values = itertools.chain.from_iterable(weights_of(decoder, row, scale, shift, None, l) for row in tensor_rows)
            members.append((KINDS[kind], shape, [struct.unpack("<f", struct.pack("<f", x))[0] for x in values]))
        tensors.append(iter(members))
    assert stream.state == 0 and not stream.words
    out = {}
    for name, group, shape_or_alias in table:
        out[name] = next(tensors[group - 1]) if group else out[table[shape_or_alias[0]][0]]
    return network, pictures, classes, out


# ---- the page ----------------------------------------------------------------------------------------------------


def example():
    phi = np.zeros((24, 1), np.int32)
    phi[3], phi[7] = 1, -2
    bias = np.array([1, 2, 3.5, -0.25], "<f4").view(np.uint8).reshape(4, 4)
    count = np.array([7], "<i8").view(np.uint8).reshape(1, 8)
    table = (Tensor("a.weight", (4, 6), 0), Tensor("a.bias", (4,), 1), Tensor("n", (), 2), Tensor("b.weight", (4, 6), None, 0))
    groups = [Coded("scalar", "static", phi, {"scale": np.array([[0.125]], np.float32)}), Coded("exact", "static", bias)]
    return Description("", ("float32", "float32", "int64"), table), [*groups, Coded("exact", "static", count)]


def golden():
    blob = b""
    for line in PAGE.split("```text\n")[1].split("```")[0].splitlines():
        offset, hexadecimal = re.fullmatch(r"([0-9a-f]{2})  ((?:[0-9a-f]{2} )*[0-9a-f]{2})   .*", line).groups()
        assert int(offset, 16) == len(blob)
        blob += bytes.fromhex(hexadecimal)
    return blob


def test_the_example_of_the_page_is_what_the_encoder_writes():
    assert described.encode(*example()) == golden()
    assert f"{len(golden())} bytes:" in PAGE


def test_the_example_reads_as_the_page_says():
    network, pictures, classes, tensors = read(golden())
    weight = [0.0] * 24
    weight[3], weight[7] = 0.125, -0.25
    assert (network, pictures, classes) == ("", None, [])
    assert tensors == {
        "a.weight": ("float32", (4, 6), weight),
        "a.bias": ("float32", (4,), struct.pack("<4f", 1, 2, 3.5, -0.25)),
        "n": ("int64", (), struct.pack("<q", 7)),
        "b.weight": ("float32", (4, 6), weight),
    }


def test_the_page_lists_the_kinds_of_numbers():
    listed = re.search(r"0 float32.*?float8_e5m2", PAGE)[0].split(", ")
    assert [(int(n), kind) for n, kind in map(str.split, listed)] == list(enumerate(KINDS))
    assert list(described.DTYPES.values()) == SIZES


# ---- round trips -------------------------------------------------------------------------------------------------

words = st.text(st.characters(exclude_characters=".", exclude_categories=["Cs", "Cc"]), min_size=0, max_size=6)
names = st.lists(words, min_size=1, max_size=4).map(".".join)
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)


@st.composite
def files(draw):
    """A description and groups of any kinds of numbers."""
    rows = draw(st.lists(names, unique=True, max_size=6))
    table, dtypes, members = [], [], []
    for row, name in enumerate(rows):
        earlier = [i for i, t in enumerate(table) if t.group is not None]
        if earlier and draw(st.integers(0, 4)) == 0:
            alias = draw(st.sampled_from(earlier))
            table.append(Tensor(name, table[alias].shape, None, alias))
            continue
        group = draw(st.integers(0, len(dtypes)))
        if group == len(dtypes):
            decoder = draw(st.sampled_from(["exact", "exact", "scalar", "dft"]))
            dtypes.append(draw(st.sampled_from(KINDS if decoder == "exact" else described.DECODED)))
            members.append((decoder, []))
        decoder = members[group][0]
        shape = (draw(st.integers(0, 3)), draw(st.integers(1, 3)), 3, 3) if decoder == "dft" else draw(shapes)
        members[group][1].append(shape)
        table.append(Tensor(name, shape, group))
        del row
    random_numbers, coded = np.random.default_rng(draw(st.integers(0, 99))), []
    for dtype, (decoder, tensors) in zip(dtypes, members, strict=True):
        d = sum(map(math.prod, tensors))
        if decoder == "exact":
            most = 2 if dtype == "bool" else draw(st.sampled_from([1, 3, 256]))
            coded.append(Coded("exact", "static", random_numbers.integers(0, most, (d, described.DTYPES[dtype]), np.uint8)))
            continue
        l = 9 if decoder == "dft" else 1
        phi = np.rint(random_numbers.laplace(0, 2, (d // l, l))).astype(np.int32)
        scale = np.exp(random_numbers.normal(0, 1, (draw(st.sampled_from([1, len(tensors)])), l))).astype(np.float32)
        coded.append(Coded(decoder, draw(st.sampled_from(["static", "classes"])), phi, {"scale": scale}))
    picture = draw(st.sampled_from([None, Picture("imagenet", "RGB", 224, 256, 255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 1.0)),
                                    Picture("", "L", 28, None, 1.0, (0.5,), (-2.0,), 2, "bicubic")]))  # fmt: skip
    return Description("any", tuple(dtypes), tuple(table), picture, tuple(draw(st.lists(words, max_size=3)))), coded


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(files())
def test_any_tensors_come_back(file):
    description, groups = file
    blob = described.encode(description, groups)
    again, decoded = described.decode(blob)
    assert again == description
    for before, after in zip(groups, decoded, strict=True):
        assert (before.decoder, before.model) == (after.decoder, after.model)
        assert np.array_equal(before.phi, after.phi) and before.phi.dtype == after.phi.dtype
    assert described.encode(again, decoded) == blob
    assert codec.read_header(blob) == codec.Header(2, "any", "", description.numbers, len(groups))
    network, pictures, classes, tensors = read(blob)
    assert list(tensors) == [t.name for t in description.tensors] and classes == list(description.classes)
    assert (pictures is None) == (description.picture is None)
    exact = {}
    for number, (group, shapes) in enumerate(zip(groups, description.shapes().values(), strict=True)):
        if group.decoder == "exact":
            cuts = np.split(group.phi, np.cumsum([math.prod(shape) for shape in shapes])[:-1])
            exact[number] = iter([cut.tobytes() for cut in cuts])
    for t in description.tensors:
        assert tensors[t.name][:2] == (description.dtype(t), t.shape)
        if t.group in exact:
            assert tensors[t.name][2] == next(exact[t.group])


@pytest.mark.parametrize("model", ["static", "classes", "context"])
def test_shapes_with_sides_of_nothing_come_back(model):
    for shape in itertools.chain(*(itertools.product((0, 1, 2), repeat=n) for n in range(4))):
        for second in ((), (0,), (2, 2), (1, 1, 0)):
            phi = np.arange(math.prod(shape) + math.prod(second), dtype=np.int32)[:, None] % 3
            description = Description("", ("float32",), (Tensor("a", shape, 0), Tensor("b", second, 0)))
            coded = Coded("scalar", model, phi, {"scale": np.ones((1, 1), np.float32)})
            (again,) = described.decode(described.encode(description, [coded]))[1]
            assert np.array_equal(again.phi, phi), (shape, second)


def test_parts_add_up_to_the_file():
    blob = golden()
    description, breakdown, start = described.anatomy(blob)
    assert start == 0x3C and description == example()[0]
    stream = blob.index(bytes.fromhex("0000fffdefa6500e6621"))
    assert start + sum(p.psi_bytes + p.table_bytes for p in breakdown) == stream
    assert [p.symbols for p in breakdown] == [24, 16, 8]


# ---- what is refused ---------------------------------------------------------------------------------------------


def resealed(data):
    """The example with another body, its length and checksum made right."""
    return seal(data, 2)


def body():
    return golden()[10:-4]


HUGE = b"\xff\xff\xff\xff\x07"
REFUSED = {
    "flags that are not known": (lambda b: b[:1] + b"\4" + b[2:], "flags"),
    "a kind of number that is not known": (lambda b: b[:3] + b"\x63" + b[4:], "kind 99"),
    "a quantised group of integers": (lambda b: b[:3] + b"\7" + b[4:], "only floating-point"),
    "a group without tensors": (lambda b: b[:2] + b"\4\0\0\x08\0" + b[6:], "4 groups are declared, 3 have"),
    "two tensors of one name": (lambda b: b.replace(b"\4\1b\1", b"\4\1a\1"), "called 'a.weight'"),
    "a shared word that is not shared": (lambda b: b.replace(b"\1\1\2\4bias", b"\0\2\0\2\4bias"), "one form"),
    "another name of itself": (lambda b: b.replace(b"\4\1b\1\0\0", b"\4\1b\1\0\3"), "another name of row 3"),
    "a group that comes too early": (lambda b: b.replace(b"bias\2\1\4", b"bias\3\1\4"), "next new one is 1"),
    "a tensor that no file so short may hold": (lambda b: b.replace(b"weight\1\2\4\6", b"weight\1\2\4" + HUGE), "of memory"),
    "a tensor of nothing by too much": (lambda b: b.replace(b"weight\1\2\4\6", b"weight\1\2\0" + HUGE), "of memory"),
    "too many dimensions": (lambda b: b.replace(b"weight\1\2\4\6", b"weight\1\x21" + b"\1" * 33), "33 dimensions"),
    "a name that is not UTF-8": (lambda b: b.replace(b"\4bias", b"\4bi\xffs"), "UTF-8"),
    "a name with a line end": (lambda b: b.replace(b"\4bias", b"\4bi\ns"), "control"),
    "a long name": (lambda b: b.replace(b"\4bias", b"\x81\x08" + b"b" * 1025), "1025 bytes"),
    "a word from nowhere": (lambda b: b.replace(b"\1\1\2\4bias", b"\1\1\5\4bias"), "word 5"),
    "more shared words than there are": (lambda b: b.replace(b"\1\1\2\4bias", b"\3\1\2\4bias"), "a name of 3 words"),
    "bytes under another model": (lambda b: b.replace(b"\5exact\0", b"\5exact\3raw"), "only `static`"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_a_header_that_is_not_right_is_refused(what):
    change, message = REFUSED[what]
    assert change(body()) != body()
    with pytest.raises(CorruptArtifact, match=message):
        described.decode(resealed(change(body())))


def unread(tensors, dtypes=("float32",), tail=b""):
    """A file whose table is right, as far as its own form goes, and whose groups are junk."""
    return resealed(described._header(Description("", dtypes, tuple(tensors))) + tail)


def ties(name, count):
    """One tensor, and so many other names of it."""
    names = [name + f"{i // 256}.{i % 256}" for i in range(count)]
    return [Tensor(names[0], (), 0)] + [Tensor(name, (), None, 0) for name in names[1:]]


def bases(count):
    """Groups of one 7x7 kernel each, under a basis of their own."""
    psi, phi = b"\0\x3f" * 49, bytes(4 * 49)
    return b"".join(b"\1" + bytes([len(f"orth:{i}")]) + f"orth:{i}".encode() + b"\3raw" + psi + phi for i in range(count))


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (lambda: unread(ties("", 1 << 15)), "a table of 32,768 tensors; a file of .* bytes may have"),
        (lambda: unread(ties("w." * 120, 12_000)), "the names of the first .* tensors are longer than those of"),
        (lambda: unread(ties("w" * 1000 + ".", 12_000)), "the names of the first .* tensors are longer than those of"),
        (lambda: unread([Tensor(f"{i}", (), i) for i in range(25_000)], ("int8",) * 25_000), "25,000 groups would take"),
        (lambda: unread([Tensor(f"{i}", (1, 1, 7, 7), i) for i in range(99)], ("float32",) * 99, bases(99)), "a basis of 49"),
    ],
    ids=["rows", "words", "long names", "groups", "bases"],
)
def test_a_table_that_grows_faster_than_its_file_is_refused(blob, message):
    with pytest.raises(CorruptArtifact, match=message) as refusal:
        described.decode(blob())
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize("name", ["x" * 1000, ".".join("w" * 120), "é" * 500])
def test_messages_cut_long_names(name):
    twice = described._header(Description("", ("int8",), (Tensor(name, (), 0), Tensor(name, (), 0))))
    huge = described._header(Description("", ("int8",), (Tensor(name, (2**62,) * 32, 0),)))
    for header in (twice, huge, huge.replace(name.split(".")[0].encode(), b"\xff" * len(name.split(".")[0].encode()))):
        with pytest.raises(CorruptArtifact) as refusal:
            described.decode(resealed(header))
        assert len(str(refusal.value)) < 400


def test_a_byte_beyond_eight_bits_and_a_bool_beyond_one_are_refused():
    number = Coded("exact", "static", np.array([[2]], np.uint8))
    with pytest.raises(CorruptArtifact, match="bool"):
        described.decode(described.encode(Description("", ("bool",), (Tensor("a", (1,), 0),)), [number]))
    blob = described.encode(Description("", ("uint8",), (Tensor("a", (1,), 0),)), [number])
    with pytest.raises(CorruptArtifact, match="a byte of the value"):  # low = 2: 01110 -> low = 600
        wide = codec.container.Writer()
        wide.signed(600, 2), wide.golomb(0, 2), wide.bits(0, 1)
        place = blob.index(b"exact") + 6
        described.decode(resealed(blob[10:place] + wide.to_bytes()))


def test_kernels_that_would_make_a_large_basis_are_refused():
    for decoder, shape in (("orth:1", (1, 1, 8, 8)), ("dft", (0, 1, 0, 0)), ("dft", (1, 1, 64, 64))):
        phi = np.zeros((1, max(shape[2] ** 2, 1)), np.int32)
        coded = Coded(decoder, "static", phi, {"scale": np.ones((1, phi.shape[1]), np.float32)})
        with pytest.raises(CorruptArtifact, match="1 to 49"):
            described.encode(Description("", ("float32",), (Tensor("a", shape, 0),)), [coded])


def test_version_1_does_not_know_exact_numbers_and_each_version_has_its_reader():
    coded = Coded("exact", "static", np.zeros((4, 4), np.uint8))
    with pytest.raises(CorruptArtifact, match="unknown parameter decoder 'exact'"):
        codec.encode("", "", {"a": coded}, {"a": ((4,),)})
    with pytest.raises(UnsupportedVersion, match="describes its tensors itself"):
        codec.decode(golden(), lambda header: {})
    first = codec.encode("x", "paper", {}, {})
    with pytest.raises(UnsupportedVersion, match="does not describe"):
        described.decode(first)
    assert codec.read_header(first).version == 1


def test_groups_in_another_order_are_the_writers_fault():
    _, groups = example()
    with pytest.raises(ValueError, match="no file may hold"):
        described.encode(Description("", ("float32", "int64"), (Tensor("n", (), 1), Tensor("b", (4,), 0))), groups[1:])


def test_damaged_files_raise_nothing_but_corrupt_artifact():
    draw, blob = random.Random(0), golden()
    for _ in range(1500):
        data = bytearray(blob[10:-4])
        for _ in range(draw.randint(1, 3)):
            data[draw.randrange(len(data))] = draw.choice([0, 1, 2, 127, 128, 255, draw.randrange(256)])
        try:
            described.decode(resealed(bytes(data)))
        except CorruptArtifact:
            pass
