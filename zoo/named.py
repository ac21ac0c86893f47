"""Networks by the name in a file: this zoo's, and those that timm and torchvision list.

    "resnet18", "resnet18:10" ── zoo.networks      "timm/NAME[:CLASSES]" ── timm      "torchvision/NAME[:CLASSES]" ── torchvision

Nothing is downloaded, and no name reaches a library that it does not list itself: timm also takes addresses.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

import torch
from torch import nn

from zoo import _torchvision, mismatch, networks
from zoo.codec import Picture
from zoo.codec.described import INTERPOLATIONS
from zoo.errors import LayoutMismatch, UnknownName, ZooError

LIBRARIES = ("timm", "torchvision")


def build(name: str) -> nn.Module:
    """The network of that name with random weights, on torch's default device (`meta` allocates nothing).

    Raises `UnknownName`, with the nearest names, for one that is not listed or whose library is not installed.
    """
    library, slash, listed_name = name.partition("/")
    if not slash:
        try:
            return networks.build(name)
        except ZooError as error:
            raise UnknownName(str(error)) from error
    base, classes = _split(library, listed_name)
    options = {} if classes is None else {"num_classes": classes}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries: old names, initialisation
        if library == "timm":
            import timm

            return timm.create_model(base, pretrained=False, **options)
        from torchvision import models

        return models.get_model(base, weights=None, **options)


def check(name: str) -> None:
    """Raises `UnknownName` for a name that `build` would refuse; builds nothing."""
    library, slash, listed_name = name.partition("/")
    if slash:
        _split(library, listed_name)
        return
    try:
        networks.spec(name)
    except ZooError as error:
        raise UnknownName(str(error)) from error


def module(name: str, state: Mapping[str, torch.Tensor]) -> nn.Module:
    """The named network with these tensors, in eval mode.

    Raises `UnknownName`, and `LayoutMismatch` where the tensors are not its own.
    """
    with torch.device("meta"):
        network = build(name)
    fits(name, network, state)
    assign(network, state)
    if _unfinished(network):  # a buffer that is in no state dict is computed while it is built, on `meta` without numbers
        network = build(name)
        assign(network, state)
    return network.eval()


def fits(name: str, network: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Raises `LayoutMismatch` where the tensors are not those of the network."""
    wanted = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    problem = mismatch.explain({key: tuple(tensor.shape) for key, tensor in state.items()}, wanted, name)
    if problem:
        raise LayoutMismatch(problem)


def assign(network: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Puts the tensors into the network without a copy. Parameters that share one tensor go on sharing it."""
    names: dict[int, list[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    network.load_state_dict(dict(state), strict=True, assign=True)
    for first_name, *other_names in names.values():
        for tied_name in other_names:
            path, _, leaf = tied_name.rpartition(".")
            setattr(network.get_submodule(path), leaf, network.get_parameter(first_name))


def picture(name: str) -> Picture | None:
    """What the library says of the named network's input; None where it says nothing, or what no file holds."""
    from zoo import datasets

    library, slash, listed_name = name.partition("/")
    if not slash:
        spec = datasets.preprocessing(networks.spec(name).dataset)
        return Picture(**{field: getattr(spec, field) for field in Picture.__dataclass_fields__})
    base, _ = _split(library, listed_name)
    if library == "timm":
        import timm

        config = timm.get_pretrained_cfg(base)
        if config is None or config.input_size[0] != 3 or config.input_size[1] != config.input_size[2]:
            return None
        size, share = config.input_size[1], config.crop_pct or 0.875
        if (config.crop_mode or "center") != "center" or config.interpolation not in INTERPOLATIONS:
            return None
        resize = math.floor(size / share)
        return Picture(datasets.IMAGENET.name, "RGB", size, resize, 255.0, tuple(config.mean), tuple(config.std), 1,
                       config.interpolation)  # fmt: skip
    from torchvision import models

    weights = models.get_model_weights(base)
    preset = next(iter(weights)).transforms() if len(weights) else None
    if not all(hasattr(preset, field) for field in ("crop_size", "resize_size", "mean", "std", "interpolation")):
        return None
    (size,), (resize,) = preset.crop_size, preset.resize_size
    return Picture(datasets.IMAGENET.name, "RGB", size, resize, 255.0, tuple(preset.mean), tuple(preset.std), 1,
                   preset.interpolation.value)  # fmt: skip


def _split(library: str, listed_name: str) -> tuple[str, int | None]:
    """Name and number of classes, checked against the library's own list."""
    base, colon, digits = listed_name.partition(":")
    if library not in LIBRARIES:
        raise UnknownName(f"no library of networks is called {library!r}; known: {', '.join(LIBRARIES)}")
    listed = _listed(library)
    if base not in listed:
        raise UnknownName(f"{library} lists no network {base!r}{mismatch.near(base, listed)}")
    if not colon:
        return base, None
    if not (digits.isascii() and digits.isdigit() and digits[0] != "0" and int(digits) <= networks.MAX_CLASSES):
        raise UnknownName(f"{listed_name!r}: a network has 1 to {networks.MAX_CLASSES:,} classes, written as in {base}:10")
    return base, int(digits)


def _listed(library: str) -> list[str]:
    try:
        _torchvision.torchvision()  # timm imports it, too
        if library == "timm":
            import timm

            return sorted({*timm.list_models(), *timm.list_models(pretrained=True)})
        from torchvision import models

        return models.list_models()
    except ImportError as error:
        raise UnknownName(f"the file's network is one of {library}'s: pip install {library}") from error


def _unfinished(network: nn.Module) -> bool:
    """Whether some tensor of the network has no numbers: a buffer in no state dict, or a plain attribute."""
    attributes = (value for layer in network.modules() for value in vars(layer).values() if isinstance(value, torch.Tensor))
    return any(t.is_meta for source in (network.parameters(), network.buffers(), attributes) for t in source)
