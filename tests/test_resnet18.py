"""ResNet-18 from training to a verified entry, on stand-ins: what somebody with ImageNet does, in small.

    recipe --train--> model.zoo --evaluate--> entry --verify--> zoo.load
    weights.safetensors --compress--> entry --verify--> zoo.load
    weights on the Hub --make--> entry --verify--> zoo.load
"""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

import zoo
from benchmarks import evaluate, measure
from benchmarks.__main__ import main
from benchmarks.training import loop, recipe
from zoo import datasets, measurement, preprocessing, records, registry, verify
from zoo.compress import synthesis

RECIPE = """
id = "resnet18-standin"
network = "resnet18:10"
method = "epr"
data = "cifar10"
preprocessing = "cifar10-64"
steps = 3
batch = 8
seeds = [0]
precision = "auto"
channels_last = true
evaluate_every = 3

[optimizer]
name = "sgd"
lr = 0.02

[options]
lambda = 1e-7
noise = "expected"
step = 0.02

[finish]
images = 16
heldout = 16
"""


def pictures(count: int, seed: int) -> datasets.Images:
    """Random pictures with labels in CIFAR-10's form."""
    draw = np.random.default_rng(seed)
    pixels, labels = draw.integers(0, 256, (count, 32, 32, 3), np.uint8), draw.integers(0, 10, count).astype(np.uint8)
    return datasets.Images(pixels, labels, datasets.digest(pixels, labels))


def verified(monkeypatch, folder, name: str, tested: datasets.Images, unmeasured: bool) -> records.Entry:
    """The entry as its record stands after `zoo verify`, which must have found nothing wrong."""
    monkeypatch.setattr(registry, "roots", lambda: [folder])
    monkeypatch.setattr(measurement, "test_images", lambda dataset, root=None: tested)
    (outcome,) = verify.verify([name], progress=False)
    outcome.check()
    if unmeasured:
        measure.record(registry.find(name), outcome.measurement)
    assert outcome.examples == len(tested)
    entry = registry.find(name)
    assert (entry.network, entry.dataset, entry.preprocessing) == ("resnet18:10", "cifar10", "cifar10-64")
    assert entry.parameters == 11_181_642
    assert entry.size_bytes == (folder / name / registry.MODEL).stat().st_size
    return entry


@pytest.mark.slow
def test_from_a_recipe_to_a_verified_entry(tmp_path, monkeypatch):
    images, tested = pictures(40, 0), pictures(12, 1)
    monkeypatch.setattr(datasets, "load", lambda dataset, split: images)
    monkeypatch.setattr(datasets, "HOLDOUT", 16)
    monkeypatch.setattr(measurement, "test_images", lambda dataset, root=None: tested)
    path, artifacts = tmp_path / "resnet18-standin.toml", tmp_path / "artifacts"
    path.write_text(RECIPE)
    loop.run(recipe.read(path), 0, tmp_path / "runs" / "resnet18-standin" / "seed-0")
    evaluate.evaluate(path, tmp_path / "runs", artifacts)
    entry = verified(monkeypatch, artifacts, "resnet18-standin", tested, unmeasured=False)
    network = zoo.load("resnet18-standin")
    with torch.no_grad():
        answers = network(preprocessing.preprocess("cifar10-64")(tested.pixels)).argmax(1)
    assert int((answers.numpy() != tested.labels).sum()) == entry.test_errors


def trained(network: str, steps: int) -> tuple[loop.Run, dict[str, torch.Tensor]]:
    """A minute of training on CIFAR-10 enlarged to 64 pixels; its state dict with BN statistics of these weights."""
    minute = recipe.from_dict({
        "id": "x", "network": network, "method": "plain", "data": "cifar10", "preprocessing": "cifar10-64",
        "steps": steps, "batch": 64, "precision": "auto", "channels_last": True, "augment": {"flip": True},
        "optimizer": {"name": "sgd", "lr": 0.05, "warmup": 20, "weight_decay": 5e-4}, "options": {"ema": 0.9},
    })  # fmt: skip
    training = loop.Run(minute, 0)
    for _ in range(steps):
        training.train_step()
    weights = training._weights(averaged=True) | training.bn_averages.averages()
    state = training.network.state_dict() | weights | training._statistics(weights, 2000)
    return training, {name: tensor.detach().contiguous() for name, tensor in state.items()}


@pytest.mark.slow
@pytest.mark.data
def test_the_papers_row_from_weights_on_the_hub(server, tmp_path, monkeypatch):
    """Some ten minutes. A network of the real names and shapes, whose first ten classes are CIFAR-10's."""
    _, state = trained("resnet18", steps=100)
    server.commit("timm/resnet18.tv_in1k", {"model.safetensors": save(state)})
    monkeypatch.chdir(tmp_path)  # the work folder
    monkeypatch.setattr(synthesis, "COUNT", 32)  # of pictures and of steps: fewer than users need
    monkeypatch.setattr(synthesis, "STEPS", 20)
    assert main(["make", "resnet18-dft-imagenet", "--artifacts", str(tmp_path / "artifacts")]) == 0
    monkeypatch.setattr(registry, "roots", lambda: [tmp_path / "artifacts"])
    (outcome,) = verify.verify(["resnet18-dft-imagenet"], progress=False)
    outcome.check()
    entry = registry.find("resnet18-dft-imagenet")
    assert 1_950_300 <= entry.size_bytes <= 1_970_000 and entry.quoted == "resnet18/epr-dft"
    assert entry.weights_source.source == "timm/resnet18.tv_in1k" and len(entry.weights_source.revision) == 40
    _, heldout = datasets.holdout_split(datasets.load("cifar10", "train"))
    inputs = preprocessing.preprocess("cifar10-64")(heldout.pixels[:500])
    network = zoo.load("resnet18-dft-imagenet")
    with torch.inference_mode():
        answers = network(inputs).argmax(1)
        exact = torch.func.functional_call(network, state, (inputs,)).argmax(1)
    assert float((answers == exact).float().mean()) > 0.5  # no picture was given, and it has hardly learnt


@pytest.mark.slow
@pytest.mark.data
def test_from_a_weights_file_to_a_verified_entry(tmp_path, monkeypatch):
    """Some minutes: trained on CIFAR-10 enlarged to 64 pixels, compressed without training, tested on held-out images."""
    _, heldout = datasets.holdout_split(datasets.load("cifar10", "train"))
    tested = datasets.Images(heldout.pixels[:1000], heldout.labels[:1000], "")
    tested = datasets.Images(tested.pixels, tested.labels, datasets.digest(tested.pixels, tested.labels))
    training, state = trained("resnet18:10", steps=200)
    save_file(state, tmp_path / "weights.safetensors")
    out = tmp_path / "artifacts" / "resnet18-dft"
    command = f"compress resnet18:10 --weights {tmp_path / 'weights.safetensors'} --preprocessing cifar10-64 --basis dft "
    command += f"--bytes 1.5MB --calibration cifar10 --images 200 --work {tmp_path / 'work'} --out {out}"
    assert main(command.split()) == 0
    entry = verified(monkeypatch, tmp_path / "artifacts", "resnet18-dft", tested, unmeasured=True)
    assert 1_485_000 <= entry.size_bytes <= 1_500_000
    assert entry.weights_source["source"] == "weights.safetensors"
    before, after = training.network, zoo.load("resnet18-dft")
    with torch.no_grad():
        inputs = preprocessing.preprocess("cifar10-64")(tested.pixels)
        exact = torch.func.functional_call(before.eval(), state, (inputs,)).argmax(1)
        answers = after(inputs).argmax(1)
    assert float((answers == exact).float().mean()) > 0.7  # 0.80 when written: barely trained, it is unsure of its answers
    labels = torch.from_numpy(tested.labels.astype(np.int64))
    assert float((exact == labels).float().mean()) > 0.3  # it has learnt something
    assert json.loads((out / "entry.json").read_text())["size_bytes"] == entry.size_bytes
