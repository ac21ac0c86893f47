"""Parameter decoders f: exact to the bit, orthonormal, and the same in training as in decoding."""

import hashlib
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo import codec, reparam
from zoo.errors import LayoutMismatch, UnknownName

AFFINE = ["scalar", "sq", "dft", "orth:7"]


def shapes_of(decoder: str, k: int = 3) -> list[tuple[int, ...]]:
    return [(7, 5, k, k), (2, 3, k, k)] if decoder != "scalar" else [(7, 5, k, k), (11,), (4, 3)]


def integers(d: int, l: int) -> np.ndarray:
    """A fixed sequence, independent of any library: small integers and a few large ones, (d, l) int32."""
    state, out = 1, []
    for _ in range(d * l):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        out.append((state >> 40) % 9 - 4 if state >> 62 else (state >> 33) % 2001 - 1000)
    return np.array(out, np.int32).reshape(d, l)


def example(decoder: str, k: int = 3, own: bool = True):
    """phi, psi and shapes: psi that is not a power of two, a row for each tensor or for all."""
    shapes = shapes_of(decoder, k)
    l = reparam.columns(decoder, shapes[0])
    d = sum(map(math.prod, shapes)) // l
    rows = len(shapes) if own else 1
    steps = np.arange(1, rows * l + 1, dtype=np.float32).reshape(rows, l)
    return integers(d, l), {"scale": steps * np.float32(0.0123), "shift": np.float32(0.3) - steps * np.float32(0.07)}, shapes


# ---- to the bit ----------------------------------------------------------------------------------------------------

# SHA-256 of the decoded weights of `example(decoder, k)`, all tensors one after another, little-endian.
DIGESTS = {
    ("scalar", 3): "886c49599d908d11e169c5c1af956f60a99f040525e1e52a000699c12a6d4f8c",
    ("sq", 3): "0c7feb17c19f834b2339431fd2c40eb7e64c254fa5c5500ace94e939a692238f",
    ("dft", 1): "48f6e8132977d6f2beeee9fe36d6fbe837fc3f1876c80454fb279c5646c2c9fa",
    ("dft", 2): "0858302f4542fbc20a4db7b2de5320ee0f6fa743ceb8c0cf446b840a5f12039a",
    ("dft", 3): "5e88543a407d566ce05b4746c8f035e8e999a06e328ef762db6853da74136b64",
    ("dft", 5): "b243c8f8e4078b9568b952a382de8d07c5c1b677ee24ca54b2a04937de744fe1",
    ("dft", 7): "cdc1cefa889f14191f69dff6e66cf61c7acd11a12b21eeb9e8fa7787eeaceae2",
    ("orth:7", 2): "d571acf0992ee95752fb4386bfb96a51345bc7a75723dc4a61c681f61b5db4da",
    ("orth:7", 3): "96a7f3ec2f4459acc8f278feff78a50ca1c6ba0ead8350fb2f516f18b6d1e654",
    ("orth:7", 5): "bfb0b8a8ccd0b44be0656361d6c0342a201446fc6eb22921c6e3a95badaf4f31",
    ("orth:123456789", 3): "2f8324cd1165a3bbce7e5949ef0e4416372fb5cc0005b122183d0807cb3f1382",
}


def digest(arrays) -> str:
    return hashlib.sha256(b"".join(a.astype("<f4").tobytes() for a in arrays)).hexdigest()


@pytest.mark.parametrize(("decoder", "k"), DIGESTS)
def test_decoded_weights_have_the_recorded_digest(decoder, k):
    phi, psi, shapes = example(decoder, k)
    assert digest(reparam.decode(decoder, phi, psi, shapes)) == DIGESTS[decoder, k]


@pytest.mark.parametrize("decoder", AFFINE)
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_bits_depend_neither_on_blocks_nor_on_memory_order(decoder, order, monkeypatch):
    phi, psi, shapes = example(decoder)
    expected = digest(reparam.decode(decoder, phi, psi, shapes))
    for block in (1, 10, 64, 1 << 20):
        monkeypatch.setattr(reparam, "BLOCK", block)
        assert digest(reparam.decode(decoder, np.array(phi, order=order), psi, shapes)) == expected
    strided = np.zeros((2 * len(phi), 3 * phi.shape[1]), np.int32)[::2, ::3]
    strided[:] = phi
    assert digest(reparam.decode(decoder, strided, psi, shapes)) == expected


@given(st.integers(-(2**31), 2**31 - 1), st.floats(-(2.0**60), 2.0**60, width=32), st.floats(-(2.0**60), 2.0**60, width=32))
@settings(max_examples=300, deadline=None)
def test_scalar_is_two_roundings_to_float64_and_one_to_float32(number, scale, shift):
    """The product of 32 and 24 bits may round, the sum may round; computed here with exact fractions."""
    product = float(Fraction(number) * Fraction(scale))
    exact = float(Fraction(product) + Fraction(shift))
    exact = np.float32(exact if abs(exact) >= 2.0**-126 else 0.0)
    psi = {"scale": np.full((1, 1), scale, np.float32), "shift": np.full((1, 1), shift, np.float32)}
    (result,) = reparam.decode("scalar", np.full((1, 1), number, np.int32), psi, [(1,)])
    assert result[0] == exact


@given(
    st.sampled_from(["scalar", "sq", "pool:4", "dft"]),
    st.lists(st.floats(-(2.0**63), 2.0**63, width=32, allow_subnormal=False), min_size=9, max_size=9),
    st.sampled_from([(-128, 127, np.int8), (-32768, 32767, np.int16)]),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
@settings(deadline=None)
def test_integers_of_fewer_bits_make_the_same_weights_to_the_bit(decoder, scale, kind, shifted, seed):
    low, high, dtype = kind
    shape = (3, 32) if decoder == "pool:4" else (5, 4, 3, 3)
    l = reparam.columns(decoder, shape)
    phi = np.random.default_rng(seed).integers(low, high, (math.prod(shape) // l, l), np.int32, endpoint=True)
    psi = {"scale": np.array([scale[:l]], np.float32)} | ({"shift": np.array([scale[:l]], np.float32)} if shifted else {})
    (wide,), (narrow,) = (reparam.decode(decoder, p, psi, [shape]) for p in (phi, phi.astype(dtype)))
    assert np.array_equal(wide.view(np.uint32), narrow.view(np.uint32))


def test_zero_is_positive_zero_without_a_shift():
    psi = {"scale": np.full((1, 1), -0.5, np.float32)}
    (result,) = reparam.decode("scalar", np.zeros((3, 1), np.int32), psi, [(3,)])
    assert result.tobytes() == bytes(12)


# Rows 0 and 1 of the basis of orth:1 at l = 4, in units of 2^-40, and digests of whole bases (int64, little-endian).
ORTHOGONAL_ROWS = [
    [-381742936925, -285463902155, 468600985226, -872995777157],
    [21772890306, -297576610176, 893343120225, 567307669157],
]
BASES = {
    ("orth:0", 9): "39a24bf81471bff0",
    ("orth:1", 9): "29610a1e2ab524ee",
    ("orth:7", 9): "2ef8e5873385f8f0",
    ("orth:123456789", 9): "5b2f07921fdc2dcd",
    ("orth:1", 25): "0782db9610276890",
    ("dft", 9): "c52d7a99e7e43fdd",
    ("dft", 25): "78b4ce2534fa9f51",
    ("dft", 49): "660e8660776789f1",
}


def units(matrix: np.ndarray) -> np.ndarray:
    scaled = matrix * 2.0**40
    assert np.array_equal(scaled, np.round(scaled))
    return scaled.astype("<i8")


def test_orthogonal_bases_are_golden():
    assert units(reparam.basis("orth:1", 4))[:2].tolist() == ORTHOGONAL_ROWS
    for (decoder, l), expected in BASES.items():
        matrix = reparam._real_dft(math.isqrt(l)) if decoder == "dft" else reparam.basis(decoder, l)
        assert hashlib.sha256(units(matrix).tobytes()).hexdigest()[:16] == expected


def test_another_seed_is_another_basis():
    assert not np.allclose(reparam.basis("orth:1", 9), reparam.basis("orth:2", 9))
    assert np.array_equal(reparam.basis("orth:01", 9), reparam.basis("orth:1", 9))


@pytest.mark.parametrize("decoder", ["dft", "orth:0", "orth:1", "orth:999999999"])
@pytest.mark.parametrize("l", [1, 4, 9, 25, 49])
def test_bases_are_orthonormal(decoder, l):
    matrix = reparam.basis(decoder, l)
    assert matrix.shape == (l, l) and matrix.dtype == np.float64
    assert np.abs(matrix @ matrix.T - np.eye(l)).max() < 1e-10
    assert np.abs(matrix.T @ matrix - np.eye(l)).max() < 1e-10


@pytest.mark.parametrize("k", [1, 2, 3, 5, 7, 11])
def test_rounding_to_the_grid_hides_what_libm_may_do_to_the_last_bit(k):
    """Entries are far from the middle between two multiples of 2^-40, by more than 16 units in the last place."""
    matrix = [[math.sqrt(1 / k)] * k]
    for f in range(1, k // 2 + 1):
        norm = math.sqrt((1 if 2 * f == k else 2) / k)
        matrix += [[norm * g(2 * math.pi * f * n / k) for n in range(k)] for g in (math.cos, math.sin)]
    for value in np.array(matrix).reshape(-1):
        fraction = value * 2.0**40 % 1
        assert abs(fraction - 0.5) > 16 * 2.0**-12  # an ulp below one is 2^-53, or 2^-13 units


def test_gram_schmidt_is_far_from_ties_too():
    for l in (4, 9, 25):
        assert len(np.unique(units(reparam.basis("orth:1", l)))) == l * l


# ---- the DFT by hand -----------------------------------------------------------------------------------------------


def kernel(coefficients: dict[tuple[int, int], float], k: int = 3) -> np.ndarray:
    phi = np.zeros((1, k * k), np.int32)
    for (u, v), value in coefficients.items():
        phi[0, k * u + v] = value
    return reparam.decode("dft", phi, {"scale": np.ones((1, k * k), np.float32)}, [(1, 1, k, k)])[0][0, 0]


R3, R6, R2 = 1 / math.sqrt(3), 1 / math.sqrt(6), 1 / math.sqrt(2)


@pytest.mark.parametrize(
    ("coefficients", "expected"),
    [
        ({(0, 0): 3}, [[1, 1, 1]] * 3),
        # cosine of the columns' frequency: sqrt(2/3) (1, -1/2, -1/2) = (2, -1, -1) / sqrt(6)
        ({(0, 1): 1}, [[2 * R6 * R3, -R6 * R3, -R6 * R3]] * 3),
        # sine: sqrt(2/3) (0, sqrt(3)/2, -sqrt(3)/2) = (0, 1, -1) / sqrt(2)
        ({(0, 2): 1}, [[0, R2 * R3, -R2 * R3]] * 3),
        ({(2, 0): 1}, [[0] * 3, [R2 * R3] * 3, [-R2 * R3] * 3]),
        ({(1, 1): 6}, [[4, -2, -2], [-2, 1, 1], [-2, 1, 1]]),
        ({(2, 2): 2}, [[0, 0, 0], [0, 1, -1], [0, -1, 1]]),
        ({(1, 2): 1}, [[0, 2 * R6 * R2, -2 * R6 * R2], [0, -R6 * R2, R6 * R2], [0, -R6 * R2, R6 * R2]]),
        ({(0, 0): 3, (2, 2): -2}, [[1, 1, 1], [1, 0, 2], [1, 2, 0]]),
    ],
)
def test_dft_of_a_kernel_by_hand(coefficients, expected):
    assert np.allclose(kernel(coefficients), expected, atol=1e-7, rtol=0)


def test_dft_of_a_single_point_spreads_over_all_frequencies():
    delta = np.zeros((1, 1, 3, 3), np.float32)
    delta[0, 0, 0, 0] = 1
    rows = reparam.invert("dft", torch.from_numpy(delta), 9).numpy().reshape(3, 3)
    one = np.array([R3, 2 * R6, 0])  # first entries of the three basis vectors
    assert np.allclose(rows, np.outer(one, one), atol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 7])
def test_dft_has_the_energy_and_the_frequencies_of_the_complex_one(k):
    rng = np.random.default_rng(k)
    image = rng.normal(size=(1, 1, k, k)).astype(np.float32)
    rows = reparam.invert("dft", torch.from_numpy(image), k * k).numpy().reshape(k, k)
    power = np.abs(np.fft.fft2(image[0, 0])) ** 2 / k**2
    assert math.isclose(float((rows**2).sum()), float((image**2).sum()), rel_tol=1e-5)
    assert math.isclose(float(rows[0, 0] ** 2), power[0, 0], rel_tol=1e-4)
    for f in range(1, (k + 1) // 2):  # a pair cosine, sine holds the two conjugate frequencies
        assert math.isclose(float((rows[0, 2 * f - 1 : 2 * f + 1] ** 2).sum()), power[0, f] + power[0, -f], rel_tol=1e-3)


# ---- training and decoding -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", AFFINE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_and_numpy_make_the_same_weights(decoder, dtype):
    phi, psi, shapes = example(decoder)
    start = 0
    for t, (shape, weight) in enumerate(zip(shapes, reparam.decode(decoder, phi, psi, shapes), strict=True)):
        count = math.prod(shape) // phi.shape[1]
        rows = torch.from_numpy(phi[start : start + count]).to(dtype)
        own = [torch.from_numpy(psi[name][t]).to(dtype) for name in ("scale", "shift")]
        theta = reparam.apply(decoder, rows, *own, shape).numpy()
        assert theta.shape == weight.shape == shape
        assert np.abs(theta - weight).max() <= 1e-6 * np.abs(weight).max()
        start += count


@pytest.mark.parametrize("decoder", AFFINE)
def test_invert_is_the_inverse_of_apply(decoder):
    generator = torch.Generator().manual_seed(0)
    for shape in shapes_of(decoder):
        l = reparam.columns(decoder, shape)
        weight = torch.randn(shape, generator=generator, dtype=torch.float64)
        rows = reparam.invert(decoder, weight, l)
        assert rows.shape == (weight.numel() // l, l)
        assert torch.allclose(reparam.apply(decoder, rows, torch.ones(l, dtype=torch.float64), None, shape), weight, atol=1e-10)
        assert torch.allclose(rows.square().sum(), weight.square().sum())


@pytest.mark.parametrize("decoder", AFFINE)
def test_gradients_reach_phi_scale_and_shift(decoder):
    shape = shapes_of(decoder)[0]
    l = reparam.columns(decoder, shape)
    generator = torch.Generator().manual_seed(0)
    phi = torch.randn((4, l), generator=generator, dtype=torch.float64, requires_grad=True)
    scale = torch.rand(l, generator=generator, dtype=torch.float64, requires_grad=True)
    shift = torch.rand(l, generator=generator, dtype=torch.float64, requires_grad=True)
    small = (2, 2, *shape[2:]) if l > 1 else (2, 2)
    assert torch.autograd.gradcheck(lambda *x: reparam.apply(decoder, *x, small), (phi, scale, shift))


def test_invert_does_not_share_memory_with_the_weights():
    weight = torch.zeros(2, 2)
    reparam.invert("scalar", weight, 1).fill_(1)
    assert not weight.any()


# ---- look-ups and leftovers ----------------------------------------------------------------------------------------


def test_codebook_of_each_tensor_or_of_all():
    phi = np.array([0, 1, 2, 2, 1], np.int32)[:, None]
    books = np.array([[0.5, -1, 2], [10, 20, 30]], np.float32)
    one, two = reparam.decode("codebook", phi, {"codebook": books}, [(3,), (1, 2)])
    assert one.tolist() == [0.5, -1, 2] and two.tolist() == [[30, 20]]
    one, two = reparam.decode("codebook", phi, {"codebook": books[:1]}, [(3,), (1, 2)])
    assert two.tolist() == [[2, -1]]


@pytest.mark.parametrize("index", [-1, 3, 2**31 - 1, -(2**31)])
def test_an_entry_that_a_codebook_does_not_have(index):
    phi = np.array([0, index], np.int32)[:, None]
    with pytest.raises(LayoutMismatch, match="codebook of 3 entries"):
        reparam.decode("codebook", phi, {"codebook": np.zeros((1, 3), np.float32)}, [(2,)])


def test_float32_is_the_bits_themselves():
    numbers = np.array([0.1, -0.0, 1e-45, 3e38, -7], np.float32)
    one, two = reparam.decode("float32", numbers.view(np.int32)[:, None], {}, [(3,), (2, 1)])
    assert one.tobytes() + two.tobytes() == numbers.tobytes() and two.shape == (2, 1)


@pytest.mark.parametrize("decoder", [*AFFINE, "codebook", "float32"])
def test_counts_that_disagree(decoder):
    l = 9 if decoder in AFFINE[1:] else 1
    psi = {"codebook": np.zeros((1, 3), np.float32), "scale": np.ones((1, l), np.float32)}
    with pytest.raises(LayoutMismatch, match="the file has"):
        reparam.decode(decoder, np.zeros((4, l), np.int32), psi, [(3, 1, 3, 3)])


def test_columns():
    assert reparam.columns("scalar", (5, 4, 3, 3)) == reparam.columns("codebook", (5,)) == reparam.columns("float32", ()) == 1
    assert reparam.columns("sq", (5, 4, 3, 3)) == reparam.columns("orth:12", (1, 1, 3, 3)) == 9
    assert reparam.columns("dft", (64, 3, 7, 7)) == 49
    for shape in ((5,), (5, 4), (5, 4, 3, 2)):
        with pytest.raises(LayoutMismatch, match="convolutions"):
            reparam.columns("dft", shape)
    for name in ("", "DFT", "orth", "orth:", "orth:-1", "orth:1.5", "orth:1234567890", "orth:²", "dct"):
        with pytest.raises(UnknownName, match="unknown parameter decoder"):
            reparam.columns(name, (5, 4, 3, 3))


@pytest.mark.parametrize("decoder", AFFINE)
def test_the_largest_numbers_that_a_file_may_hold_make_finite_weights(decoder):
    shapes = [(2, 1, 7, 7)]
    l = reparam.columns(decoder, shapes[0])
    largest = np.full((1, l), np.nextafter(np.float32(2.0**64), np.float32(0)), np.float32)
    phi = np.full((98 // l, l), -(2**31), np.int32)
    (weight,) = reparam.decode(decoder, phi, {"scale": largest, "shift": -largest}, shapes)
    assert np.isfinite(weight).all() and np.abs(weight).max() > 1e28
    layout = {"g": tuple(shapes)}
    blob = codec.encode("n", "p", {"g": codec.Coded(decoder, "static", phi, {"scale": largest})}, layout)
    assert np.array_equal(codec.decode(blob, lambda header: layout)[1]["g"].psi["scale"], largest)
