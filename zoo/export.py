"""A loaded network as other programs take it: tensors, an ONNX graph, an exported program of torch.

    network, example --torch.onnx.export-----> .onnx         run by onnxruntime, and compared, before it is written
                     --torch.export.export---> .pt2          run, and compared, before it is written
                     --state_dict------------> .safetensors
"""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from zoo.errors import ZooError

TOLERANCE = 1e-4  # of the outputs, in units of the largest
INSTALL = "pip install 'entropy-coded-zoo[export]'"


def safetensors(state: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """A state dict as a safetensors file; tensors under several names are stored under each."""
    from safetensors.torch import save

    return save({name: tensor.clone().contiguous() for name, tensor in state.items()}, dict(metadata))


def onnx(network: nn.Module, shape: tuple[int, int, int]) -> bytes:
    """An ONNX model: "input" float32 (N, C, H, W) for any N -> "output". Raises ZooError where onnxruntime answers otherwise."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch's exporter needs it
    except ImportError as error:
        raise ZooError(f"ONNX needs {error.name}: {INSTALL}") from error
    example = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder, torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter, about its own parts
        path = Path(folder) / "model.onnx"
        torch.onnx.export(network, (example,), path, input_names=["input"], output_names=["output"], dynamo=True, verbose=False,
                          external_data=False, dynamic_shapes=({0: torch.export.Dim("batch")},))  # fmt: skip
        data = path.read_bytes()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    _same(network, shape, lambda x: torch.from_numpy(session.run(None, {"input": x.numpy()})[0]), "onnxruntime")
    return data


def torch_export(network: nn.Module, shape: tuple[int, int, int]) -> bytes:
    """What torch.export.load reads: a program without this package, for batches of any size (N, C, H, W)."""
    example = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        out = io.BytesIO()
        torch.export.save(program, out)
        _same(network, shape, torch.export.load(io.BytesIO(out.getvalue())).module(), "the exported program")
    return out.getvalue()


def _same(network: nn.Module, shape: tuple[int, int, int], run: Callable[[torch.Tensor], torch.Tensor], program: str) -> None:
    """Raises ZooError where a program's outputs for a batch of another size are not the network's."""
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted, answers = network(x), run(x)
    far = float((answers - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30))
    if not far <= TOLERANCE:
        raise ZooError(f"{program} answers otherwise than the network: by {far:.2g} of the largest output; nothing is written")
