"""From the bytes of a model file to a module, and what a file without a record says of its pictures and classes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch
from torch import nn

from zoo import codec, datasets, mismatch, named, networks, partitionings, states
from zoo.codec import Picture
from zoo.errors import LayoutMismatch, UnknownName, ZooError
from zoo.networks.frozen import freeze
from zoo.preprocessing import Preprocessing


@dataclass(frozen=True)
class File:
    """A model file that has no record, as it describes itself."""

    path: Path
    version: int  # of the format
    network: str  # "" where it names none
    parameters: int  # numbers stored
    size_bytes: int
    sha256: str
    preprocessing: Preprocessing | None = None
    classes: tuple[str, ...] = field(default=(), repr=False)

    @property
    def ratio(self) -> float:
        """Compression ratio: 4 bytes a number, over the whole file."""
        return 4 * self.parameters / self.size_bytes

    def record(self) -> dict:
        """The fields as plain data."""
        return asdict(self) | {"path": str(self.path), "classes": list(self.classes)}


def module(
    blob: bytes,
    compact: bool = False,
    into: nn.Module | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """The network in a file of either version, in eval mode, or `into` with its tensors.

    The network of a name has `num_classes` and `input_size`, (C, H, W), where these are known. `compact` removes channels
    that cannot change the answers, of this zoo's networks alone.

    Raises `CorruptArtifact` or a subclass; `LayoutMismatch` where the tensors are not those of `into`, or where a layer of it
    computes something else than that of the named network with the same tensors; ValueError for `compact` where it cannot be.
    """
    header = codec.read_header(blob)
    if into is None and not header.network:
        raise UnknownName("the file names no network: give one, zoo.load(path, into=module), or take zoo.load_state_dict(path)")
    if compact and (into is not None or not _in_zoo(header.network)):
        raise ValueError("compact removes channels of this zoo's own networks, not of a module or another library's")
    state = state_dict(blob)
    if into is None:
        network = named.module(header.network, state)
    else:
        network = into
        _fill(network, state, header.network)
    if _folded(state):
        freeze(network)  # batch normalisation holds no statistics: it must not normalise in train mode
    if compact:
        from zoo.compact import remove_dead

        remove_dead(header.network, network)
    if into is None:
        _describe(network, blob, header)
    if device is not None or dtype is not None:
        network = network.to(device=device, dtype=dtype)
    return network.eval()


def state_dict(blob: bytes) -> dict[str, torch.Tensor]:
    """The tensors of a file of either version by name. Raises `CorruptArtifact` or a subclass."""
    header = codec.read_header(blob)
    if header.version == codec.described.VERSION:
        return states.unpack(blob)[1]
    header, groups = codec.decode(blob, partitionings.layout, narrow=True)  # {group: integers phi, steps psi}; checksum checked
    weights = partitionings.join(header, groups, consume=True)  # through reparam f, float64 in a fixed order, then float32
    return {name: weights[name] for name in networks.shapes(header.network)}


def describe(path: Path, blob: bytes) -> File:
    """What the file says of itself; raises `CorruptArtifact` or a subclass."""
    header = codec.read_header(blob)
    return File(path, header.version, header.network, header.parameters, len(blob), hashlib.sha256(blob).hexdigest(),
                preprocessing(blob), classes(blob))  # fmt: skip


def preprocessing(blob: bytes) -> Preprocessing | None:
    """What the file's pictures go through; for one of this zoo's networks that says nothing, what its data set's do."""
    header = codec.read_header(blob)
    if header.version == codec.described.VERSION:
        picture = codec.described.read_description(blob).picture
        if picture is not None:
            return from_picture(picture)
    return datasets.preprocessing(networks.spec(header.network).dataset) if _in_zoo(header.network) else None


def classes(blob: bytes) -> tuple[str, ...]:
    """Names of the classes in the file, else those of the data set of this zoo's network; () where nothing says them."""
    header = codec.read_header(blob)
    if header.version == codec.described.VERSION:
        names = codec.described.read_description(blob).classes
        if names:
            return names
    if _in_zoo(header.network):
        spec = networks.spec(header.network)
        names = datasets.classes(spec.dataset)
        return names if len(names) == spec.classes_count else ()
    return ()


def from_picture(picture: Picture) -> Preprocessing:
    return Preprocessing(**{f.name: getattr(picture, f.name) for f in fields(Preprocessing)})


def _fill(into: nn.Module, state: Mapping[str, torch.Tensor], name: str) -> None:
    expected = {key: tuple(tensor.shape) for key, tensor in into.state_dict().items()}
    problem = mismatch.explain({key: tuple(tensor.shape) for key, tensor in state.items()}, expected, "the module")
    if problem:
        raise LayoutMismatch(problem)
    if name:
        with torch.device("meta"):
            layers = dict(named.build(name).named_modules())
        differences = mismatch.strides(dict(into.named_modules()), layers)
        if differences:
            more = " and more" if len(differences) > 4 else ""
            raise LayoutMismatch(
                f"the tensors fit, but the module would not compute what {name} does: {'; '.join(differences[:4])}{more}; "
                "set its layers so, or load without `into`"
            )
    if any(tensor.is_meta for tensor in into.state_dict().values()):
        named.assign(into, state)
    else:
        into.load_state_dict(dict(state), strict=True)


def _folded(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether batch normalisation is folded to a scale and a bias: all its statistics are the constants of that."""
    constants = [(name, tensor) for name, tensor in state.items() if name.endswith(("running_mean", "running_var"))]
    values = {"running_mean": 0.0, "running_var": 1.0 - partitionings.BN_EPS}
    return bool(constants) and all(
        torch.equal(tensor, torch.full_like(tensor, values[name.rpartition(".")[2]])) for name, tensor in constants
    )


def _describe(network: nn.Module, blob: bytes, header: codec.Header) -> None:
    """Sets the attributes `num_classes` and `input_size`, unless another library's network has its own."""
    if _in_zoo(header.network):
        spec = networks.spec(header.network)
        network.num_classes, network.input_size = spec.classes_count, spec.input_shape
        return
    spec = preprocessing(blob)
    if spec is not None and not hasattr(network, "input_size"):
        network.input_size = (len(spec.mean), spec.size * spec.enlarge, spec.size * spec.enlarge)
    if not hasattr(network, "num_classes"):
        dense = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
        if dense:
            network.num_classes = dense[-1].out_features


def _in_zoo(name: str) -> bool:
    try:
        networks.spec(name)
    except ZooError:
        return False
    return True

