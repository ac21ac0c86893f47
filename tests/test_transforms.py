"""`zoo.transforms` as people use it: in data sets and other processes, on pictures as cameras and scanners leave them."""

import io
import multiprocessing
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

import zoo
from zoo import preprocessing
from zoo.errors import WrongData
from zoo.preprocessing import preprocess


def gradient(width: int = 60, height: int = 40) -> np.ndarray:
    return (np.arange(height)[:, None] * 3 + np.arange(width)[None] * 2).astype(np.uint8)


def test_a_picture_gives_one_input_and_a_list_a_batch():
    transform, image = preprocess("cifar10"), Image.fromarray(gradient()).convert("RGB")
    assert transform(image).shape == (3, 32, 32) and transform([image]).shape == (1, 3, 32, 32)
    assert torch.equal(transform([image])[0], transform(image))


def test_it_can_be_pickled_compared_and_read():
    transform = zoo.transforms("lenet300-100-sq")
    again = pickle.loads(pickle.dumps(transform))
    assert again == transform and torch.equal(again(Image.fromarray(gradient())), transform(Image.fromarray(gradient())))
    assert repr(transform) == "Transform(mnist: L, both sides to 28 (bilinear), (pixel / 255 - 0.1307) / 0.3081)"
    assert "shorter side to 256, centre 224 x 224" in repr(preprocess("imagenet"))


class Pictures(torch.utils.data.Dataset):
    def __init__(self, transform):
        self.transform = transform

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return self.transform(Image.fromarray(gradient() + np.uint8(index))), index


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_dataset_with_the_default_collation(workers):
    """Also where processes are spawned, as on macOS and Windows."""
    context = multiprocessing.get_context("spawn") if workers else None
    loader = DataLoader(Pictures(preprocess("mnist")), batch_size=4, num_workers=workers, multiprocessing_context=context)
    ((inputs, labels),) = list(loader)
    assert inputs.shape == (4, 1, 28, 28) and labels.tolist() == [0, 1, 2, 3]


def test_the_orientation_of_cameras_is_honoured():
    image = Image.fromarray(gradient()).convert("RGB")
    for orientation, turned in ((3, image.rotate(180)), (6, image.rotate(-90, expand=True)), (8, image.rotate(90, expand=True))):
        exif, file = Image.Exif(), io.BytesIO()
        exif[0x0112] = orientation
        image.save(file, "PNG", exif=exif)
        with Image.open(file) as stored:
            assert torch.equal(preprocess("imagenet")(stored), preprocess("imagenet")(turned)), orientation


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_is_white(mode, caplog):
    caplog.set_level("INFO", "zoo")
    transparent = Image.new("RGBA", (40, 40), (0, 0, 0, 0)).convert(mode)
    white = preprocess("cifar10")(Image.new("RGB", (40, 40), "white"))
    assert torch.equal(preprocess("cifar10")(transparent), white) and "blended on white" in caplog.text
    half = preprocessing.upright(Image.new("RGBA", (1, 1), (200, 0, 0, 128)))
    assert half.getpixel((0, 0)) == pytest.approx((227, 127, 127), abs=1)


def test_deep_pictures_are_scaled_by_their_mode():
    eight = gradient()
    wanted = preprocess("mnist")(Image.fromarray(eight))
    for deep in (eight.astype(np.uint16) * 257, eight.astype(np.int32) * 257, eight.astype(np.int32), eight.astype(np.float32),
                 eight.astype(np.float32) / 255):  # fmt: skip
        assert torch.equal(preprocess("mnist")(Image.fromarray(deep)), wanted), deep.dtype
    for wrong in (np.float32([[-1.0, 0.5]]), np.float32([[0, 300]]), np.float32([[np.nan, 0]]), np.int32([[0, 70_000]])):
        with pytest.raises(WrongData, match="expected 0 to"):
            preprocess("mnist")(Image.fromarray(wrong))


def test_digits_that_are_black_on_white_are_warned_of():
    digit = np.full((28, 28), 255, np.uint8)
    digit[8:20, 12:16] = 0
    with pytest.warns(UserWarning, match="white on black"):
        preprocess("mnist")(Image.fromarray(digit))
    preprocess("mnist")(Image.fromarray(255 - digit))  # a warning would be an error
    preprocess("cifar10")(Image.fromarray(digit))


@pytest.mark.parametrize("size", [(1, 101), (101 * 3, 3), (10_000, 8_901)])
def test_pictures_of_no_sensible_size_are_refused_before_they_are_resized(size, monkeypatch):
    monkeypatch.setattr(Image.Image, "convert", None)
    image = Image.new("L", (1, 1))
    image._size = size  # nothing is allocated
    with pytest.raises(WrongData, match="89 megapixels, and 100 times"):
        preprocess("imagenet")(image)
