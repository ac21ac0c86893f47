"""The entropy model of large tensors: round trips, its page of the format read anew, what it gains, what it refuses."""

import numpy as np
import pytest
from entropy_models import round_trip
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.codec import classes, entropy
from zoo.codec.ans import Ans
from zoo.codec.bits import Reader, Writer
from zoo.errors import CorruptArtifact, TruncatedArtifact

SHAPES = [((6, 5, 3, 3), (4, 6, 3, 3)), ((7, 3, 1, 1), (5, 7)), ((4, 3, 7, 7),), ((12,), (5,)), ((3, 0),), ((1, 1),)]


def integers(shapes, l: int, seed: int, scale: float = 1.0) -> np.ndarray:
    """Whose size depends on row, column and place."""
    rng, pieces = np.random.default_rng(seed), []
    for shape in shapes:
        o, i, p = classes.planes(shape)
        size = np.exp(rng.standard_normal((o, 1, 1)) + rng.standard_normal((1, i, 1)) + 0.5 * rng.standard_normal((1, 1, p)))
        values = np.clip(np.rint(scale * size * rng.laplace(size=(o, i, p))), -(2**31), 2**31 - 1)
        pieces.append(values.astype(np.int32).reshape(-1, l))
    return np.concatenate(pieces)


@pytest.mark.parametrize("shapes, l", [*((s, 1) for s in SHAPES), (SHAPES[0], 9)])
@pytest.mark.parametrize("scale", [0.05, 1.0, 300.0])
def test_round_trip(shapes, l, scale):
    phi = integers(shapes, l, 0, scale)
    result, bits, model = round_trip(phi, shapes, "classes")
    np.testing.assert_array_equal(result, phi)
    assert np.can_cast(result.dtype, np.int32) and result.dtype.kind == "i"
    if phi.size:
        assert model.bits(phi) <= bits


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SHAPES), st.integers(0, 2**32), st.sampled_from([0.0, 0.3, 20.0, 1e8]))
def test_any_integers_come_back(shapes, seed, scale):
    phi = integers(shapes, 1, seed, scale)
    np.testing.assert_array_equal(round_trip(phi, shapes, "classes")[0], phi)


def test_the_order_of_the_stream_is_that_of_the_page():
    """Classes and their order computed integer by integer, as FORMAT.md says."""
    shapes = SHAPES[0]
    phi = integers(shapes, 9, 3)
    model = entropy.find("classes").fit(phi, shapes)
    listed = [[] for _ in model.tables]
    start = 0
    for shape, share in zip(shapes, model.shares, strict=True):
        o, i, p = shape[0], shape[1], 9
        base, places, rows, columns = share[0], share[1 : 1 + p], share[1 + p : 1 + p + o], share[1 + p + o :]
        for place in range(p):
            for r in sorted(set(rows.tolist())):
                for c in sorted(set(columns.tolist())):
                    k = min(max(base + places[place] + r + c, 0), len(model.tables) - 1)
                    for oo in range(o):
                        for ii in range(i):
                            if rows[oo] == r and columns[ii] == c:
                                listed[k].append(phi[start + oo * i + ii, place])
        start += o * i
    for wanted, result in zip(listed, model._gather(phi, len(model.tables)), strict=True):
        np.testing.assert_array_equal(result, wanted)


def test_smaller_than_one_table_where_rows_and_columns_differ():
    shapes = ((64, 64, 3, 3), (128, 64, 1, 1))
    for l, some in ((9, shapes[:1]), (1, shapes[1:])):
        phi = integers(some, l, 5, 0.4)
        assert round_trip(phi, some, "classes")[1] < 0.9 * round_trip(phi, some, "static")[1]


def test_damaged_side_information_is_refused():
    phi = integers(SHAPES[0], 9, 0)
    model = entropy.find("classes").fit(phi, SHAPES[0])
    writer = Writer()
    writer.golomb(65, 3)
    with pytest.raises(CorruptArtifact, match="65 classes"):
        entropy.find("classes").read(Reader(writer.to_bytes()), 9, SHAPES[0])
    writer = Writer()
    model.write(writer)
    with pytest.raises(TruncatedArtifact):
        entropy.find("classes").read(Reader(writer.to_bytes()[:-6]), 9, SHAPES[0])
    model.shares[0][0] = 41
    model.kinds[0] = entropy.Alphabet.fit(model._by_kind()[0])
    coder, writer = Ans(), Writer()
    for alphabet, values in list(zip(model.kinds, model._by_kind(), strict=True))[::-1]:
        alphabet.push(coder, values)
    model.write(writer)
    again = entropy.find("classes").read(Reader(writer.to_bytes()), 9, SHAPES[0])
    with pytest.raises(CorruptArtifact, match="share beyond 40"):
        again.pop(Ans(coder.words()))
