"""A network without the channels that cannot change its answers: smaller in memory, several times faster.

    weights --which are zero--> dead channels of each space --constants into biases, the rest cut--> smaller network

A channel is dead if nothing reads it, or if it is zero whatever the input is. A channel with another constant value is
dead, too, where the layer that reads it has a bias to take it: a dense layer, or a convolution without padding.
"""

from __future__ import annotations

import torch
import torch.fx
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from zoo import networks
from zoo.networks.spaces import WITHIN, spaces, widths

Kept = dict[str, torch.Tensor]  # space -> numbers of the channels that stay, in the order in which they will stand

LINEAR = {"lenet5-caffe": ("conv1", "conv2")}  # spaces that no ReLU follows: there a negative constant passes, too


def remove_dead(network: str, module: nn.Module) -> Kept:
    """Removes the dead channels of the named network's module, in place; returns what stayed, at least one of each space.

    In eval mode the logits stay what they were, but for the order in which float32 rounds.
    """
    kept = _in_order(network, _alive(network, module))
    remove(network, module, kept)
    return kept


class _Tracer(torch.fx.Tracer):
    """Does not look into batch normalisation, not even of a kind of ours."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.BatchNorm2d) or super().is_leaf_module(module, name)


def fold_norms(module: nn.Module) -> None:
    """Makes each batch normalisation that follows one convolution a part of it, in place; logits stay, but for rounding.

    In eval mode, for a module that torch.fx can trace.
    """
    layers = dict(module.named_modules())
    for node in _Tracer().trace(module).nodes:
        if node.op != "call_module" or not isinstance(layers[node.target], nn.BatchNorm2d):
            continue
        before = node.args[0]
        if before.op == "call_module" and isinstance(layers[before.target], nn.Conv2d) and len(before.users) == 1:
            module.set_submodule(before.target, fuse_conv_bn_eval(layers[before.target], layers[node.target]))
            module.set_submodule(node.target, nn.Identity())


def remove(network: str, module: nn.Module, kept: Kept) -> None:
    """Cuts the parameters and buffers of the full network down to the kept channels, in place."""
    counts = widths(network)
    for name, where in spaces(network).items():
        path, _, kind = name.rpartition(".")
        layer = module.get_submodule(path)
        tensor = getattr(layer, kind)
        cut = tensor.detach()
        for side, space in enumerate(where):
            if space is not None:
                numbers = torch.arange(cut.shape[side]).view(counts[space], -1)  # a row for each channel
                cut = cut.index_select(side, numbers[kept[space].cpu()].flatten().to(cut.device))
        cut = cut.clone()
        setattr(layer, kind, nn.Parameter(cut, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else cut)
        if kind == "weight":
            _resize(layer)


def _resize(layer: nn.Module) -> None:
    """Sets the fields in which a layer says how large it is."""
    if isinstance(layer, nn.Conv2d):
        layer.out_channels, layer.in_channels = layer.weight.shape[:2]
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    else:
        layer.num_features = len(layer.weight)


@torch.no_grad()
def _alive(network: str, module: nn.Module) -> dict[str, torch.Tensor]:
    """Space -> bool for each of its channels. Folds constants into biases of the module.

    Without one channel another may be zero or unread: repeated until nothing changes.
    """
    alive = {space: torch.ones(count, dtype=torch.bool) for space, count in widths(network).items()}
    pairs = {name: where for name, where in spaces(network).items() if len(where) == 2}
    links = {name: _links(module.get_parameter(name), len(alive.get(inputs, ()))) for name, (_, inputs) in pairs.items()}
    within = WITHIN.get(networks.spec(network).base, {})
    changed = True
    while changed:
        before = {space: channels.clone() for space, channels in alive.items()}
        for space, channels in alive.items():  # from the images on: what can be other than zero
            written = torch.zeros_like(channels)
            for name, (outputs, inputs) in pairs.items():
                if outputs == space:
                    written |= (links[name] & alive.get(inputs, torch.tensor(True))).any(1)
            if space in within:  # an identity shortcut from the space before
                shortcut = alive[within[space]]
                written[: len(shortcut)] |= shortcut
            channels &= _passing(network, module, space, written, channels)
        for space, channels in reversed(alive.items()):  # from the logits back: what is read
            read = torch.zeros_like(channels)
            for name, (outputs, inputs) in pairs.items():
                if inputs == space:
                    read |= (links[name].T & alive.get(outputs, torch.tensor(True))).any(1)
            for larger in (s for s, first in within.items() if first == space):
                read |= alive[larger][: len(read)]
            channels &= read
        changed = any(not torch.equal(before[space], alive[space]) for space in alive)
    return alive


def _links(weight: torch.Tensor, inputs: int) -> torch.Tensor:
    """bool (outputs, inputs): which channels a weight connects; inputs: 0 for as many as it has."""
    return (weight != 0).reshape(len(weight), inputs or weight.shape[1], -1).any(2).cpu()


def _passing(network: str, module: nn.Module, space: str, written: torch.Tensor, alive: torch.Tensor) -> torch.Tensor:
    """bool (channels): which ones are other than zero for some input, given those that some weight writes to.

    A living channel with a constant value is folded into the next bias, where there is one, and then counts as zero.
    """
    passing, constants = torch.zeros_like(written), {}
    for name, where in spaces(network).items():
        path, _, kind = name.rpartition(".")
        if where != (space,) or kind != "bias":
            continue
        layer = module.get_submodule(path)
        scale, constant = torch.ones(len(written), dtype=torch.float64), layer.bias.double().cpu()
        if isinstance(layer, nn.BatchNorm2d):
            scale = (layer.weight.double() / (layer.running_var.double() + layer.eps).sqrt()).cpu()
            constant = constant - layer.running_mean.double().cpu() * scale
        if space not in LINEAR.get(networks.spec(network).base, ()):
            constant = constant.clamp(min=0)  # of several that are added, too: their sum is not positive
        fixed = ~written | (scale == 0)
        passing |= ~fixed | (constant != 0)
        constants[path] = torch.where(fixed & alive, constant, 0.0)
    (path, constant), *other_layers = constants.items()
    if constant.any() and not other_layers and _fold(network, module, space, constant):
        passing &= constant == 0
    return passing


def _fold(network: str, module: nn.Module, space: str, constant: torch.Tensor) -> bool:
    """Adds what constant channels send to the bias of the layer that reads them; False where that is not exact."""
    readers = [name for name, where in spaces(network).items() if len(where) == 2 and where[1] == space]
    layer = module.get_submodule(readers[0].rpartition(".")[0])
    if len(readers) > 1 or layer.bias is None or (isinstance(layer, nn.Conv2d) and layer.padding != (0, 0)):
        return False
    weight = layer.weight.view(len(layer.weight), len(constant), -1)
    layer.bias += (weight.sum(2, dtype=torch.float64).cpu() @ constant).to(layer.bias)
    weight[:, constant != 0] = 0.0  # a channel that has to stay, as the last one, sends nothing twice
    return True


def _in_order(network: str, alive: dict[str, torch.Tensor]) -> Kept:
    """Numbers of the living channels, ascending; first those that an identity shortcut brings."""
    within, kept = WITHIN.get(networks.spec(network).base, {}), {}
    for space, channels in alive.items():
        shortcut = kept[within[space]] if space in within else torch.arange(0)
        unlisted = channels.clone()
        unlisted[shortcut] = False
        kept[space] = torch.cat([shortcut, unlisted.nonzero().flatten()])
        if not len(kept[space]):
            kept[space] = torch.arange(1)  # a layer needs a channel
    return kept
