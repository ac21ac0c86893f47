"""Rounding without pictures: weights of any network at the least error for their bits, to a step or a size.

    tensors --kind and kernel size--> groups --RD rounding at a step of each tensor's size--> integers --> file of the bound

A step is the same share of the root mean square of every tensor: normalisation undoes the scale of what comes before it, so
errors count relative to the weights. Kernels are rounded in the DFT basis, where smooth ones have few large numbers. An
integer is chosen by its squared error plus the price of its bits, lambda = ln(2)/6 squared steps, at which the entropy-coded
uniform quantiser trades both at high rates (Gish & Pierce 1968).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from zoo import codec, reparam, states
from zoo.codec import Coded
from zoo.compress import coding
from zoo.compress.layer import to_latents
from zoo.compress.search import parse_bytes
from zoo.partitionings import Group
from zoo.states import Quantised

PRICE = math.log(2) / 6
SMALLEST = 256  # numbers of a tensor that is rounded; the step of a smaller one costs as much as it saves
LARGEST_KERNEL = 7
SIGNIFICANT = 12  # bits of float32 vectors beside rounded weights
DEPTHWISE = 0.25  # finer: a kernel of few numbers averages no errors, and its channels differ in size
FINEST, COARSEST = 2.0**-20, 2.0**6  # steps
ATTEMPTS = 14
FULL = 0.97  # of a bound
LEAST = 0.3  # least change of a step, in bits, until tried sizes lie on both sides of the bound
BLOCK = 1 << 16  # numbers of a column that are rounded at a time
NARROW = 1.01  # ratio of two steps between which the price of a bit is varied instead


@dataclass(frozen=True)
class Kind:
    """What tensors of a group have in common."""

    dtype: str
    label: str  # "dense", "conv3x3", "depthwise3x3", "conv5" of 1-D, ...
    decoder: str
    finer: float = 1.0


def kinds(state: Mapping[str, torch.Tensor]) -> dict[Kind, list[str]]:
    """The tensors that may be rounded, by rule: floating point, numbers along two dimensions or more, not small.

    Tied tensors are listed once.
    """
    aliases, members = states.tied(state), {}
    for name, tensor in state.items():
        wide = sum(side > 1 for side in tensor.shape) >= 2 and tensor.numel() >= SMALLEST
        dtype = states.KINDS[tensor.dtype]
        if name in aliases or not wide or dtype not in codec.described.DECODED:
            continue
        kernel = tuple(tensor.shape[2:])
        if not kernel:
            kind = Kind(dtype, "dense", "scalar")
        else:
            square = len(kernel) == 2 and kernel[0] == kernel[1] and 1 < kernel[0] <= LARGEST_KERNEL
            depthwise = tensor.shape[1] == 1 and tensor.shape[0] > 1 and math.prod(kernel) > 1
            label = ("depthwise" if depthwise else "conv") + "x".join(map(str, kernel))
            kind = Kind(dtype, label, "dft" if square else "scalar", DEPTHWISE if depthwise else 1.0)
        members.setdefault(kind, []).append(name)
    return members


def refuse(state: Mapping[str, torch.Tensor]) -> None:
    """Raises ValueError, with the tensors' names, for weights that are not finite and variances that are negative."""
    rounded = {name for names in kinds(state).values() for name in names}
    for name, tensor in state.items():
        if not tensor.is_floating_point() or not tensor.numel() or tensor.element_size() < 2:
            continue
        finite = name in rounded or tensor.dim() == 1
        parts = tensor.reshape(-1).split(BLOCK)
        refused = sum(int((~part.isfinite() if finite else part.isnan()).sum()) for part in parts)
        if refused:
            raise ValueError(f"{name} holds {refused:,} numbers that are not finite (NaN or infinite)")
        if name.endswith("running_var") and (tensor < 0).any():
            raise ValueError(f"{name} holds {int((tensor < 0).sum()):,} negative variances")


def at_step(state: Mapping[str, torch.Tensor], step: float, **facts) -> bytes:
    """The file at one step, in units of each tensor's root mean square; raises ValueError as `refuse` does."""
    if not 0 < step < math.inf:
        raise ValueError(f"a step of {step} is no positive number")
    refuse(state)
    return _Rounder(state, facts).at(step)


def bound(state: Mapping[str, torch.Tensor], size: int | str | None, bits: float | None) -> int:
    """Bytes, from one of the two ways to say them; raises ValueError for what is no positive size."""
    if size is not None:
        size = parse_bytes(size) if isinstance(size, str) else int(size)
        if size < 1:
            raise ValueError(f"a file of {size} bytes cannot be made; give a positive bound")
        return size
    if not 0 < bits < math.inf:
        raise ValueError(f"{bits} bits a number are no positive number")
    return int(bits * states.numbers(state) / 8)


def within(
    state: Mapping[str, torch.Tensor], size: int, tell: Callable[[str], None] = lambda text: None, **facts
) -> bytes:
    """A file of at most `size` bytes: at least 97 % of them, or the exact one where that is smaller.

    `tell` is called with a line for each attempt. Raises ValueError as `refuse` does, and where even a network of zeros needs
    more.
    """
    refuse(state)
    exact = states.pack_within(state, size, **facts)
    if exact is not None:
        tell(f"every number as it is takes {len(exact):,} bytes: nothing is rounded")
        return exact
    rounder = _Rounder(state, facts)
    goal, weights = (1 + FULL) / 2 * size, sum(state[name].numel() for names in kinds(state).values() for name in names)
    tried: list[tuple[float, int]] = []  # steps, and bytes of their files
    fullest = None
    step, price, low, high = min(max(_guess(state, size, weights), FINEST), COARSEST), 1.0, 0.0, 1.0
    for _ in range(ATTEMPTS):
        blob = rounder.at(step, price * PRICE)
        tell(f"step {step:.4g}: {len(blob):,} bytes of {size:,}")
        tried.append((step, len(blob)))
        if FULL * size <= len(blob) <= size or (step == FINEST and len(blob) <= size):
            return blob
        if len(blob) <= size and (fullest is None or len(blob) > len(fullest)):
            fullest = blob
        above = max((s for s, b in tried if b > size), default=None)
        below = min((s for s, b in tried if b <= size), default=None)
        if step == COARSEST and below is None:
            break
        if price < 1 or (above and below and below < NARROW * above):  # sizes jump where steps are large: bits for less, then
            if price < 1:
                low, high = (low, price) if len(blob) <= size else (price, high)
            step, price = below, (low + high) / 2
            continue
        step = _next(tried, goal, weights)
    if fullest is None:
        least = min(length for _, length in tried)
        raise ValueError(f"{size:,} bytes are too few: what is not rounded (names, biases, normalisation) and the "
                         f"coarsest weights take {least:,}")  # fmt: skip
    return fullest


def _guess(state: Mapping[str, torch.Tensor], size: int, weights: int) -> float:
    """The step of a Gaussian at the bits that are left for a weight (Cover & Thomas, section 10.3.2)."""
    bits = 8 * (size - 2 * (states.numbers(state) - weights)) / max(weights, 1)
    return math.sqrt(12) * 2.0 ** -min(max(bits, 0.3), 16.0)


def _next(tried: list[tuple[float, int]], goal: float, weights: int) -> float:
    """The next step, from pairs (step, bytes): between the nearest ones on both sides, else a bit a weight for each halving."""
    above = max((pair for pair in tried if pair[1] >= goal), default=None)
    below = min((pair for pair in tried if pair[1] < goal), default=None)
    if above and below:
        share = min(max(math.log(above[1] / goal) / math.log(above[1] / below[1]), 0.05), 0.95)
        return above[0] * (below[0] / above[0]) ** share
    step, size = tried[-1]
    bits = 8 * (size - goal) / max(weights, 1)
    bits = min(max(bits, LEAST), 6.0) if bits > 0 else max(min(bits, -LEAST), -6.0)
    return min(max(step * 2.0**bits, FINEST), COARSEST)


class _Rounder:
    """A state dict, and its files at any step."""

    def __init__(self, state: Mapping[str, torch.Tensor], facts: dict):
        self.kinds, self.facts = kinds(state), facts
        self.state = shortened(state, {name for names in self.kinds.values() for name in names})

    def at(self, step: float, price: float = PRICE) -> bytes:
        groups = [Quantised(tuple(names), self._group(kind, names, step, price)) for kind, names in self.kinds.items()]
        return states.pack(self.state, groups, **self.facts)

    def _group(self, kind: Kind, names: list[str], step: float, price: float) -> Coded:
        shapes = tuple(tuple(self.state[name].shape) for name in names)
        l = reparam.columns(kind.decoder, shapes[0])
        scales, phi = [], []
        for name in names:
            rows = self.state[name].float().numpy().reshape(-1, l)
            scale = codec.psi_round(np.float32(step * kind.finer * (root_mean_square(rows) or 1.0)))
            scales.append(np.full(l, scale))
            y = to_latents(kind.decoder, rows, l)
            y = np.divide(y, scale, out=None if np.may_share_memory(y, rows) else y)
            phi.append(round_rows(y, price))
            del rows, y
        return coded(kind, names, shapes, scales, phi)


def coded(kind: Kind, names: list[str], shapes: tuple[tuple[int, ...], ...], scales: list[np.ndarray],
          phi: list[np.ndarray]) -> Coded:  # fmt: skip
    """The integers (d, l) and steps (l,) of each tensor of a group, under the shorter of two entropy models. Empties phi."""
    together = np.concatenate(phi)
    phi.clear()
    options = [Coded(kind.decoder, model, together, {"scale": np.stack(scales)}) for model in ("static", "classes")]
    return coding.shortest(Group(kind.label, kind.decoder, tuple(names), shapes), options)


def shortened(state: Mapping[str, torch.Tensor], rounded: set[str]) -> dict[str, torch.Tensor]:
    """The state dict with the float32 tensors beside rounded ones in few bits; a tied tensor stays one."""
    short: dict[int, torch.Tensor] = {}  # one for each tensor, whatever number of names it has
    out = {name: t if name in rounded or t.dtype != torch.float32 else short.setdefault(id(t), shorten(t))
           for name, t in state.items()}  # fmt: skip
    return out | {name: out[first] for name, first in states.tied(state).items()}


def root_mean_square(values: np.ndarray) -> float:
    """Summed in float64, a block of the values at a time."""
    flat = values.reshape(-1)
    blocks = (flat[begin : begin + BLOCK] for begin in range(0, len(flat), BLOCK))
    return math.sqrt(math.fsum(float(np.square(block, dtype=np.float64).sum()) for block in blocks) / values.size)


def round_rows(y: np.ndarray, price: float = PRICE, sweeps: int = 2) -> np.ndarray:
    """Integers (d, l) of y in units of the step: each column at the least squared error plus the price of its bits.

    They are int8, int16 or int32, the smallest that holds them.
    """
    out = np.empty(y.shape, _smallest(y))
    blocks = [slice(begin, begin + BLOCK) for begin in range(0, len(y), BLOCK)]  # all temporary arrays are of one
    for j in range(y.shape[1]):
        for block in blocks:
            out[block, j] = np.rint(y[block, j])
        highest = max(int(out[:, j].max()), 0)
        for _ in range(sweeps):
            low = min(int(out[:, j].min()), 0)
            counts = np.zeros(highest - low + 1, np.int64)
            for block in blocks:
                counts += np.bincount(out[block, j].astype(np.int64) - low, minlength=len(counts))
            bits = np.log2((counts + 0.1).sum()) - np.log2(counts + 0.1)
            for block in blocks:
                out[block, j] = _cheapest(np.ascontiguousarray(y[block, j]), bits, low, price)
    return out


def narrow(q: np.ndarray) -> np.ndarray:
    """Integers, given as floating-point numbers, in the smallest of int8, int16 and int32."""
    return q.astype(_smallest(q))


def _smallest(y: np.ndarray) -> type:
    """Of int8, int16 and int32 the first that holds these numbers when they are rounded."""
    least, largest = float(np.rint(y.min())), float(np.rint(y.max()))
    if not -(2.0**31) <= least <= largest < 2.0**31:
        raise ValueError(f"a weight is {max(largest, -least):.3g} times its step, beyond 32 bits; take a larger step")
    return codec.entropy.smallest(int(least), int(largest))


def _cheapest(column: np.ndarray, bits: np.ndarray, low: int, price: float) -> np.ndarray:
    """int32, for each number: the nearest integer, its neighbour towards zero, or zero; bits from the integer `low` on."""
    near = np.rint(column).astype(np.int32)
    best, cost = near, (column - near) ** 2 + price * _cost(bits, near - low)
    for integers in (near - np.sign(near), np.zeros_like(near)):
        trial = (column - integers) ** 2 + price * _cost(bits, integers - low)
        best, cost = np.where(trial < cost, integers, best), np.minimum(trial, cost)
    return best


def _cost(bits: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Bits of integers by their place in the table, which may have narrowed: those outside take the most."""
    inside = (index >= 0) & (index < len(bits))
    return np.where(inside, bits[np.clip(index, 0, len(bits) - 1)], bits.max())


def shorten(tensor: torch.Tensor, significant: int = SIGNIFICANT) -> torch.Tensor:
    """float32 numbers rounded to so many significant bits, half to even; finite ones stay finite."""
    raw = tensor.numpy().view(np.uint32).astype(np.uint64)
    drop = 24 - significant
    rounded = (raw + (1 << drop - 1) - 1 + (raw >> drop & 1)) >> drop << drop
    finite = np.where((rounded & 0x7F800000 == 0x7F800000), raw, rounded).astype(np.uint32)
    return torch.from_numpy(finite.view(np.float32).reshape(tensor.shape))
