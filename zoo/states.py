"""A state dict of any network as a file that describes itself, and back.

    state dict --tied names, kinds--> groups: integers of a decoder, or the bytes of the numbers --codec.described--> file
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from zoo import reparam
from zoo.codec import Coded, Description, Picture, Tensor, described, entropy
from zoo.errors import CorruptArtifact

KINDS = {getattr(torch, name): name for name in described.DTYPES if hasattr(torch, name)}
State = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Quantised:
    """Tensors of one type and decoder, by name, and their integers: a group that is not kept exactly."""

    names: tuple[str, ...]
    coded: Coded


def check(state: State) -> dict[str, torch.Tensor]:
    """The tensors as a file can hold them: on the CPU, contiguous. Tied ones stay the same object.

    Raises TypeError, with the name, for what is no tensor of numbers in memory.
    """
    out: dict[str, torch.Tensor] = {}
    seen: dict[tuple, torch.Tensor] = {}
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise TypeError(f"{name!r} is {type(tensor).__name__}, expected names and tensors")
        if tensor.is_meta or tensor.layout != torch.strided or tensor.dtype not in KINDS:
            kind = "without numbers (meta)" if tensor.is_meta else f"of {tensor.dtype}, {tensor.layout}"
            raise TypeError(f"{name!r} is a tensor {kind}; a file holds dense ones of {', '.join(described.DTYPES)}")
        tensor = tensor.detach()
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()) if tensor.numel() else (name,)
        if place not in seen:
            seen[place] = tensor.cpu().contiguous()
        out[name] = seen[place]
    return out


def tied(state: State) -> dict[str, str]:
    """For each name of a tensor that has an earlier name: that name -> the first one."""
    first: dict[int, str] = {}
    return {name: first[id(t)] for name, t in state.items() if first.setdefault(id(t), name) != name}


def pack(
    state: State, quantised: Iterable[Quantised] = (), network: str = "", picture: Picture | None = None,
    classes: tuple[str, ...] = (),
) -> bytes:
    """The file of a checked state dict; tensors of no quantised group are kept exactly.

    Raises ValueError for names or tensors that no file may hold.
    """
    aliases = tied(state)
    groups = {group.names: group for group in quantised}
    member = {name: group.names for group in groups.values() for name in group.names}
    exact = _alike(state, {*member, *aliases})
    member |= {name: key for key, names in exact.items() for name in names}
    numbers: dict[tuple, int] = {}
    rows: dict[str, int] = {}
    table = []
    for name, tensor in state.items():
        rows[name] = len(table)
        if name in aliases:
            table.append(Tensor(name, tuple(tensor.shape), None, rows[aliases[name]]))
            continue
        table.append(Tensor(name, tuple(tensor.shape), numbers.setdefault(member[name], len(numbers))))
    coded = [groups[key].coded if key in groups else _exact([state[name] for name in exact[key]]) for key in numbers]
    dtypes = tuple(KINDS[state[key[0]].dtype] if key in groups else key[0] for key in numbers)
    return described.encode(Description(network, dtypes, tuple(table), picture, tuple(classes)), coded)


def pack_within(state: State, size: int, **facts) -> bytes | None:
    """The file of a checked state dict with every tensor kept exactly; None where it takes more than `size` bytes.

    facts: as `pack` takes them. Where it takes far more, that is told by its tables alone, and nothing is encoded.
    """
    bits = 0.0
    for names in _alike(state, tied(state)).values():
        phi = _exact([state[name] for name in names]).phi
        bits += sum(entropy.Alphabet.fit(column).cost for column in phi.T)
    if 0.99 * bits / 8 > size:
        return None
    blob = pack(state, **facts)
    return blob if len(blob) <= size else None


def unpack(blob: bytes) -> tuple[Description, dict[str, torch.Tensor]]:
    """What a file of version 2 says of itself, and its tensors in their order; tied names have one tensor.

    Raises `CorruptArtifact` or a subclass.
    """
    description, groups = described.decode(blob, narrow=True)
    shapes, names = list(description.shapes().values()), [[] for _ in groups]
    for tensor in description.tensors:
        if tensor.group is not None:
            names[tensor.group].append(tensor.name)
    tensors: dict[str, torch.Tensor] = {}
    for number, group in enumerate(groups):
        groups[number] = None  # its integers are not kept longer than they are needed
        kind = getattr(torch, description.dtypes[number], None)
        if kind is None:
            raise CorruptArtifact(f"the file holds {description.dtypes[number]}, which this torch does not have")
        if group.decoder == "exact":
            tensors.update(zip(names[number], _from_bytes(group.phi, kind, shapes[number]), strict=True))
            continue
        for name, array in zip(names[number], reparam.decode(group.decoder, group.phi, group.psi, list(shapes[number])),
                               strict=True):  # fmt: skip
            tensors[name] = torch.from_numpy(array).to(kind)
            if not tensors[name].isfinite().all():
                raise CorruptArtifact(f"{name!r} holds a weight that is not finite")
    state = {}
    for row in description.tensors:
        state[row.name] = tensors[row.name if row.alias is None else description.tensors[row.alias].name]
    return description, state


def _alike(state: State, without: Container[str]) -> dict[tuple, list[str]]:
    """Names of tensors that are kept in one group: of one type and last word, all of them matrices (or more) or none."""
    groups: dict[tuple, list[str]] = {}
    for name, tensor in state.items():
        if name not in without:
            groups.setdefault((KINDS[tensor.dtype], name.rpartition(".")[2], tensor.dim() >= 2), []).append(name)
    return groups


def _exact(tensors: list[torch.Tensor]) -> Coded:
    arrays = [t.reshape(-1).view(torch.uint8).numpy().reshape(-1, t.element_size()) for t in tensors]
    return Coded("exact", "static", arrays[0] if len(arrays) == 1 else np.concatenate(arrays))


def _from_bytes(phi: np.ndarray, kind: torch.dtype, shapes) -> list[torch.Tensor]:
    flat = torch.from_numpy(phi.reshape(-1)).view(kind)
    out, begin = [], 0
    for shape in shapes:
        end = begin + int(np.prod(shape, dtype=object))
        out.append(flat[begin:end].clone().reshape(shape))
        begin = end
    return out


def numbers(state: State) -> int:
    """Numbers of all tensors, tied ones counted once."""
    return sum(tensor.numel() for tensor in {id(t): t for t in state.values()}.values())


