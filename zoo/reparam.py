"""Parameter decoders f: integers phi -> weights theta (Oktay et al. 2019, section 2 and figure 3).

    phi (d, l) int32  --scale, shift-->  y (d, l)  --basis-->  rows (d, l)  --reshape-->  theta

A tensor is cut into d rows of l numbers. `scalar` has l = 1 for any tensor; `sq`, `dft` and `orth:SEED`
take the k x k kernels of a convolution (O, I, k, k) as rows, so d = O * I and l = k * k. The decoders differ in
the basis alone: identity (sq), orthonormal real DFT (dft), random orthogonal (orth). `codebook` looks up one
table per tensor; `pool:SIDE` is `scalar`, but where the columns of a matrix are images of that side, the integer of
a block of 2 x 2 pixels is added to each of them; `float32` stores the bits of the numbers themselves.

`decode` is the path of a file: float64 in one fixed order of operations, no BLAS, rounded once to float32, hence
bit-identical on every IEEE machine. `apply` is the path of training: the same map in torch, with gradients.
"""

from __future__ import annotations

import functools
import math
import random

import numpy as np

from zoo.errors import LayoutMismatch, UnknownName

SMALLEST = 2.0**-126  # a weight nearer to zero is zero: a float32 that some processors are set to take as zero
BLOCK = 1 << 16  # numbers decoded at a time, so that the float64 temporaries stay in the cache


def columns(decoder: str, shape: tuple[int, ...]) -> int:
    """Number l of columns into which `decoder` cuts a tensor of this shape.

    Raises `UnknownName` for a decoder that does not exist, `LayoutMismatch` where it does not fit the shape.
    """
    if decoder in ("scalar", "codebook", "float32") or _side(decoder):
        return 1
    if decoder in ("sq", "dft") or _seed(decoder) is not None:
        if len(shape) != 4 or shape[2] != shape[3]:
            raise LayoutMismatch(f"decoder {decoder!r} takes convolutions (O, I, k, k), found a tensor of shape {tuple(shape)}")
        return shape[2] * shape[3]
    raise UnknownName(f"unknown parameter decoder {decoder!r}; known: scalar, pool:SIDE, sq, dft, orth:SEED, codebook, float32")


def psi_shapes(decoder: str, tensors: int, l: int) -> dict[str, tuple[tuple[int, int | None], ...]]:
    """The decoder parameters psi that a file may hold, and their allowed shapes.

    `scale` and `shift` have one row for the group or one for each of its tensors, and l columns; a `codebook`
    has a row for each tensor (or one for all) and any number of entries.
    """
    rows = (1,) if tensors == 1 else (1, tensors)
    if decoder == "codebook":
        return {"codebook": tuple((t, None) for t in rows)}
    if decoder in ("float32", "exact"):
        return {}
    return {"scale": tuple((t, l) for t in rows), "shift": tuple((t, l) for t in rows)}


@functools.lru_cache
def basis(decoder: str, l: int) -> np.ndarray | None:
    """Orthonormal (l, l) float64 matrix B with rows = basis vectors, theta_row = y @ B; None for the identity.

    Entries (of the 1-D transform, for the DFT) are rounded to multiples of 2^-40, which hides the last-bit differences
    of libm between machines.
    """
    if decoder == "dft":
        k = math.isqrt(l)
        one_dimension = _real_dft(k)
        return np.kron(one_dimension, one_dimension)  # 2-D and separable: row (u, v) is the outer product of the 1-D rows u and v
    seed = _seed(decoder)
    return None if seed is None else _random_orthogonal(l, seed)


def decode(decoder: str, phi: np.ndarray, psi: dict[str, np.ndarray], shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
    """Weights of one group, exactly.

    phi: int32 (d, l), the tensors' rows one after another; psi: float32 arrays as in `psi_shapes`; shapes: the
    tensors of the group. Returns float32 arrays of those shapes. Raises `LayoutMismatch` when counts disagree.
    """
    if decoder == "float32":
        flat = np.ascontiguousarray(phi).reshape(-1).view(np.float32)
        return _cut(flat, shapes)
    d, l = phi.shape
    counts = [math.prod(shape) // l for shape in shapes]
    if sum(counts) != d:
        raise LayoutMismatch(f"the group's tensors have {sum(counts)} rows of {l}, the file has {d}")
    planes = phi.T  # (l, d); the codec hands phi over column by column, so these are contiguous
    weights, start = [], 0
    for t, (count, shape) in enumerate(zip(counts, shapes, strict=True)):
        rows = planes[:, start : start + count]
        start += count
        tensor_psi = {name: array[min(t, len(array) - 1)] for name, array in psi.items()}
        if decoder == "codebook":
            weights.append(_lookup(tensor_psi["codebook"].astype(np.float32), rows[0], shape))
        else:
            if pools(decoder, shape):
                rows = pooled(rows.astype(np.float64).reshape(-1), _side(decoder))[None]
            weights.append(_affine(decoder, rows, tensor_psi["scale"], tensor_psi.get("shift"), shape))
    return weights


def apply(decoder: str, phi, scale, shift, shape: tuple[int, ...]):
    """The same map on torch tensors: phi (d, l), scale and shift (l,) or None -> theta of `shape`, differentiable."""
    import torch

    y = (pooled(phi, _side(decoder)).reshape(phi.shape) if pools(decoder, shape) else phi) * scale
    if shift is not None:
        y = y + shift
    matrix = basis(decoder, phi.shape[1])
    if matrix is not None:
        y = y @ torch.as_tensor(matrix, dtype=y.dtype, device=y.device)
    return y.reshape(shape)


def pools(decoder: str, shape: tuple[int, ...]) -> bool:
    """Whether the decoder takes the columns of a tensor as images of its side, two by two pixels sharing an integer."""
    side = _side(decoder)
    return side > 0 and len(shape) == 2 and shape[1] > 0 and shape[1] % side**2 == 0


def pooled(phi, side: int):
    """phi (.., n * side^2), numpy or torch: the integer of each block's first pixel is added to the block's three others."""
    blocks = phi.reshape(-1, side // 2, 2, side // 2, 2)
    first = blocks[:, :, :1, :, :1]
    shares = blocks * 0 + first
    shares[:, :, :1, :, :1] = 0
    return (blocks + shares).reshape(phi.shape)


def invert(decoder: str, weight, l: int):
    """Torch rows y = T theta, (d, l), whose `apply` with scale 1 is `weight`: where a warm start begins."""
    import torch

    if pools(decoder, tuple(weight.shape)):
        side = _side(decoder)
        blocks = weight.reshape(-1, side // 2, 2, side // 2, 2).clone()
        first = blocks[:, :, :1, :, :1].clone()
        blocks -= first
        blocks[:, :, :1, :, :1] = first
        return blocks.reshape(-1, 1)
    rows = weight.reshape(-1, l)
    matrix = basis(decoder, l)
    if matrix is None:
        return rows.clone()
    return rows @ torch.as_tensor(matrix.T.copy(), dtype=rows.dtype, device=rows.device)


def _affine(decoder: str, planes: np.ndarray, scale: np.ndarray, shift: np.ndarray | None, shape) -> np.ndarray:
    """(l, d) integers -> float32 tensor. Every sum runs over ascending indices; numpy's `*` and `+` never fuse.

    A float32 times an integer of 16 bits is exact in float64, so that without a shift or a basis the product is rounded once
    in float32 arithmetic, too, which is faster.
    """
    l, d = planes.shape
    matrix = basis(decoder, l)
    separable = _real_dft(math.isqrt(l)) if decoder == "dft" else None
    single = matrix is None and shift is None and planes.dtype.kind == "i" and planes.dtype.itemsize <= 2
    shift = np.zeros((l, 1)) if shift is None else shift.astype(np.float64)[:, None]  # adding 0.0 makes every zero +0.0
    scale = scale.astype(np.float64)[:, None]
    tiny = _may_be_subnormal(scale, shift, matrix is not None)
    number = np.float32 if single and not tiny else np.float64
    scale, shift = scale.astype(number), shift.astype(number)
    out = np.empty((d, l), np.float32)
    block = max(BLOCK // l, 1)
    for begin in range(0, d, block):
        y = planes[:, begin : begin + block].astype(number)
        y *= scale
        y += shift
        if separable is not None:
            k = len(separable)
            y = _combine(y.reshape(k, k, -1), separable)  # over u, the slower index
            y = _combine(y.transpose(1, 0, 2), separable).transpose(1, 0, 2).reshape(l, -1)  # over v
        elif matrix is not None:
            y = _combine(y, matrix)
        if tiny:
            y[np.abs(y) < SMALLEST] = 0.0
        out[begin : begin + block] = y.T
    return out.reshape(shape)


def _may_be_subnormal(scale: np.ndarray, shift: np.ndarray, mixed: bool) -> bool:
    """Whether a weight other than zero may be less than `SMALLEST`.

    A float32 of magnitude 2^e or more is a multiple of 2^(e - 23), and so are sums of products of such with integers; the
    two products with a basis, whose entries are multiples of 2^-40, make that 2^(e - 103).
    """
    least = SMALLEST * 2.0 ** (103 if mixed else 23)
    return any(bool((np.abs(array[array != 0]) < least).any()) for array in (scale, shift))


def _combine(y: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """out[j] = sum over i, ascending, of y[i] * matrix[i, j]; zero entries of the basis are skipped."""
    out = np.empty(y.shape)
    for j in range(len(matrix)):
        terms = [i for i in range(len(matrix)) if matrix[i, j] != 0.0]
        np.multiply(y[terms[0]], matrix[terms[0], j], out=out[j])
        for i in terms[1:]:
            out[j] += y[i] * matrix[i, j]
    return out


def _lookup(codebook: np.ndarray, indices: np.ndarray, shape) -> np.ndarray:
    if indices.size and not 0 <= indices.min() <= indices.max() < len(codebook):
        raise LayoutMismatch(f"a codebook of {len(codebook)} entries is asked for entries {indices.min()} to {indices.max()}")
    out = np.empty(len(indices), np.float32)
    for begin in range(0, len(indices), BLOCK):  # "clip", of what is in range already, spares numpy a buffer
        np.take(codebook, indices[begin : begin + BLOCK], out=out[begin : begin + BLOCK], mode="clip")
    return out.reshape(shape)


def _cut(flat: np.ndarray, shapes) -> list[np.ndarray]:
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    if len(flat) != ends[-1]:
        raise LayoutMismatch(f"the group's tensors have {ends[-1]} numbers, the file has {len(flat)}")
    return [piece.reshape(shape) for piece, shape in zip(np.split(flat, ends[:-1]), shapes, strict=True)]


def _seed(decoder: str) -> int | None:
    name, _, seed = decoder.partition(":")
    return int(seed) if name == "orth" and seed.isascii() and seed.isdigit() and len(seed) < 10 else None


def _side(decoder: str) -> int:
    """SIDE of `pool:SIDE`, even and at most 64; 0 for any other decoder."""
    name, _, side = decoder.partition(":")
    digits = name == "pool" and side.isascii() and side.isdigit() and len(side) < 3 and side[0] != "0"
    return int(side) if digits and int(side) <= 64 and int(side) % 2 == 0 else 0


def _grid(x: float) -> float:
    return round(x * 2.0**40) / 2.0**40


@functools.lru_cache
def _real_dft(k: int) -> np.ndarray:
    """Orthonormal real DFT of k points: constant, then cosine and sine of each frequency (Balle 2018, section 3)."""
    rows = [[math.sqrt(1 / k)] * k]
    for f in range(1, k // 2 + 1):
        nyquist = 2 * f == k
        norm = math.sqrt((1 if nyquist else 2) / k)
        rows.append([norm * math.cos(2 * math.pi * f * n / k) for n in range(k)])
        if not nyquist:
            rows.append([norm * math.sin(2 * math.pi * f * n / k) for n in range(k)])
    return np.array([[_grid(x) for x in row] for row in rows])


def _random_orthogonal(l: int, seed: int) -> np.ndarray:
    """Gram-Schmidt in plain Python floats on sums of uniforms: additions, products and roots only, so exact to the bit."""
    draw = random.Random(seed)
    rows: list[list[float]] = []
    while len(rows) < l:
        v = [sum(draw.getrandbits(32) for _ in range(12)) / 2.0**32 - 6.0 for _ in range(l)]  # integers: sum() is exact
        for _ in range(2):  # twice is enough (Kahan)
            for row in rows:
                dot = 0.0
                for a, b in zip(v, row, strict=True):
                    dot += a * b
                v = [a - dot * b for a, b in zip(v, row, strict=True)]
        square = 0.0
        for a in v:
            square += a * a
        rows.append([a / math.sqrt(square) for a in v])
    return np.array([[_grid(x) for x in row] for row in rows])
