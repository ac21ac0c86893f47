"""Stand-ins: small entries made here from random integers, with records, golden outputs and predictions."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hub_server import Hub

import zoo
from zoo import codec, datasets, measurement, networks, partitionings, records, registry
from zoo.codec import Coded

ROOT = Path(__file__).parents[1]


def random_model(network: str = "lenet300-100", seed: int = 0, spread: float = 0.3) -> bytes:
    """A model file whose integers are drawn from a Laplace distribution."""
    draw = np.random.default_rng(seed)
    groups = {}
    for group in partitionings.get(network).groups:
        integers = np.rint(draw.laplace(0, spread, (group.size, 1))).astype(np.int32)
        groups[group.name] = Coded("scalar", "static", integers, {"scale": np.array([[0.0625]], np.float32)})
    return zoo.encode(network, "paper", groups)


def standin_images(count: int = 200, seed: int = 1) -> datasets.Images:
    """Random pictures of MNIST's size with random labels."""
    draw = np.random.default_rng(seed)
    pixels = draw.integers(0, 256, (count, 28, 28), np.uint8)
    labels = draw.integers(0, 10, count).astype(np.uint8)
    return datasets.Images(pixels, labels, datasets.digest(pixels, labels))


def make_entry(root: Path, name: str, blob: bytes, images: datasets.Images | None = None, **facts) -> records.Entry:
    """An entry's folder below `root`, complete, tested on `images` if there are any; `facts` go into the record."""
    from benchmarks import evaluate

    dataset = facts.pop("dataset", None) or networks.spec(codec.read_header(blob).network).dataset
    preprocessing = facts.pop("preprocessing", dataset)
    result = measurement.measure(blob, images, dataset=dataset, preprocess=preprocessing, progress=False)
    facts = {"method": "plain", "dataset": dataset, "preprocessing": preprocessing} | facts
    return evaluate.write_entry(name, blob, result, root, **facts)


def copy_repository(place: Path) -> Path:
    """The repository at `place`, without its tests, history and runs."""
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("zoo", "benchmarks", "figures", "artifacts"):
        shutil.copytree(ROOT / name, place / name, ignore=ignore)
    for name in ("README.md", "leaderboard.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "pyproject.toml", ".gitignore"):
        shutil.copy(ROOT / name, place / name)
    return place


@pytest.fixture(scope="session")
def lenet_blob() -> bytes:
    """A LeNet300-100 of random integers, about 30 kB."""
    return random_model()


@pytest.fixture
def artifacts(tmp_path, monkeypatch) -> Path:
    """An empty folder that is the only one in which entries are looked for."""
    folder = tmp_path / "artifacts"
    folder.mkdir()
    monkeypatch.setattr(registry, "roots", lambda: [folder])
    return folder


@pytest.fixture
def mnist_standin(monkeypatch) -> datasets.Images:
    """200 random pictures that take the place of MNIST's test set."""
    images = standin_images()
    monkeypatch.setattr(measurement, "test_images", lambda dataset, root=None: images)
    return images


@pytest.fixture
def entry(artifacts, lenet_blob, mnist_standin) -> records.Entry:
    """The entry lenet300-100-standin, tested on `mnist_standin`."""
    return make_entry(artifacts, "lenet300-100-standin", lenet_blob, mnist_standin)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The Hub on this machine, and an empty cache of its client."""
    from huggingface_hub import constants

    stand_in = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", stand_in.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", stand_in.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setenv("HF_TOKEN", "a-token")
    yield stand_in
    stand_in.close()
