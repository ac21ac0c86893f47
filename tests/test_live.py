"""The entropy model of nearly empty tensors: round trips, hand-computed decisions, what it gains, what it refuses."""

import math

import numpy as np
import pytest
from entropy_models import round_trip
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo import codec
from zoo.codec import entropy, live
from zoo.codec.bits import Reader, Writer
from zoo.errors import CorruptArtifact, TruncatedArtifact

SHAPES = [((6, 5, 3, 3), (4, 6, 3, 3)), ((7, 3, 1, 1), (5, 7)), ((30, 200),), ((12,), (5,)), ((3, 0),), ((1, 1),)]


def integers(shapes, l: int, seed: int, scale: float = 1.0, alive: float = 0.4) -> np.ndarray:
    """Zeros but for some rows and columns."""
    rng, pieces = np.random.default_rng(seed), []
    for shape in shapes:
        o, i, p = live.planes(shape)
        values = rng.laplace(size=(o, i, p)) * scale * (rng.random((o, 1, 1)) < alive) * (rng.random((1, i, 1)) < alive)
        values = np.clip(np.rint(values), -(2**31), 2**31 - 1)
        pieces.append(values.astype(np.int32).reshape(-1, l))
    return np.concatenate(pieces)


@pytest.mark.parametrize("shapes, l", [*((s, 1) for s in SHAPES), (SHAPES[0], 9)])
@pytest.mark.parametrize("scale", [0.0, 0.5, 300.0, 1e12])
def test_round_trip(shapes, l, scale):
    phi = integers(shapes, l, 0, scale)
    result, bits, model = round_trip(phi, shapes, "live")
    np.testing.assert_array_equal(result, phi)
    assert result.dtype == np.int32
    assert model.bits(phi) <= bits


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SHAPES), st.integers(0, 2**32), st.sampled_from([0.3, 20.0, 1e8]), st.sampled_from([0.2, 1.0]))
def test_any_integers_come_back(shapes, seed, scale, alive):
    phi = integers(shapes, 1, seed, scale, alive)
    np.testing.assert_array_equal(round_trip(phi, shapes, "live")[0], phi)


def decisions(phi, shapes, **lines):
    """(bit, weight of 0, weight of 1) of one tensor, with these priors."""
    model = entropy.find("live").fit(phi, shapes)
    for name, value in lines.items():
        setattr(model.lines[0], name, value)
    writer = live._DecisionWriter()
    model._walk(phi.copy(), writer)
    return writer.decisions


def test_the_decisions_of_a_small_matrix_by_hand():
    """Rows 0 and 2 live, and columns 0 and 1:    2 -1 0
                                                  0  0 0
                                                  0  1 0"""
    phi = np.array([2, -1, 0, 0, 0, 0, 0, 1, 0], np.int32)[:, None]
    expected = [
        (1, 1, 1), (0, 1, 1),  # rows 0 and 1: what the second asks by has not been asked before
        (1, 1, 1),  # column 0; the last live one needs no word
        (1, 1, 1), (0, 1, 1), (1, 1, 1), (0, 1, 1),  # 2: not zero, positive, greater than 1, not greater than 2
        (1, 1 * 3, 3 * 3), (1, 3, 1), (0, 1, 3),  # -1: one of one was not zero, not negative, greater than 1
        (0, 1 * 5, 5 * 5),  # 0
        (1, 3 * 3 * 5, 5 * 5 * 3), (0, 3, 3), (0, 3, 3),  # 1
    ]
    assert decisions(phi, ((3, 3),), row_prior=7, column_prior=7, back=1) == expected


def test_the_weights_of_priors_by_hand():
    """The last of [[1, 1], [0, 1]] after two others and a zero: Z = 3, N = 5; row: 1 zero; column: one other, b = 1, a = 2."""
    phi = np.array([1, 1, 0, 1], np.int32)[:, None]
    result = decisions(phi, ((2, 2),), row_prior=2, column_prior=1, back=1)
    r0, r1 = 1 * 8 + 4 * 3, 0 * 8 + 4 * 5
    c0, c1 = 0 * 8 + 2 * 3, 1 * 8 + 2 * 5
    assert result[-3] == (1, r0 * c0 * 5, r1 * c1 * 3)


def test_large_weights_lose_their_last_bits_and_never_vanish():
    assert live._weights(2**40, 2**3) == (2**37, 1)
    assert live._weights(2**38 - 1, 7) == (2**38 - 1, 7)


def test_smaller_than_tables_where_most_lines_are_empty():
    shapes = ((300, 784), (100, 300))
    phi = integers(shapes, 1, 3, 0.6, 0.15)
    sizes = {name: round_trip(phi, shapes, name)[1] for name in ("live", "static", "classes")}
    assert sizes["live"] < 0.8 * sizes["static"] and sizes["live"] < 0.95 * sizes["classes"]


def test_the_estimate_that_chooses_priors_is_the_length_of_the_code():
    rng = np.random.default_rng(1)
    hit = rng.random((9, 11, 2)) < 0.3
    hit[:, 0], hit[0] = True, True  # every line lives
    phi = hit.astype(np.int32).reshape(-1, 1)
    for (a, b), bits in live._significance(hit).items():
        result = [d for d in decisions(phi, ((9, 11, 2),), row_prior=a, column_prior=b, back=1)]
        skipped = 8 + 10  # the masks
        spent, at = 0.0, skipped
        for cell in hit.reshape(-1):
            bit, zero, one = result[at]
            assert bit == cell
            spent += math.log2((zero + one) / (one if bit else zero))
            at += 3 if bit else 1  # its sign, and that it is not greater than 1
        assert at == len(result) and spent == pytest.approx(bits, rel=1e-9)


@pytest.mark.parametrize("rows, columns, back", [(7, 1, 1), (6, 6, 1), (6, 0, 1), (6, 5, 65)])
def test_damaged_side_information_is_refused(rows, columns, back):
    writer = Writer()
    writer.bits(0, 1), writer.bits(rows, 3), writer.bits(columns, 3), writer.bits(0, 6), writer.golomb(back - 1, 3)
    writer.raw(bytes(8))
    with pytest.raises(CorruptArtifact, match="live lines"):
        entropy.find("live").read(Reader(writer.to_bytes()), 1, ((6, 5),))


def test_where_too_many_lines_live_a_file_is_written_in_classes_and_read_back():
    layout = {"all": ((300, 784),)}
    phi = integers(layout["all"], 1, 0, 2.0, 1.0)
    scale = {"scale": np.float32([[1.0]])}
    files = {
        model: codec.encode("net", "own", {"all": codec.Coded("scalar", model, phi, scale)}, layout)
        for model in ("live", "classes")
    }
    assert abs(len(files["live"]) - len(files["classes"])) < 8
    groups = codec.decode(files["live"], lambda header: layout)[1]
    np.testing.assert_array_equal(groups["all"].phi, phi)


def test_side_information_that_ends_early_is_refused():
    with pytest.raises(TruncatedArtifact):
        entropy.find("live").read(Reader(b""), 1, ((6, 5),))
