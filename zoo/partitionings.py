"""Which tensors of a network share a parameter decoder and a probability model (Oktay et al. 2019, sections 2.1 and 3).

PARTITIONINGS is the paper's grouping of each network as plain data. The order of the groups, and of the tensors in a
group (the order of the network's state dict), is the order in which a file stores them.

The paper leaves batch normalisation's statistics out of its count; a file here holds all that inference needs. Before
coding, each BN layer is folded to one scale and one bias a channel (`bn.scale`, `bn.bias`), and its statistics become
the constants mean 0 and variance 1 - eps, so that the layer computes exactly scale * x + bias.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from zoo import networks, reparam
from zoo.errors import LayoutMismatch, UnknownName, ZooError

BN_EPS = 1e-5

# A group: (name, patterns of state-dict names, usual decoder). A tensor belongs to the first group that it matches.
_BN = (
    ("bn.scale", ("*bn*.weight", "*downsample.1.weight"), "scalar"),
    ("bn.bias", ("*bn*.bias", "*downsample.1.bias"), "scalar"),
)
BN_GROUPS = tuple(rule[0] for rule in _BN)
_BN_CONSTANTS = {"*running_mean": 0.0, "*running_var": 1.0 - BN_EPS, "*num_batches_tracked": 0.0}
_RESNET_STEM = ("conv1", ("conv1.weight",), "scalar")
_RESNET_HEAD = (("fc", ("fc.weight",), "scalar"), ("fc.bias", ("fc.bias",), "scalar"))

PARTITIONINGS: dict[str, dict[str, tuple]] = {
    "lenet300-100": {
        "paper": (
            ("fc1+fc2", ("fc1.weight", "fc2.weight"), "scalar"),
            ("fc3", ("fc3.weight",), "scalar"),
            ("biases", ("*.bias",), "scalar"),
        ),
    },
    "lenet5-caffe": {
        "paper": (
            ("convs", ("conv1.weight", "conv2.weight"), "scalar"),  # the paper keeps l = 1 for these too
            ("fc1", ("fc1.weight",), "scalar"),
            ("fc2", ("fc2.weight",), "scalar"),
            ("biases", ("*.bias",), "scalar"),
        ),
    },
    "vgg16": {
        "paper": (
            ("convs", ("*conv*.weight",), "dft"),
            ("fc1", ("fc1.weight",), "scalar"),
            ("fc2", ("fc2.weight",), "scalar"),
            ("fc3", ("fc3.weight",), "scalar"),
            *_BN,
            ("fc.biases", ("fc*.bias",), "scalar"),
        ),
    },
    "resnet20-4": {
        "paper": (("convs", ("*conv*.weight",), "dft"), *_RESNET_HEAD[:1], *_BN, _RESNET_HEAD[1]),
    },
    # The paper counts three groups for ResNet-18 and does not say where its 1x1 shortcuts go: a group of their own here.
    "resnet18": {
        "paper": (
            _RESNET_STEM,
            ("convs3x3", ("*.conv?.weight",), "dft"),
            ("convs1x1", ("*.downsample.0.weight",), "scalar"),
            _RESNET_HEAD[0],
            *_BN,
            _RESNET_HEAD[1],
        ),
    },
    "resnet50": {
        "paper": (
            _RESNET_STEM,
            ("convs3x3", ("*.conv2.weight",), "dft"),
            ("convs1x1", ("*.conv?.weight", "*.downsample.0.weight"), "scalar"),
            _RESNET_HEAD[0],
            *_BN,
            _RESNET_HEAD[1],
        ),
    },
}
PARTITIONINGS["resnet20"] = PARTITIONINGS["resnet20-4"]  # not in the paper: grouped as its wide relative is
PARTITIONINGS["resnet50-v1.5"] = PARTITIONINGS["resnet50"]  # the stride sits elsewhere, the tensors are the same


@dataclass(frozen=True)
class Group:
    """Tensors that share a decoder and a probability model: state-dict names and their shapes, in coding order.

    kind: "weight", "bias" (one number for each output of a layer), or "bn" (scales or biases of folded BN layers, which
    methods of training leave to the end).
    """

    name: str
    decoder: str
    tensors: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def size(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def kind(self) -> str:
        if self.name in BN_GROUPS:
            return "bn"
        return "weight" if all(len(shape) > 1 for shape in self.shapes) else "bias"


@dataclass(frozen=True)
class Partitioning:
    network: str
    name: str
    groups: tuple[Group, ...]
    constants: Mapping[str, tuple[float, tuple[int, ...]]]  # state-dict name -> value, shape

    @property
    def parameters(self) -> int:
        """Numbers that a file stores, over all groups."""
        return sum(group.size for group in self.groups)


@functools.lru_cache
def get(network: str, name: str = "paper") -> Partitioning:
    """The named partitioning of a network, with any number of classes. Raises `UnknownName` for either name.

    `layers` exists for every network: each weight tensor is a group of its own, as LC and HEMP want it.
    """
    try:
        spec = networks.spec(network)
        partitionings = PARTITIONINGS.get(spec.base, {})
    except ZooError as error:
        raise UnknownName(str(error)) from error
    rules = partitionings.get(name)
    shapes = networks.shapes(network)
    if name == "layers":
        weights = [n for n, shape in shapes.items() if len(shape) >= 2]
        rules = tuple((n.removesuffix(".weight"), (n,), "scalar") for n in weights)
        rules += (*_BN, ("biases", ("*.bias",), "scalar"))
    if rules is None:
        raise UnknownName(f"network {network!r} has no partitioning {name!r}; known: {', '.join(['layers', *partitionings])}")
    members: dict[str, list[str]] = {rule[0]: [] for rule in rules}
    constants = {}
    for tensor, shape in shapes.items():
        value = next((v for pattern, v in _BN_CONSTANTS.items() if fnmatchcase(tensor, pattern)), None)
        if value is not None:
            constants[tensor] = (value, shape)
            continue
        group = next((g for g, patterns, _ in rules if any(fnmatchcase(tensor, p) for p in patterns)), None)
        if group is None:
            raise AssertionError(f"partitioning {name!r} of {network} forgets {tensor}")
        members[group].append(tensor)
    groups = tuple(
        Group(g, decoder, tuple(members[g]), tuple(shapes[t] for t in members[g])) for g, _, decoder in rules if members[g]
    )
    return Partitioning(spec.name, name, groups, constants)


def layout(header) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Group name -> tensor shapes that the network named in a file's header justifies: what `codec.decode` checks against.

    Raises `UnknownName` or `LayoutMismatch` when the header does not belong to a network of this zoo.
    """
    partitioning = get(header.network, header.partitioning)
    if header.network != partitioning.network:
        raise LayoutMismatch(f"the file names {header.network}; in a file that network is called {partitioning.network}")
    if header.parameters != partitioning.parameters:
        raise LayoutMismatch(
            f"the file declares {header.parameters:,} parameters; {header.network} ({header.partitioning}) "
            f"has {partitioning.parameters:,}"
        )
    return {group.name: group.shapes for group in partitioning.groups}


def join(header, groups: dict, consume: bool = False) -> dict:
    """Decoded groups -> state dict of float32 torch tensors, complete for `load_state_dict(strict=True)`.

    consume: take each group out of `groups` once it has become weights, so that integers and weights are not all in memory.
    """
    partitioning = get(header.network, header.partitioning)
    state = {}
    for name in list(groups):
        state |= weights(partitioning, {name: groups.pop(name) if consume else groups[name]})
    return state | constants(partitioning)


def weights(partitioning: Partitioning, groups: Mapping) -> dict:
    """State-dict name -> float32 torch tensor of those groups of the partitioning that are given."""
    import torch

    state = {}
    for group in partitioning.groups:
        if group.name in groups:
            coded = groups[group.name]
            arrays = reparam.decode(coded.decoder, coded.phi, coded.psi, list(group.shapes))
            state.update((tensor, torch.from_numpy(a)) for tensor, a in zip(group.tensors, arrays, strict=True))
    return state


def constants(partitioning: Partitioning) -> dict:
    """State-dict name -> torch tensor of what no file stores."""
    import torch

    state = {}
    for tensor, (value, shape) in partitioning.constants.items():
        dtype = np.int64 if tensor.endswith("num_batches_tracked") else np.float32
        state[tensor] = torch.from_numpy(np.full(shape, value, dtype))
    return state
