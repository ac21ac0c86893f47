"""Preprocessing: values worked out by hand, and agreement with torchvision."""

import numpy as np
import pytest
import torch
from PIL import Image

from zoo import datasets
from zoo.preprocessing import preprocess


def golden(name: str) -> np.ndarray:
    """The golden input of a preprocessing's data set, of the size that it takes."""
    size = datasets.preprocessing(name).size
    return np.ascontiguousarray(datasets.of_preprocessing(name).golden_input()[:, :size, :size])


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    """Arbitrary pixels with fine and coarse structure, uint8 (H, W, C)."""
    y, x, c = np.ogrid[:height, :width, :channels]
    return ((x * y * (c + 1) + 13 * x + 7 * y * y) % 256).astype(np.uint8)


def test_mnist_values_by_hand():
    batch = np.zeros((2, 28, 28), np.uint8)
    batch[1, 3, 4] = 255
    out = preprocess("mnist")(batch)
    assert out.shape == (2, 1, 28, 28) and out.dtype == torch.float32
    assert out[0, 0, 0, 0].item() == pytest.approx(-0.1307 / 0.3081, rel=1e-6)
    assert out[1, 0, 3, 4].item() == pytest.approx((1 - 0.1307) / 0.3081, rel=1e-6)


def test_cifar10_values_by_hand():
    batch = np.zeros((1, 32, 32, 3), np.uint8)
    batch[0, 5, 6] = (51, 102, 204)
    out = preprocess("cifar10")(batch)[0, :, 5, 6].tolist()
    expected = [(0.2 - 0.4914) / 0.2470, (0.4 - 0.4822) / 0.2435, (0.8 - 0.4465) / 0.2616]
    assert out == pytest.approx(expected, rel=1e-6)


def test_imagenet_values_by_hand():
    batch = np.full((1, 224, 224, 3), (51, 102, 204), np.uint8)
    out = preprocess("imagenet")(batch)[0, :, 100, 7].tolist()
    expected = [(0.2 - 0.485) / 0.229, (0.4 - 0.456) / 0.224, (0.8 - 0.406) / 0.225]
    assert out == pytest.approx(expected, rel=1e-6)


def test_imagenet_caffe_keeps_rgb_and_the_range_of_pixels():
    batch = np.full((1, 224, 224, 3), (51, 102, 204), np.uint8)
    out = preprocess("imagenet-caffe")(batch)[0, :, 100, 7].tolist()
    assert out == pytest.approx([51 - 123.68, 102 - 116.779, 204 - 103.939], rel=1e-6)


def test_enlarged_pixels_are_repeated():
    pixels = datasets.golden_input("cifar10")
    large, plain = preprocess("cifar10-64")(pixels), preprocess("cifar10")(pixels)
    assert all(torch.equal(large[:, :, y::2, x::2], plain) for y in (0, 1) for x in (0, 1))
    assert {datasets.of_preprocessing(name).name for name in datasets.PREPROCESSINGS} == set(datasets.DATASETS)


SIZES = [(256, 256), (224, 224), (300, 400), (400, 300), (257, 1000), (60, 40), (511, 333)]


@pytest.mark.parametrize("size", SIZES)
def test_imagenet_agrees_with_torchvision(size):
    from zoo._torchvision import torchvision

    torchvision()
    from torchvision import transforms as theirs

    image = Image.fromarray(noise(*size))
    expected = theirs.Compose([
        theirs.Resize(256, antialias=True),
        theirs.CenterCrop(224),
        theirs.PILToTensor(),
        theirs.ConvertImageDtype(torch.float32),
        theirs.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ])(image)
    assert torch.equal(preprocess("imagenet")(image), expected)


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
@pytest.mark.parametrize("size", [(28, 28), (32, 32), (100, 57)])
def test_small_images_agree_with_torchvision(name, size):
    from zoo._torchvision import torchvision

    torchvision()
    from torchvision.transforms import functional

    spec = datasets.PREPROCESSINGS[name]
    image = Image.fromarray(noise(*size))
    resized = functional.resize(image.convert(spec.mode), [spec.size, spec.size])
    tensor = functional.pil_to_tensor(resized).float() / 255
    expected = functional.normalize(tensor, spec.mean, spec.deviation)
    assert torch.equal(preprocess(name)(image), expected)


@pytest.mark.parametrize("name", list(datasets.PREPROCESSINGS))
def test_every_kind_of_input_gives_the_same_numbers(name):
    transform = preprocess(name)
    pixels = golden(name)  # (4, H, W[, C])
    expected = transform(pixels)
    spec = datasets.PREPROCESSINGS[name]
    side = spec.size * spec.enlarge
    assert expected.shape == (4, len(spec.mean), side, side) and expected.is_contiguous()
    planes = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
    frozen = pixels.copy()
    frozen.flags.writeable = False
    for same in (torch.from_numpy(pixels), planes, torch.from_numpy(planes), frozen, pixels[::-1][::-1]):
        assert torch.equal(transform(same), expected)
    if spec.mode == "L":
        assert torch.equal(transform(pixels[..., None]), expected)
    if spec.resize is None:  # pictures of the native size stay as they are
        images = [Image.fromarray(image) for image in pixels]
        assert torch.equal(transform(images), expected)
        assert torch.equal(transform(images[2]), expected[2])
        assert torch.equal(transform(tuple(images)), expected)


@pytest.mark.parametrize("name", list(datasets.PREPROCESSINGS))
def test_the_input_is_not_changed(name):
    pixels = golden(name)
    before = pixels.copy()
    preprocess(name)(pixels)
    preprocess(name)(torch.from_numpy(pixels))
    assert np.array_equal(pixels, before)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "LA"])
@pytest.mark.parametrize("name", list(datasets.PREPROCESSINGS))
def test_pictures_of_every_mode_are_taken(name, mode):
    spec = datasets.PREPROCESSINGS[name]
    out = preprocess(name)(Image.fromarray(noise(50, 70)).convert(mode))
    side = spec.size * spec.enlarge
    assert out.shape == (len(spec.mean), side, side) and bool(torch.isfinite(out).all())


def test_a_list_may_mix_sizes_and_modes():
    images = [Image.fromarray(noise(300, 400)), Image.fromarray(noise(500, 260)).convert("L")]
    both = preprocess("imagenet")(images)
    assert both.shape == (2, 3, 224, 224)
    assert torch.equal(both[1], preprocess("imagenet")(images[1]))


def test_an_empty_batch_stays_empty():
    assert preprocess("cifar10")(np.zeros((0, 32, 32, 3), np.uint8)).shape == (0, 3, 32, 32)


@pytest.mark.parametrize(
    ("images", "error", "words"),
    [
        (np.zeros((1, 32, 32, 3), np.float32), TypeError, "uint8 pixels"),
        (torch.zeros(1, 3, 32, 32), TypeError, "uint8 pixels.*float32"),
        (np.zeros((1, 28, 28, 3), np.uint8), ValueError, r"batch \(N, 32, 32, 3\), got \(1, 28, 28, 3\)"),
        (np.zeros((32, 32, 3), np.uint8), ValueError, "give PIL images"),
        (np.zeros((1, 32, 32), np.uint8), ValueError, "expects a batch"),
        ([], TypeError, "at least one"),
        ([np.zeros((32, 32, 3), np.uint8)], TypeError, "must hold PIL images"),
        ("cat.png", TypeError, "expected a PIL image.*str"),
    ],
)
def test_other_input_is_refused_in_words(images, error, words):
    with pytest.raises(error, match=words):
        preprocess("cifar10")(images)


def test_unknown_names_and_given_specs():
    with pytest.raises(ValueError, match=f"there are {', '.join(datasets.PREPROCESSINGS)}"):
        preprocess("svhn")
    batch = datasets.golden_input("mnist")
    assert torch.equal(preprocess(datasets.PREPROCESSINGS["mnist"])(batch), preprocess("mnist")(batch))


def test_the_constants_are_the_statistics_of_the_mnist_pixels():
    pixels = datasets.load("mnist", "test").pixels / 255
    assert pixels.mean() == pytest.approx(0.1307, abs=0.003)
    assert pixels.std() == pytest.approx(0.3081, abs=0.003)
