"""Batches: functions of (seed, step), the same for any number of processes, from memory, folders and streams."""

import itertools
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.training import batches, recipe
from zoo import datasets

CPU = torch.device("cpu")


def recipe_of(network: str = "vgg16", batch: int = 12, **changes) -> recipe.Recipe:
    return recipe.from_dict({"id": "x", "network": network, "method": "epr", "steps": 9, "batch": batch, **changes})


def same(a: batches.Batch, b: batches.Batch) -> bool:
    return torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


# --- in memory ----------------------------------------------------------------------------------------------


@pytest.fixture
def cifar(monkeypatch) -> datasets.Images:
    """100 random pictures in CIFAR-10's place, 40 of them held out; every one has a label of its own."""
    draw = np.random.default_rng(0)
    pixels, labels = draw.integers(0, 256, (100, 32, 32, 3), np.uint8), np.arange(100, dtype=np.uint8)
    images = datasets.Images(pixels, labels, "")
    monkeypatch.setattr(datasets, "load", lambda dataset, split: images)
    monkeypatch.setattr(datasets, "HOLDOUT", 40)
    return images


def resident(seed: int = 0, **changes) -> batches.Resident:
    return batches.open_(recipe_of(**changes), seed, CPU)


def test_a_batch_is_a_function_of_seed_and_step(cifar):
    augment = {"crop": 4, "flip": True, "cutout": 8}
    one, other = resident(augment=augment), resident(augment=augment)
    later = [one.train(step, 0, 1) for step in range(12)]
    assert same(other.train(11, 0, 1), later[11]) and same(other.train(3, 0, 1), later[3])
    assert not same(later[3], later[4]) and not same(resident(1, augment=augment).train(3, 0, 1), later[3])


def test_ranks_share_the_batch(cifar):
    source = resident(augment={"crop": 4, "flip": True, "cutout": 8})
    whole, shares = source.train(7, 0, 1), [source.train(7, rank, 3) for rank in range(3)]
    assert same(whole, (torch.cat([p[0] for p in shares]), torch.cat([p[1] for p in shares])))


def test_an_epoch_shows_every_image_once_and_held_out_ones_never(cifar):
    source = resident()
    for epoch in range(2):
        labels = torch.cat([source.train(5 * epoch + i, 0, 1)[1] for i in range(5)])
        assert sorted(labels.tolist()) == list(range(60))
    held = torch.cat([labels for rank in range(2) for _, labels in source.heldout(rank, 2)])
    assert sorted(held.tolist()) == list(range(60, 100)) and source.heldout_count == 40


def test_crops_are_windows_of_the_reflected_image_and_half_are_mirrored(cifar):
    source = resident(augment={"crop": 4, "flip": True})
    spec = source.spec
    mean, deviation = np.array(spec.mean)[:, None, None], np.array(spec.deviation)[:, None, None]
    mirrored = 0
    for step in range(5):
        for image, label in zip(*source.train(step, 0, 1), strict=True):
            result = np.rint((image.numpy() * deviation + mean) * 255).astype(np.uint8).transpose(1, 2, 0)
            full = np.pad(cifar.pixels[label], ((4, 4), (4, 4), (0, 0)), mode="reflect")
            windows = [full[y : y + 32, x : x + 32] for y in range(9) for x in range(9)]
            plain = any(np.array_equal(result, w) for w in windows)
            turned = any(np.array_equal(result, w[:, ::-1]) for w in windows)
            assert plain != turned
            mirrored += turned
    assert 15 <= mirrored <= 45  # of 60


def test_cutout_greys_one_square(cifar):
    source, plain = resident(augment={"cutout": 6}), resident()
    changed = [
        int((a != b).any(0).sum()) for a, b in zip(source.train(2, 0, 1)[0], plain.train(2, 0, 1)[0], strict=True)
    ]
    assert max(changed) <= 36 and min(changed) >= 9 and source.train(2, 0, 1)[0].abs().max() < 3


@pytest.mark.parametrize("augment, count", [({"crop": 2}, 25), ({"shift": 1}, 9), ({}, 1)])
def test_every_image_that_training_can_show_has_a_number(augment, count, cifar):
    source = resident(augment=augment)
    assert source.variants == 60 * count
    for step in (0, 7):
        numbers = [source.numbers(step, rank, 3) for rank in range(3)]
        assert torch.equal(source.variant_images(torch.cat(numbers)), source.train(step, 0, 1)[0])
    assert resident(augment={**augment, "flip": True}).variants is None


def test_enlarged_pixels(cifar):
    large, plain = resident(preprocessing="cifar10-64").train(0, 0, 1)[0], resident().train(0, 0, 1)[0]
    assert large.shape == (12, 3, 64, 64) and torch.equal(large[:, :, 1::2, ::2], plain)


def test_unknown_augmentation(cifar):
    with pytest.raises(ValueError, match="augment: rotate is unknown"):
        resident(augment={"rotate": 3})


# --- from a folder ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """64 pictures of 4 classes in <root>/train, each of one colour that tells which it is."""
    root = tmp_path_factory.mktemp("folder")
    for number in range(64):
        place = root / "train" / f"class{number % 4}"
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40 + number % 7, 50), (number, 2 * number, 128)).save(place / f"{number:03}.png")
    return root


@pytest.fixture
def from_folder(folder, monkeypatch):
    monkeypatch.setenv("ZOO_DATA", str(folder))
    monkeypatch.setenv("ZOO_WORKERS", "0")

    def make(seed: int = 0, **changes) -> batches.Folder:
        given = {"network": "resnet18:10", "batch": 8, "augment": {"size": 32}} | changes
        return batches.open_(recipe_of(**given), seed, CPU)

    return make


def test_folder_batches_are_functions_of_seed_and_step(from_folder):
    one, other = from_folder(), from_folder()
    later = [one.train(step, 0, 1) for step in range(16)]  # more than two epochs
    assert later[0][0].shape == (8, 3, 32, 32) and later[0][0].dtype == torch.float32
    assert same(other.train(9, 0, 1), later[9]) and same(other.train(10, 0, 1), later[10])
    assert same(other.train(2, 0, 1), later[2]) and not same(later[2], later[3])
    shares = [from_folder().train(9, rank, 2) for rank in range(2)]
    assert same(later[9], (torch.cat([p[0] for p in shares]), torch.cat([p[1] for p in shares])))


def test_workers_change_nothing(from_folder, monkeypatch):
    alone = from_folder()
    want = [alone.train(step, 0, 1) for step in range(4, 7)]
    state = torch.get_rng_state()
    monkeypatch.setenv("ZOO_WORKERS", "2")
    helped = from_folder()
    for step, batch in zip(range(4, 7), want, strict=True):
        assert same(helped.train(step, 0, 1), batch)
    helped.close()
    assert torch.equal(torch.get_rng_state(), state)


def colours(pictures: torch.Tensor) -> list[int]:
    """Which pictures these are: the red of their middle."""
    red = pictures[:, 0, 16, 16] * 0.229 + 0.485
    return [round(float(r) * 255) for r in red]


def test_folder_holds_pictures_out_of_training(from_folder):
    source = from_folder()
    held = [c for rank in range(2) for pictures, _ in source.heldout(rank, 2) for c in colours(pictures)]
    assert len(held) == source.heldout_count == 6 and len(set(held)) == 6
    assert held == [c for pictures, _ in from_folder(5).heldout() for c in colours(pictures)]  # whatever the seed
    for epoch in range(2):
        seen = [c for step in range(7) for c in colours(source.train(7 * epoch + step, 0, 1)[0])]
        assert len(set(seen)) == 56 and not set(seen) & set(held)
    labels = dict(zip(colours(source.train(0, 0, 1)[0]), source.train(0, 0, 1)[1].tolist(), strict=True))
    assert all(colour % 4 == label for colour, label in labels.items())


def test_folder_and_recipe_must_fit(from_folder):
    with pytest.raises(ValueError, match="has 4 classes, resnet18:3 tells 3 apart"):
        from_folder(network="resnet18:3")
    with pytest.raises(ValueError, match="fewer than a batch of 100"):
        from_folder(batch=100)
    with pytest.raises(ValueError, match="augment: crop is unknown"):
        from_folder(augment={"crop": 4})


def test_random_crops_have_the_asked_area_and_shape():
    """A picture whose colours are its coordinates tells from where a crop was taken."""
    y, x = np.mgrid[:200, :240]
    picture = Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8))
    augment = {"size": 32, "area": [0.2, 0.5], "ratio": [0.75, 4 / 3], "flip": True}
    mirrored = 0
    for seed in range(60):
        result = batches._random_crop(picture, augment, (1, seed)).astype(float)
        assert result.shape == (32, 32, 3)
        across, down = result[16, :, 0], result[:, 16, 1]
        mirrored += across[0] > across[-1]
        width, height = abs(across[-1] - across[0]) * 32 / 31, (down[-1] - down[0]) * 32 / 31
        assert 0.17 < width * height / (200 * 240) < 0.55
        assert 0.68 < width / height < 1.45
    assert 15 < mirrored < 45
    thin = Image.fromarray(np.zeros((4, 900, 3), np.uint8))
    assert batches._random_crop(thin, augment, (0,)).shape == (32, 32, 3)


# --- streamed -----------------------------------------------------------------------------------------------


class Examples:
    """Stands in for `datasets.IterableDataset`: what Stream uses of it, with its documented behaviour."""

    def __init__(self, items: list, splits=None):
        self.items, self.info = items, SimpleNamespace(splits=splits)

    def __iter__(self):
        return iter(self.items)

    def skip(self, n: int):
        return Examples(self.items[n:])

    def take(self, n: int):
        return Examples(self.items[:n])

    def shuffle(self, seed: int, buffer_size: int):
        return Examples([self.items[i] for i in np.random.default_rng(seed).permutation(len(self.items))])


@pytest.fixture
def hub(monkeypatch):
    """The `datasets` package with one data set of 50 examples on its Hub."""
    items = [{"image": Image.new("L", (40, 36), 4 * i), "label": i} for i in range(50)]
    package, distributed = ModuleType("datasets"), ModuleType("datasets.distributed")

    def load_dataset(name, configuration=None, *, split, streaming):
        assert (name, split, streaming) == ("someone/pictures", "train", True)
        return Examples(items, {"train": SimpleNamespace(num_examples=len(items))})

    package.load_dataset, package.distributed = load_dataset, distributed
    distributed.split_dataset_by_node = lambda d, rank, world_size: Examples(d.items[rank::world_size])
    monkeypatch.setitem(sys.modules, "datasets", package)
    monkeypatch.setitem(sys.modules, "datasets.distributed", distributed)


def stream(seed: int = 0, **changes) -> batches.Stream:
    given = {"network": "resnet18:50", "batch": 6, "data": "hf:someone/pictures", "augment": {"size": 32, "buffer": 10}}
    return batches.open_(recipe_of(**given | changes), seed, CPU)


def test_no_epoch_of_a_seed_is_in_the_order_of_another_s(hub):
    epochs = [stream(seed)._epoch(epoch, 0, 1, 0) for seed in (0, 1) for epoch in (0, 1)]
    orders = [tuple(example["label"] for example in itertools.islice(epoch, 45)) for epoch in epochs]
    assert len(set(orders)) == 4


def test_a_stream_is_resumed_exactly(hub):
    one = stream()
    later = [one.train(step, 0, 1) for step in range(20)]
    assert later[0][0].shape == (6, 3, 32, 32)
    for step in (0, 3, 7, 13):
        other = stream()
        assert same(other.train(step, 0, 1), later[step]) and same(other.train(step + 1, 0, 1), later[step + 1])
    epoch = torch.cat([labels for _, labels in later[:7]]).tolist()
    assert len(set(epoch)) == 42 and not set(epoch) & set(range(5))  # 45 in training: 7 whole batches of 6
    assert [label for _, labels in stream().heldout() for label in labels.tolist()] == [0, 1, 2, 3, 4]


def test_processes_read_different_examples(hub):
    streams = [stream() for _ in range(2)]
    seen = [[x for step in range(7) for x in one.train(step, rank, 2)[1].tolist()] for rank, one in enumerate(streams)]
    assert len(seen[0]) == len(seen[1]) == 21 and not set(seen[0]) & set(seen[1])


def test_without_the_package_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError, match="pip install datasets"):
        stream()


def test_a_stream_of_unknown_length_needs_a_number(hub, monkeypatch):
    monkeypatch.setattr(sys.modules["datasets"], "load_dataset", lambda *a, **k: Examples([]))
    with pytest.raises(ValueError, match="augment.examples"):
        stream()
    assert stream(augment={"examples": 120}).per_epoch == 18
