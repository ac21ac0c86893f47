"""Every kind of damage ends in `CorruptArtifact`, with a sentence that says what was found: soon, and in little memory.

Where a damaged file carries a checksum that fits (an attack, not an accident), it may also decode, but then into the
right shapes and finite weights. Nothing else may happen: pyo3's panics are a BaseException, so all tests catch that.
"""

import functools
import json
import math
import subprocess
import sys
import time
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_codec import GOLDEN, example, network_file

import zoo
from zoo import codec, loading, measurement, partitionings, registry, reparam
from zoo.codec import ans, classes, container, context, entropy
from zoo.codec.bits import Writer, varint
from zoo.codec.container import MAGIC
from zoo.codec.work import most_steps
from zoo.errors import (
    CorruptArtifact,
    LayoutMismatch,
    NotAnArtifact,
    TruncatedArtifact,
    UnknownName,
    UnsupportedVersion,
)

HEAD = len(MAGIC) + 1  # magic and version


@functools.cache
def small() -> bytes:
    """lenet300-100 with 99.97 % zeros: a real file of about two hundred bytes."""
    return network_file("lenet300-100", 0.0005, 3.0)[0]


def decode(blob: bytes, layout=partitionings.layout):
    """All that loading does, short of torch: bytes -> weights."""
    header, groups = codec.decode(blob, layout)
    shapes = layout(header)
    return {
        name: reparam.decode(coded.decoder, coded.phi, coded.psi, list(shapes[name])) for name, coded in groups.items()
    }


def seal(body: bytes, version: int = 1) -> bytes:
    """A file around what stands between length and checksum, both of which fit."""
    length = HEAD + 1 + len(body) + 4
    while length != HEAD + len(varint(length)) + len(body) + 4:
        length = HEAD + len(varint(length)) + len(body) + 4
    blob = MAGIC + bytes([version]) + varint(length) + body
    return blob + zlib.crc32(blob).to_bytes(4, "little")


def body(blob: bytes) -> bytes:
    start = HEAD + 1
    while blob[start - 1] & 128:
        start += 1
    return blob[start:-4]


def text(name: str) -> bytes:
    return bytes([len(name)]) + name.encode()


def refused(blob: bytes, error: type = CorruptArtifact, words: str = ".", layout=partitionings.layout) -> str:
    with pytest.raises(error, match=words) as caught:
        decode(blob, layout)
    message = str(caught.value)
    assert 15 < len(message) < 400 and "\n" not in message
    return message


def survives(blob: bytes, layout) -> bool:
    """Whether it decoded; anything but a right network or `CorruptArtifact` fails."""
    begin = time.process_time()
    try:
        weights = decode(blob, layout)
    except CorruptArtifact:
        return False
    except BaseException as error:
        raise AssertionError(f"{blob.hex()} raised {type(error)}: {error}") from error
    finally:
        assert time.process_time() - begin < 1
    shapes = layout(codec.read_header(blob))
    assert list(weights) == list(shapes)
    for name, arrays in weights.items():
        assert tuple(a.shape for a in arrays) == tuple(map(tuple, shapes[name]))
        assert all(a.dtype == np.float32 and np.isfinite(a).all() for a in arrays)
    return True


def test_the_small_file_is_whole():
    assert 150 < len(small()) < 400
    assert seal(body(small())) == small()
    assert survives(small(), partitionings.layout)


# ---- accidents -----------------------------------------------------------------------------------------------------


def test_truncation_at_every_byte():
    for length in range(len(small())):
        blob = small()[:length]
        refused(blob, TruncatedArtifact if length else NotAnArtifact, "ends|declares" if length else "empty")
        with pytest.raises(CorruptArtifact):
            codec.read_header(blob)


def test_a_missing_byte_anywhere():
    for i in range(len(small())):
        refused(small()[:i] + small()[i + 1 :])


def test_a_flipped_bit_at_every_position():
    for i in range(8 * len(small())):
        blob = bytearray(small())
        blob[i // 8] ^= 1 << i % 8
        refused(bytes(blob))
        with pytest.raises(CorruptArtifact):
            codec.read_header(bytes(blob))


def test_bytes_after_the_end():
    refused(small() + b"\0", CorruptArtifact, "1 more than it declares")
    refused(small() + small(), CorruptArtifact, f"{len(small())} more than it declares")


@pytest.mark.parametrize("how", [(b"\r\n", b"\n"), (b"\n", b"\r\n")])
def test_a_transfer_in_text_mode(how):
    refused(small().replace(*how), NotAnArtifact, "text mode")


@pytest.mark.parametrize(
    ("blob", "words"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "Git-LFS pointer.*git lfs pull"),
        (b"<!DOCTYPE html><html><head><title>404</title>", "web page"),
        (b"\n  <html>\n<body>Not found</body>", "web page"),
        (b'<?xml version="1.0"?><Error>AccessDenied</Error>', "web page"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "89 50 4e 47"),
        (b"PK\x03\x04" + bytes(100), "50 4b 03 04"),
        (b"\x80\x05\x95" + bytes(100), "80 05 95"),
        (bytes(5000), "00 00"),
        (b"\x09" + MAGIC[1:] + bytes(30), "not with the magic number"),
    ],
)
def test_another_kind_of_file(blob, words):
    refused(blob, NotAnArtifact, words)


# ---- files that say something wrong, with a checksum that fits -----------------------------------------------------


def test_a_future_version():
    refused(seal(body(small()), version=3), UnsupportedVersion, "version 3.*versions 1 and 2")
    refused(seal(b"something new", version=255), UnsupportedVersion, "version 255")


def test_an_unknown_network():
    renamed = body(small()).replace(text("lenet300-100"), text("lenet300-101"))
    refused(seal(renamed), UnknownName, "'lenet300-101'; nearest: lenet300-100")


def test_an_unknown_partitioning():
    name = text("lenet300-100")
    refused(seal(body(small()).replace(name + b"\0", name + text("own"))), UnknownName, "no partitioning 'own'; known")


def head(network="lenet300-100", partitioning="", parameters=266_610, groups=3) -> bytes:
    return text(network) + text(partitioning) + varint(parameters) + varint(groups)


def test_an_unknown_decoder_and_model():
    refused(seal(head() + b"\1" + text("wavelet") + text("static") + bytes(50)), UnknownName, "decoder 'wavelet'; known")
    refused(seal(head() + b"\1" + text("scalar") + text("magic") + bytes(50)), UnknownName, "model 'magic'; known")
    refused(seal(head() + b"\1" + text("orth:-1") + text("static") + bytes(50)), UnknownName, "orth:-1")


@pytest.mark.parametrize("decoder", ["dft", "sq", "orth:3"])
def test_a_decoder_that_does_not_fit_the_tensors(decoder):
    refused(seal(head() + b"\1" + text(decoder) + text("static") + bytes(50)), LayoutMismatch, "convolutions")


@pytest.mark.parametrize("parameters", [0, 266_609, 266_611, 2**40])
def test_a_count_that_does_not_belong_to_the_network(parameters):
    tail = body(small())[len(head()) :]
    assert head() + tail == body(small())
    refused(seal(head(parameters=parameters) + tail), LayoutMismatch, f"{parameters:,} parameters; .* has 266,610")


@pytest.mark.parametrize("groups", [0, 2, 4, 2**50])
def test_a_number_of_groups_that_does_not_belong_to_the_network(groups):
    tail = body(small())[len(head()) :]
    refused(seal(head(groups=groups) + tail), LayoutMismatch, f"{groups} groups, .* has 3")


def test_the_weights_of_another_network():
    tail = body(small())[len(head()) :]
    refused(seal(head("lenet5-caffe", parameters=431_080, groups=4) + tail))
    refused(seal(head("lenet5-caffe", parameters=431_080, groups=3) + tail), LayoutMismatch, "3 groups")


def test_too_few_and_too_many_raw_numbers():
    layout = {"g": ((2, 3),)}
    group = codec.Coded("float32", "raw", np.zeros((6, 1), np.int32))
    whole = codec.encode("n", "p", {"g": group}, layout)
    assert survives(whole, lambda header: layout)
    for other in ((2, 2), (2, 4), (7,)):
        refused(whole, CorruptArtifact, layout=lambda header, other=other: {"g": (other,)})


def bits(pattern: str) -> bytes:
    pattern = pattern.replace(" ", "")
    return int(pattern.ljust(-(-len(pattern) // 8) * 8, "0"), 2).to_bytes(-(-len(pattern) // 8), "big")


@pytest.mark.parametrize(
    ("group", "words"),
    [
        (b"\x80", "psi flags"),  # no scale
        (b"\xc1", "psi flags"),  # bit 6
        (b"\x85\0\0\x80\x7f", "psi 'scale'.*not finite"),
        (b"\x81\x80\x7f", "psi 'scale'.*not finite"),
        (b"\x81\xc0\x7f", "psi 'scale'.*not finite"),
        (b"\x81\x80\x5f", "psi 'scale'.*2.64"),  # 2^64
        (b"\x91\0\0\0\0", "psi flags"),  # a shift for each tensor, but there is no shift
        (b"\1" + b"\x40" + b"x" * 64, "64 characters"),
        (b"\1" + b"\3a b", "printable ASCII"),
        (b"\1" + b"\3a\xffb", "printable ASCII"),
        (b"\1" + text("codebook") + text("static") + varint(4097) + bytes(9000), "codebook of 4,097"),
        (b"\1" + text("codebook") + text("static") + varint(0) + bytes(50), "codebook of 0"),
        (b"\1" + text("codebook") + text("static") + b"\xff" * 10 + bytes(50), "more than nine bytes"),
        (b"\1" + text("codebook") + text("static") + b"\x84\0" + bytes(50), "needless bytes"),
        (b"\x81\0\0" + bits("100 000000000000 100000000000100 0"), "16,385 integers; at most 16,384"),
        (b"\x81\0\0" + bytes(60), "more than 32 bits"),
        (b"\x81\0\0" + bits("0" * 30 + "1" * 33 + "100"), "beyond 32 bits"),
        (b"\x81\0\0" + bits("100" + "0" * 15 + "1" * 18) + bytes(9), "integers; at most"),
        (b"\x81\0\0" + bits("100 101 0 000 00000101"), "2.4 integers each|hold for 2"),
        (b"\x81\0\0" + bits("100 101 0 000 1 1 1"), "all zero"),
        (b"\x81\0\0" + bits("100 101 0 000 1 011") + bytes(9), "exponent -1"),
        (b"\x81\0\0" + bits("100 101 0 000 1 000000 1010010") + bytes(9), "exponent 41"),
        (b"\x81\0\0" + bits("100 100 0 1"), "padding"),
        (b"\x81\0\0" + bits("100 101 1 111 1 010"), "inside a table"),
    ],
)
def test_side_information_that_no_encoder_writes(group, words):
    refused(seal(head() + group), CorruptArtifact, words)


CONSTANTS = head() + (b"\x81\0\0" + bits("100 100 0")) * 3  # three groups of zeros, no symbols


def test_a_stream_that_is_too_long():
    assert survives(seal(CONSTANTS), partitionings.layout)
    refused(seal(CONSTANTS + b"\1\2\3\4\5"), CorruptArtifact, "does not end with the last weight")
    refused(seal(CONSTANTS + b"\1\2\3\0"), CorruptArtifact, "ends with a zero byte")
    refused(seal(CONSTANTS + bytes(100_000)), CorruptArtifact, "ends with a zero byte")


def test_a_stream_that_is_too_short():
    whole = body(small())
    for cut in range(1, 20):
        refused(seal(whole[:-cut]), CorruptArtifact)


def test_a_codebook_is_not_read_beyond_its_end():
    layout = {"g": ((2, 3),)}
    group = codec.Coded("codebook", "static", np.full((6, 1), 4, np.int32), {"codebook": np.zeros((1, 5), np.float32)})
    inner = body(codec.encode("n", "p", {"g": group}, layout))
    shorter = inner.replace(varint(5) + bytes(2 * 5), varint(4) + bytes(2 * 4))
    assert len(shorter) == len(inner) - 2
    refused(seal(shorter), CorruptArtifact, "codebook of 4 entries", lambda header: layout)


# ---- one byte form for each header ---------------------------------------------------------------------------------


def test_the_usual_partitioning_has_an_empty_name():
    tail = body(small())[len(head()) :]
    refused(seal(head(partitioning="paper") + tail), CorruptArtifact, "'paper' is written out")


def test_a_network_has_one_name():
    tail = body(small())[len(head()) :]
    refused(seal(head("lenet300-100:10") + tail), LayoutMismatch, "lenet300-100:10; .* is called lenet300-100")
    groups = codec.decode(small(), partitionings.layout)[1]
    assert zoo.encode("lenet300-100:10", "paper", groups) == small()
    assert partitionings.get("lenet300-100:11").network == "lenet300-100:11"


# ---- subnormal numbers, which some processors are set to take as zero -----------------------------------------------


def test_a_subnormal_psi_is_refused_and_never_written():
    refused(seal(head() + b"\x81\x01\x00" + bytes(60)), CorruptArtifact, "psi 'scale'.*less than 2.-126")
    refused(seal(head() + b"\x85\xff\xff\x7f\x80" + bytes(60)), CorruptArtifact, "psi 'scale'.*less than 2.-126")
    layout = {"g": ((2, 3),)}
    psi = {"scale": np.array([[0.5]], np.float32), "shift": np.array([[1e-40]], np.float32)}
    blob = codec.encode("n", "p", {"g": codec.Coded("scalar", "raw", np.ones((6, 1), np.int32), psi)}, layout)
    assert codec.decode(blob, lambda header: layout)[1]["g"].psi["shift"].tolist() == [[0.0]]


@pytest.mark.parametrize("decoder", ["scalar", "dft"])
def test_weights_are_the_same_where_subnormal_numbers_are_flushed_to_zero(decoder):
    rng, shape = np.random.default_rng(0), (40, 50, 3, 3)
    l = reparam.columns(decoder, shape)
    layout, phi = {"g": (shape,)}, rng.integers(-3, 4, (math.prod(shape) // l, l)).astype(np.int32)
    digests = set()
    for exponent in (-126, -125, -60, -8):
        psi = {"scale": np.full((1, l), 1.5 * 2.0**exponent, np.float32), "shift": np.full((1, l), -(2.0**exponent), np.float32)}
        blob = codec.encode("n", "p", {"g": codec.Coded(decoder, "static", phi, psi)}, layout)
        weights = []
        for flush in (False, True):
            assert torch.set_flush_denormal(flush)
            try:
                weights.append(decode(blob, lambda header: layout)["g"][0].tobytes())
            finally:
                torch.set_flush_denormal(False)
        assert weights[0] == weights[1]
        values = np.abs(np.frombuffer(weights[0], np.float32))
        assert values[values > 0].min() >= 2.0**-126 and (values > 0).any()
        digests.add(weights[0])
    assert len(digests) == 4


def large(entry):
    return pytest.param(entry, marks=pytest.mark.slow) if entry.parameters > 5_000_000 else entry


@pytest.mark.parametrize("entry", [large(registry.find(name)) for name in registry.ids()], ids=registry.ids())
def test_committed_weights_are_the_same_where_subnormal_numbers_are_flushed_to_zero(entry):
    assert torch.set_flush_denormal(True)
    try:
        digest = measurement.weights_digest(loading.state_dict(registry.read(entry)))
    finally:
        torch.set_flush_denormal(False)
    assert digest == entry.weights_sha256


# ---- the budget of work: few bytes that ask for much ----------------------------------------------------------------


class Expanded:
    """What decoding really made, counted where it is made."""

    def __init__(self, monkeypatch):
        self.entries = self.stored = self.rectangles = self.rows = 0
        table, read, rectangles = ans.Table.__init__, entropy.read_weights, classes._rectangles
        each = ans.Ans.pop_each

        def count_entries(table_, *arguments):
            table(table_, *arguments)
            self.entries += len(table_)

        def count_stored(reader, mantissa, count):
            self.stored += count
            return read(reader, mantissa, count)

        def count_rectangles(*arguments):
            tensor = rectangles(*arguments)
            self.rectangles += sum(map(len, tensor.rectangles))
            return tensor

        def count_rows(coder, index, counts):
            self.rows += 1
            return each(coder, index, counts)

        monkeypatch.setattr(ans.Table, "__init__", count_entries)
        monkeypatch.setattr(entropy, "read_weights", count_stored)
        monkeypatch.setattr(context, "read_weights", count_stored)
        monkeypatch.setattr(classes, "_rectangles", count_rectangles)
        monkeypatch.setattr(ans.Ans, "pop_each", count_rows)

    @property
    def work(self) -> int:
        return 2 * self.entries + 100 * self.stored + 512 * self.rectangles + 1000 * self.rows


def wide(writer: Writer, span: int = 2**14 - 1, coarse: int = 13) -> None:
    """A table of many integers in few bytes."""
    entropy.Alphabet(0, span, False, 0, [1] * ((span >> coarse) + 1), coarse).write(writer)


def many_wide_tables(columns: int) -> bytes:
    writer = Writer()
    for _ in range(columns):
        wide(writer)
    return writer.to_bytes()


def sixty_four_wide_classes() -> bytes:
    writer = Writer()
    writer.golomb(64, 3)
    for _ in range(4):
        entropy.Alphabet(0, 0, False, 0, [1]).write(writer)
    for _ in range(64):
        wide(writer)
    return writer.to_bytes()


def layers_of(network: str, model: str, side: bytes, stream: bytes) -> bytes:
    """Each weight tensor of the network under one and the same side information, biases and BN constant."""
    partitioning = partitionings.get(network, "layers")
    inner = text(network) + text("layers") + varint(partitioning.parameters) + varint(len(partitioning.groups))
    for group in partitioning.groups:
        several = group.name in ("bn.scale", "bn.bias", "biases")
        inner += b"\1" + text("") + text("" if several else model) + b"\0\0" + (bits("100 100 0") if several else side)
    return seal(inner + stream)


@pytest.mark.parametrize("network", ["lenet300-100", "resnet20-4", "resnet50"])
@pytest.mark.parametrize("stream", [b"", b"\x01" * 40])
def test_table_bombs_expand_no_more_than_the_budget(network, stream, monkeypatch):
    blob = layers_of(network, "classes", sixty_four_wide_classes(), stream)
    assert len(blob) < 25_000
    expanded = Expanded(monkeypatch)
    if stream or network != "lenet300-100":
        refused(blob)
    else:
        assert decode(blob)  # so few tables are affordable
    assert expanded.work <= most_steps(len(blob), partitionings.get(network).parameters)


@pytest.mark.parametrize("network", ["resnet50", "resnet50:32768"])
def test_constants_of_a_large_network_take_a_byte_each_until_they_are_weights(network):
    partitioning = partitionings.get(network)
    inner = text(network) + text("") + varint(partitioning.parameters) + varint(len(partitioning.groups))
    for _ in partitioning.groups:
        inner += b"\x81" + b"\0\x3f" + bits("100 100 0")  # scale 0.5, all integers 0
    weights = 4 * partitioning.parameters
    tracemalloc.start()
    with pytest.raises(CorruptArtifact, match="does not end with the last weight"):
        loading.state_dict(seal(inner + b"\1"))
    assert tracemalloc.get_traced_memory()[1] < 0.5 * weights
    tracemalloc.reset_peak()
    if network == "resnet50":
        assert not any(tensor.any() for name, tensor in loading.state_dict(seal(inner)).items() if "running" not in name)
        assert tracemalloc.get_traced_memory()[1] < 1.6 * weights
    tracemalloc.stop()


def test_a_wide_table_for_each_column_is_counted_before_it_is_expanded(monkeypatch):
    layout = {name: ((64, 64, 21, 21),) for name in "abcd"}
    inner = text("n") + text("p") + varint(4 * 64 * 64 * 441) + varint(4)
    for _ in range(4):
        inner += b"\1" + text("sq") + text("static") + bytes(2 * 441) + many_wide_tables(441)
    blob = seal(inner)
    expanded = Expanded(monkeypatch)
    refused(blob, CorruptArtifact, "a table of 16,384 integers would take the file beyond", lambda header: layout)
    assert expanded.entries == 0 and 0 < expanded.stored <= 2 * 4 * 441


def test_rectangles_are_counted_before_they_are_made(monkeypatch):
    shapes = tuple((81, 81, 3, 3) for _ in range(40))
    layout, writer = {"g": shapes}, Writer()
    writer.golomb(1, 3)
    constant, shares = entropy.Alphabet(0, 0, False, 0, [1]), entropy.Alphabet(-40, 40, False, 0, [1] * 81)
    for alphabet in (constant, constant, shares, shares, constant):
        alphabet.write(writer)
    inner = text("n") + text("p") + varint(40 * 81 * 81 * 9) + varint(1) + b"\1" + text("") + text("classes") + b"\0\0"
    stream = np.random.default_rng(0).integers(1, 256, 6 * 81 * 40, np.uint8).tobytes()
    expanded = Expanded(monkeypatch)
    refused(seal(inner + writer.to_bytes() + stream), CorruptArtifact, "rectangles of classes would take", lambda header: layout)
    assert expanded.rectangles == 0


def test_escaped_integers_are_counted_before_they_are_read():
    layout, writer = {"g": ((3000, 1000),)}, Writer()
    entropy.Alphabet(0, 0, True, 7, [1 << 7, 255 << 7]).write(writer)  # nearly all are escaped, for next to no bits
    inner = text("n") + text("p") + varint(3_000_000) + varint(1) + b"\x81\0\0" + writer.to_bytes()
    stream = np.random.default_rng(0).integers(1, 256, 10_000, np.uint8).tobytes()
    refused(seal(inner + stream), CorruptArtifact, "escaped integers would take the file beyond", lambda header: layout)


def test_a_file_is_no_longer_than_its_numbers():
    layout = {"g": ((100, 100),)}
    group = codec.Coded("float32", "raw", np.zeros((10_000, 1), np.int32))
    whole = codec.encode("n", "p", {"g": group}, layout)
    refused(seal(body(whole) + b"\1" * (1 << 20)), CorruptArtifact, "bytes; n needs 1,088,576 at most", lambda header: layout)


def test_an_encoder_says_so_when_a_file_would_take_too_much_work_or_too_many_bytes():
    layout, rng = {"g": ((1500, 1000),)}, np.random.default_rng(0)
    phi = rng.integers(-(2**31), 2**31, (1_500_000, 1), np.int64).astype(np.int32)
    group = codec.Coded("scalar", "static", phi, {"scale": np.ones((1, 1), np.float32)})
    with pytest.raises(ValueError, match="steps to decode, more than readers allow .*`raw` takes none"):
        codec.encode("n", "p", {"g": group}, layout)
    group.model = "raw"
    blob = codec.encode("n", "p", {"g": group}, layout)
    assert np.array_equal(codec.decode(blob, lambda header: layout)[1]["g"].phi, phi)


def test_classes_fall_back_to_fewer_rectangles(monkeypatch):
    rng = np.random.default_rng(0)
    spread = np.exp2(rng.normal(0, 3, (60, 1)) + rng.normal(0, 3, (1, 60)))
    phi = np.rint(rng.laplace(0, 1, (60, 60)) * spread).astype(np.int32).reshape(-1, 1)
    layout = {"g": ((60, 60),)}
    group = codec.Coded("scalar", "classes", phi, {"scale": np.ones((1, 1), np.float32)})
    plenty = codec.encode("n", "p", {"g": group}, layout)
    expanded = Expanded(monkeypatch)
    codec.decode(plenty, lambda header: layout)
    limit = 512 * expanded.rectangles
    assert limit > 50_000
    monkeypatch.setattr(container, "most_steps", lambda length, numbers: limit)
    with pytest.raises(CorruptArtifact, match="would take the file beyond"):
        codec.decode(plenty, lambda header: layout)
    blob = codec.encode("n", "p", {"g": group}, layout)
    assert len(blob) > len(plenty)
    assert np.array_equal(codec.decode(blob, lambda header: layout)[1]["g"].phi, phi)


# ---- anything at all -----------------------------------------------------------------------------------------------


def cases() -> dict:
    """A small file, and its layout, for each decoder and for each entropy model that there is."""
    result = {}
    for decoder, model in dict.fromkeys([*GOLDEN, *((d, m) for d in ("scalar", "sq") for m in entropy.MODELS)]):
        groups, layout = example(decoder, model)
        try:
            result[f"{decoder}-{model}"] = codec.encode("golden", "paper", groups, layout), layout
        except (LayoutMismatch, ValueError):
            continue  # a model that codes no such group
    return result


CASES = cases()


@pytest.mark.parametrize("name", CASES)
def test_every_flipped_bit_under_a_fitting_checksum(name):
    blob, layout = CASES[name]
    inner, outcomes = body(blob), set()
    positions = range(8 * len(inner))
    if len(inner) > 200:  # stored numbers, one like the other
        positions = [i for i in positions if i < 8 * 60 or i % 37 == 0]
    for i in positions:
        changed = bytearray(inner)
        changed[i // 8] ^= 1 << i % 8
        outcomes.add(survives(seal(bytes(changed)), lambda header: tiny_layout(header, layout)))
    assert False in outcomes


def tiny_layout(header, layout):
    if (header.network, header.partitioning) != ("golden", "paper"):
        raise UnknownName(f"unknown network {header.network!r}, or partitioning {header.partitioning!r}")
    if header.parameters != sum(math.prod(shape) for shape in layout["group"]):
        raise LayoutMismatch(f"{header.parameters} parameters")
    return layout


@given(st.sampled_from(sorted(CASES)), st.data())
@settings(max_examples=300, deadline=None)
def test_any_change_under_a_fitting_checksum(name, data):
    blob, layout = CASES[name]
    inner = bytearray(body(blob))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(len(text("golden")) + 1, len(inner)))
        size = data.draw(st.integers(0, 4))
        inner[at : at + size] = data.draw(st.binary(max_size=6))
    survives(seal(bytes(inner)), lambda header: layout)


NAMES = sorted((d, m) for d in ("scalar", "sq", "codebook", "float32") for m in entropy.MODELS)


@given(st.sampled_from(NAMES), st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_side_information(names, noise):
    decoder, model = names
    _, layout = example("dft")
    count = sum(math.prod(shape) for shape in layout["group"])
    start = text("golden") + text("") + varint(count) + varint(1)
    flags = {"float32": b"\0"}.get(decoder, b"\1")
    psi = {"float32": b"", "codebook": varint(2) + bytes(4), "sq": bytes(18)}.get(decoder, bytes(2))
    survives(seal(start + flags + text(decoder) + text(model) + psi + noise), lambda header: layout)


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_bytes(noise):
    for blob in (noise, MAGIC + noise, seal(noise), seal(head() + noise)):
        survives(blob, partitionings.layout)


HOSTILE = """
import json, resource, sys, time, tracemalloc
sys.path[:0] = json.loads(sys.argv[1])
import numpy as np
from test_codec_damage import body, decode, seal, small, head, partitionings
from zoo.errors import CorruptArtifact
inner, rng, slowest, decoded, count = body(small()), np.random.default_rng(0), 0.0, 0, 80
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tracemalloc.start()
for _ in range(count):
    changed = bytearray(inner)
    for i in rng.integers(8 * len(head()), 8 * len(inner), rng.integers(1, 4)).tolist():
        changed[i // 8] ^= 1 << i % 8
    begin = time.process_time()
    try:
        decode(seal(bytes(changed)))
        decoded += 1
    except CorruptArtifact:
        pass
    slowest = max(slowest, time.process_time() - begin)
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
print(json.dumps([slowest, grown, tracemalloc.get_traced_memory()[1], decoded, count]))
"""


def test_flipped_bits_of_a_network_cost_neither_time_nor_memory():
    run = subprocess.run([sys.executable, "-c", HOSTILE, json.dumps(sys.path)], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    slowest, grown, traced, decoded, count = json.loads(run.stdout)
    assert slowest < 1
    assert grown < 200e6 and traced < 200e6
    assert decoded < count
