"""One codec of other people on one set of weights, in an environment that has it: started by `python -m benchmarks peers`.

    python peer.py METHOD SETTING weights.npz decoded.npz

Reads float32 arrays by name, encodes, decodes, writes the decoded arrays, and prints bytes and seconds as JSON. Knows neither the
zoo nor its networks: it runs where these may not be installed.
"""

import importlib.util
import io
import json
import sys
import time
from pathlib import Path

import numpy as np


def half(arrays, setting):
    from safetensors.numpy import load, save

    blob = save({name: array.astype(np.float16) for name, array in arrays.items()})
    return len(blob), lambda: {name: array.astype(np.float32) for name, array in load(blob).items()}


def int8(arrays, setting):
    """A scale for each output; vectors in float16."""
    from safetensors.numpy import load, save

    blob = save(rounded(arrays))
    return len(blob), lambda: restored(load(blob))


def zstd(arrays, setting):
    """The bytes of `float32`, or of `int8`, at level 19."""
    import zstandard
    from safetensors.numpy import load, save

    integers = setting == "int8"
    blob = zstandard.ZstdCompressor(level=19).compress(save(rounded(arrays) if integers else arrays))

    def decode():
        tensors = load(zstandard.ZstdDecompressor().decompress(blob))
        return restored(tensors) if integers else tensors

    return len(blob), decode


def nncodec(arrays, setting):
    _torchvision()
    from nncodec.nn import decode, encode

    stream = encode(dict(arrays), args={"qp": int(setting), "use_dq": True, "verbose": False, "results": "."})
    return len(stream), lambda: decode(stream)


def torchao(arrays, setting):
    """int8 weights of dense layers; everything else stays float32."""
    import torch
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    layers = torch.nn.ModuleDict()
    for name, array in arrays.items():
        if array.ndim == 2:
            layers[name.replace(".", "/")] = torch.nn.Linear(array.shape[1], array.shape[0], bias=False)
            layers[name.replace(".", "/")].weight.data = torch.from_numpy(array.copy())
    quantize_(layers, Int8WeightOnlyConfig())
    vectors = {name: torch.from_numpy(array) for name, array in arrays.items() if array.ndim != 2}
    file = io.BytesIO()
    torch.save({"layers": {name: layer.weight for name, layer in layers.items()}, "rest": vectors}, file)

    def decode():
        saved = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
        dense = {name.replace("/", "."): weight.dequantize().detach() for name, weight in saved["layers"].items()}
        return {name: tensor.float().numpy() for name, tensor in (dense | saved["rest"]).items()}

    return len(file.getvalue()), decode


def _torchvision():
    """Imports it by the zoo's cure for a torch without CUDA, a file that needs nothing of the zoo."""
    path = Path(__file__).parents[2] / "zoo" / "_torchvision.py"
    spec = importlib.util.spec_from_file_location("_torchvision", path)
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)  # stays: so do its declarations
    spec.loader.exec_module(module)
    module.torchvision()


def rounded(arrays):
    out = {}
    for name, array in arrays.items():
        if array.ndim < 2:
            out[name] = array.astype(np.float16)
            continue
        rows = array.reshape(len(array), -1)
        scale = np.maximum(np.abs(rows).max(1, keepdims=True), 1e-12) / 127
        out[name] = np.rint(rows / scale).astype(np.int8).reshape(array.shape)
        out[name + "/scale"] = scale.astype(np.float32)
    return out


def restored(tensors):
    out = {}
    for name, array in tensors.items():
        if array.dtype == np.int8:
            rows = array.reshape(len(array), -1).astype(np.float32) * tensors[name + "/scale"]
            out[name] = rows.reshape(array.shape)
        elif not name.endswith("/scale"):
            out[name] = array.astype(np.float32)
    return out


METHODS = {method.__name__: method for method in (half, int8, zstd, nncodec, torchao)}

if __name__ == "__main__":
    method, setting, source, target = sys.argv[1:]
    with np.load(source) as file:
        weights = {name: file[name] for name in file.files}
    start = time.perf_counter()
    size, decode = METHODS[method](weights, setting)
    encoded = time.perf_counter()
    arrays = decode()
    loaded = time.perf_counter()
    np.savez(target, **{name: np.asarray(array, np.float32).reshape(weights[name].shape) for name, array in arrays.items()})
    print(json.dumps({"bytes": size, "encode": encoded - start, "load": loaded - encoded}))
