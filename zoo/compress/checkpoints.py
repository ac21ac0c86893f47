"""Checkpoints as people have them: the tensors of a network, out of whatever file or folder they were saved in.

    .safetensors ─┐                                     nested dicts, prefixes of wrappers,
    .pth .pt .bin ├─ one mapping ─────────────────────> counters and non-tensors removed ──> names, tensors
    shards, index ┘  no pickle runs code (weights_only)

    timm/NAME, torchvision/NAME, OWNER/NAME of the Hugging Face Hub ── fetched, read likewise
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from zoo.datasets import download
from zoo.errors import DataUnavailable, WrongData, reason

# Where trainers nest the weights, the more usual first.
NESTS = (
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "weights", "params", "ema", "model_ema",
    "state_dict_ema", "ema_state_dict", "params_ema",
)  # fmt: skip
WRAPPERS = ("module.", "_orig_mod.")  # DataParallel and DDP; torch.compile
COUNTERS = ("n_averaged", "total_ops", "total_params")  # of averaged models and of profilers, which networks do not have
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WHOLE = ("model.safetensors", "pytorch_model.bin", "model.pth", "model.pt")
CONVERT = "save its tensors alone, where it was made: torch.save(model.state_dict(), 'weights.pth')"


@dataclass
class Checkpoint:
    """Tensors by name, and what was left out or unwrapped on the way, in words."""

    state: dict[str, torch.Tensor]
    notes: list[str] = field(default_factory=list)


def read(path: str | Path, key: str | None = None) -> Checkpoint:
    """The tensors in a file, an index of shards, or a folder of either.

    key: which of several nested dicts is meant, as "ema"; default: the first of NESTS that is there.

    Raises `DataUnavailable` where there is nothing, `WrongData` for what is no checkpoint that can be read without running
    the code in it; the message says what it is and what to do.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        inside = next((path / name for name in INDEXES + WHOLE if (path / name).is_file()), None)
        if inside is None:
            raise DataUnavailable(f"{path} has none of {', '.join(INDEXES + WHOLE)}")
        path = inside
    if not path.is_file():
        raise DataUnavailable(f"no file {path}")
    tensors = _shards(path) if path.name.endswith(".index.json") else _file(path)
    return unwrap(tensors, str(path), key)


def unwrap(content: object, where: str, key: str | None = None) -> Checkpoint:
    """The tensors in what was read: out of nested dicts, without prefixes of wrappers and what is no tensor."""
    notes: list[str] = []
    if isinstance(content, torch.Tensor) or not isinstance(content, Mapping):
        raise WrongData(f"{where} holds {_kind_of(content)}, no tensors by name; {CONVERT}")
    for _ in range(4):
        nests = [name for name in NESTS if isinstance(content.get(name), Mapping) and _holds_tensors(content[name])]
        if key is not None and key not in content:
            raise WrongData(f"{where} has no {key!r}; there are {', '.join(map(str, list(content)[:10]))}")
        if key is None and (not nests or _most_are_tensors(content)):
            break
        chosen = key or nests[0]
        content, key = content[chosen], None
        further = [name for name in nests if name != chosen]
        notes.append(f"taken from {chosen!r}" + (f"; there is {', '.join(further)}, too (--key)" if further else ""))
        if not isinstance(content, Mapping):
            raise WrongData(f"{where}: {chosen!r} is {_kind_of(content)}, no tensors by name")
    state = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if len(state) < len(content):
        dropped = [str(name) for name, value in content.items() if not isinstance(value, torch.Tensor)]
        notes.append(f"left out, no tensors: {', '.join(dropped[:5])}{' ...' if len(dropped) > 5 else ''}")
    counters = [name for name in state if name.rpartition(".")[2] in COUNTERS]
    if counters:
        notes.append(f"left out, counters: {', '.join(counters[:5])}{' ...' if len(counters) > 5 else ''}")
        state = {name: tensor for name, tensor in state.items() if name not in set(counters)}
    if not state:
        raise WrongData(f"{where} holds no tensors; {CONVERT}")
    stripped = True
    while stripped:
        stripped = False
        for wrapper in WRAPPERS:
            if all(name.startswith(wrapper) and name != wrapper for name in state):
                state = {name.removeprefix(wrapper): tensor for name, tensor in state.items()}
                notes.append(f"prefix {wrapper!r} removed")
                stripped = True
    compiled = {name: name.replace("._orig_mod.", ".") for name in state}
    if len(set(compiled.values())) == len(state) and any(name != short for name, short in compiled.items()):
        state = {compiled[name]: tensor for name, tensor in state.items()}
        notes.append("'_orig_mod.' removed")
    return Checkpoint({name: tensor.detach() for name, tensor in state.items()}, notes)


def find(source: str, key: str | None = None) -> tuple[Checkpoint, str]:
    """The checkpoint at a path, or of a network that timm, torchvision or the Hugging Face Hub publish; and the name of that
    network, "" if none is known.

    Raises as `read` does, and `UnknownName` for a timm or torchvision name that is not listed.
    """
    if Path(source).expanduser().exists():
        return read(source, key), ""
    if not re.fullmatch(r"[\w.-]+/[\w.:-]+", source):
        raise DataUnavailable(f"{source} is no file, and no name as timm/NAME, torchvision/NAME or OWNER/NAME of the Hub")
    from zoo import named

    library = source.partition("/")[0]
    if library in named.LIBRARIES:
        named.check(source)
    if library == "torchvision":
        return unwrap(_torchvision(source.partition("/")[2]), source, key), source
    return read(_hub(source), key), source if library == "timm" else ""


def _file(path: Path) -> object:
    with open(path, "rb") as file:
        head = file.read(512)
    described = download.describe(head)
    if not described.startswith(f"{len(head)} bytes"):
        raise WrongData(f"{path} is {described}, no checkpoint")
    if path.suffix == ".safetensors" or (head[8:9] == b"{" and head[:2] != b"PK"):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise WrongData(f"{path} is no whole safetensors file ({error})") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = next((line.strip() for line in str(error).splitlines() if "Unsupported" in line or "GLOBAL" in line), "")
        raise WrongData(f"{path} holds Python objects, not tensors alone, and reading these can run any code; {CONVERT}"
                        f"{f' ({reason[:200]})' if reason else ''}") from error  # fmt: skip
    except (RuntimeError, EOFError, KeyError, ValueError, AttributeError) as error:
        if "TorchScript" in str(error):
            raise WrongData(f"{path} is a TorchScript archive: torch.save(torch.jit.load(path).state_dict(), ...)") from error
        raise WrongData(f"{path} is no checkpoint that torch can read ({str(error).splitlines()[0]})") from error


def _shards(path: Path) -> dict[str, torch.Tensor]:
    try:
        places = json.loads(path.read_text())["weight_map"]
        files = sorted({str(file) for file in places.values()})
    except (ValueError, KeyError, AttributeError) as error:
        raise WrongData(f"{path} is no index of shards ({error!r})") from error
    if any(Path(file).name != file for file in files):
        raise WrongData(f"{path} names shards outside its folder")
    missing = [file for file in files if not (path.parent / file).is_file()]
    if missing:
        raise DataUnavailable(f"{path.parent} lacks {len(missing)} of {len(files)} shards: {', '.join(missing[:3])}")
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        tensors |= _file(path.parent / file)
    absent = [name for name in places if name not in tensors]
    if absent:
        raise WrongData(f"{path}: the shards lack {', '.join(absent[:4])}")
    return tensors


def _hub(source: str) -> Path:
    import huggingface_hub

    failure: Exception | None = None
    for name in ("model.safetensors", "pytorch_model.bin"):
        try:
            return Path(huggingface_hub.hf_hub_download(source, name))
        except Exception as error:  # the Hub raises errors of several libraries
            failure = error
    raise DataUnavailable(f"{source} could not be fetched from the Hugging Face Hub: {reason(failure)}") from failure


def _torchvision(name: str) -> object:
    from zoo import _torchvision, datasets

    weights = next(iter(_torchvision.torchvision().models.get_model_weights(name.partition(":")[0])))
    path = datasets.cache_folder() / "weights" / weights.url.rsplit("/", 1)[1]
    if not path.is_file():
        try:
            download.download(weights.url, path)
        except OSError as error:
            raise DataUnavailable(f"torchvision/{name} could not be fetched: {error}") from error
    return _file(path)


def _holds_tensors(content: Mapping) -> bool:
    if any(isinstance(value, torch.Tensor) for value in content.values()):
        return True
    return any(isinstance(content.get(name), Mapping) and _holds_tensors(content[name]) for name in NESTS)


def _most_are_tensors(content: Mapping) -> bool:
    return 2 * sum(isinstance(value, torch.Tensor) for value in content.values()) > len(content)


def _kind_of(content: object) -> str:
    return "a single tensor" if isinstance(content, torch.Tensor) else f"an object of type {type(content).__name__}"
