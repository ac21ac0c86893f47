"""From pictures to the numbers a network is fed with: one fixed preprocessing per name, used by everybody.

    PIL image ── resize, crop ─┐
    uint8 batch ───────────────┴─ (N, H, W, C) uint8 ── scale, mean, deviation ── (N, C, H, W) float32

A record names its preprocessing ("mnist", "cifar10-64", "imagenet-caffe"; `zoo.datasets` has them all), so that nobody
has to guess it. Agrees with torchvision's Resize, CenterCrop and Normalize without importing it.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo.errors import WrongData

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

MEGAPIXELS, RATIO = 89, 100  # of pictures: the most that are resized, and the most sides may differ
_log = logging.getLogger("zoo")


@dataclass(frozen=True)
class Preprocessing:
    """pixel (0..255) -> (pixel / scale - mean) / deviation per channel, on images of size x size pixels."""

    name: str
    mode: str  # of PIL: "L" or "RGB"
    size: int  # height and width of what the network sees
    resize: int | None  # shorter side before the centre crop; None: both sides are resized to `size`
    scale: float
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    enlarge: int = 1  # each pixel is repeated that often in both directions, last of all
    interpolation: str = "bilinear"  # of the resizing, antialiased


@dataclass(frozen=True)
class Transform:
    """What turns pictures into network input: see `preprocess`, which makes it. It can be pickled and compared."""

    spec: Preprocessing

    def __call__(self, images) -> torch.Tensor:
        single = hasattr(images, "getexif")  # a PIL image
        batch = normalise(self.spec, _batch(self.spec, images))
        return batch[0] if single else batch

    def __repr__(self) -> str:
        spec = self.spec
        cut = f"both sides to {spec.size}"
        if spec.resize is not None:
            cut = f"shorter side to {spec.resize}, centre {spec.size} x {spec.size}"
        larger = f", pixels {spec.enlarge} times" if spec.enlarge > 1 else ""
        numbers = f"(pixel / {spec.scale:g} - {_numbers(spec.mean)}) / {_numbers(spec.deviation)}"
        return f"Transform({spec.name}: {spec.mode}, {cut} ({spec.interpolation}), {numbers}{larger})"


def preprocess(spec: str | Preprocessing) -> Transform:
    """The function that makes network input, float32, for a preprocessing or its name.

    It takes
    - a PIL image of any size and mode, giving (C, H, W), or a list of them, giving (N, C, H, W): turned as its EXIF
      orientation says, blended on white where it is transparent, brought to 8 bits, converted to grey or RGB, resized
      (bilinear, antialiased) and cropped;
    - a uint8 numpy array or torch tensor (N, H, W), (N, H, W, C) or (N, C, H, W) already of the network's
      size, which is only normalised, giving (N, C, H, W); a tensor's device is kept.

    Raises ValueError for an unknown name, another shape, pictures of more than 89 megapixels or 100 times as long as wide,
    and numbers that no picture has; TypeError for another type. Warns of digits that are black on white.
    """
    if isinstance(spec, str):
        from zoo import datasets

        spec = datasets.preprocessing(spec)
    return Transform(spec)


def normalise(spec: Preprocessing, batch: torch.Tensor) -> torch.Tensor:
    """uint8 (N, C, H, W) -> float32 (N, C, enlarge * H, enlarge * W), on the batch's device."""
    import torch

    mean = torch.tensor(spec.mean, dtype=torch.float32, device=batch.device).view(1, -1, 1, 1)
    deviation = torch.tensor(spec.deviation, dtype=torch.float32, device=batch.device).view(1, -1, 1, 1)
    pixels = batch.float().div_(spec.scale).sub_(mean).div_(deviation)
    if spec.enlarge > 1:
        pixels = pixels.repeat_interleave(spec.enlarge, 2).repeat_interleave(spec.enlarge, 3)
    return pixels


def resize_and_crop(spec: Preprocessing, image: Image) -> Image:
    """A PIL image of any size and mode -> spec.mode, size x size pixels."""
    from PIL import Image

    filtered = Image.Resampling[spec.interpolation.upper()]
    try:
        image = image.convert(spec.mode)
    except ValueError as error:
        raise WrongData(f"a picture of mode {image.mode} cannot be seen as {spec.mode}: {error}") from error
    width, height = image.size
    if spec.resize is None:
        return image.resize((spec.size, spec.size), filtered)
    short, long = sorted((width, height))
    if long > RATIO * short:  # the longer side grows with the shorter one
        raise WrongData(f"a picture of {width:,} x {height:,} pixels is longer than {RATIO} times its shorter side")
    longer = int(spec.resize * long / short)
    width, height = (spec.resize, longer) if width <= height else (longer, spec.resize)
    image = image.resize((width, height), filtered)
    left, top = round((width - spec.size) / 2), round((height - spec.size) / 2)
    return image.crop((left, top, left + spec.size, top + spec.size))


def upright(image: Image) -> Image:
    """A PIL image as people see it, in 8 bits a channel and without transparency.

    Raises WrongData beyond MEGAPIXELS or RATIO, and for numbers that are no brightness.
    """
    from PIL import ImageOps

    width, height = image.size
    if width * height > MEGAPIXELS * 10**6 or max(width, height) > RATIO * min(width, height):
        limits = f"at most {MEGAPIXELS} megapixels, and {RATIO} times as long as wide"
        raise WrongData(f"a picture of {width:,} x {height:,} pixels: {limits}")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        return _eight_bits(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        from PIL import Image

        _log.info("a transparent picture was blended on white")
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image


def _eight_bits(image: Image) -> Image:
    """Modes I;16, I and F as L: scaled by their range, never clipped."""
    import numpy as np
    from PIL import Image

    pixels = np.asarray(image, np.float64)
    low, high = pixels.min(), pixels.max()
    if image.mode == "F":
        largest = 1.0 if high <= 1 else 255.0
    else:
        largest = 65535.0 if image.mode.startswith("I;16") or high > 255 else 255.0
    if not (low >= 0 and high <= largest):  # nor NaN
        raise WrongData(f"a picture of mode {image.mode} with numbers from {low:g} to {high:g}, expected 0 to {largest:g}")
    return Image.fromarray(np.rint(pixels * (255 / largest)).astype(np.uint8))


def _warn_if_inverted(spec: Preprocessing, image: Image) -> None:
    """Warns of a picture with a white border where those of the data set are white on black."""
    import numpy as np

    from zoo import datasets

    if spec.name not in datasets.PREPROCESSINGS:  # of a model file that brings its own
        return
    dataset = datasets.of_preprocessing(spec.name)
    pixels = np.asarray(image)
    if dataset.white_on_black and np.median(np.concatenate([pixels[[0, -1]], pixels[:, [0, -1]].T])) > 200:
        warnings.warn(f"the border of the picture is white: {dataset.title}'s pictures are white on black "
                      "(PIL.ImageOps.invert)", stacklevel=4)  # fmt: skip


def _numbers(values: tuple[float, ...]) -> str:
    return f"{values[0]:g}" if len(set(values)) == 1 else "(" + ", ".join(f"{value:g}" for value in values) + ")"


def _batch(spec: Preprocessing, images) -> torch.Tensor:
    """Whatever was given -> uint8 (N, C, H, W), contiguous."""
    import numpy as np
    import torch
    from PIL import Image

    if isinstance(images, Image.Image):
        images = [images]
    if isinstance(images, (list, tuple)):
        if not images or not all(isinstance(image, Image.Image) for image in images):
            raise TypeError("a list must hold PIL images, at least one; give arrays as one uint8 batch")
        images = [resize_and_crop(spec, upright(image)) for image in images]
        for image in images:
            _warn_if_inverted(spec, image)
        images = np.stack([np.asarray(image) for image in images])  # (N, H, W[, C])
    if isinstance(images, np.ndarray):
        if images.dtype != np.uint8:
            raise TypeError(f"expected uint8 pixels (0..255), got {images.dtype}")
        # A tensor needs writable memory and positive strides, which slices of memory-mapped sets may lack.
        images = torch.from_numpy(np.require(images, requirements=("C", "W")))
    if not isinstance(images, torch.Tensor):
        raise TypeError(f"expected a PIL image, a list of them or a uint8 batch, got {type(images)}")
    if images.dtype != torch.uint8:
        raise TypeError(f"expected uint8 pixels (0..255), got {images.dtype}")
    size, channels = spec.size, len(spec.mean)
    shape = tuple(images.shape[1:])
    if channels == 1 and shape == (size, size):
        images = images[:, None]
    elif shape == (size, size, channels):
        images = images.permute(0, 3, 1, 2)
    elif shape != (channels, size, size):
        raise ValueError(f"{spec.name} expects a batch (N, {size}, {size}, {channels}), got "
                         f"{tuple(images.shape)}; give PIL images to have them resized")
    return images.contiguous()
