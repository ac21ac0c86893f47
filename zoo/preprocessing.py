"""From pictures to the numbers a network is fed with: one fixed preprocessing per name, used by everybody.

    PIL image ── resize, crop ─┐
    uint8 batch ───────────────┴─ (N, H, W, C) uint8 ── scale, mean, deviation ── (N, C, H, W) float32

A record names its preprocessing ("mnist", "cifar10-64", "imagenet-caffe"; `zoo.datasets` has them all), so that nobody
has to guess it. Agrees with torchvision's Resize, CenterCrop and Normalize without importing it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


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



def preprocess(spec: str | Preprocessing) -> Callable[..., torch.Tensor]:
    """The function that makes network input, float32 (N, C, H, W), for a preprocessing or its name.

    It takes
    - a PIL image of any size and mode, giving N = 1, or a list of them: converted to grey or RGB, then
      resized (bilinear, antialiased) to 28 or 32 pixels squared; for ImageNet to a shorter side of 256 and
      cropped to the central 224;
    - a uint8 numpy array or torch tensor (N, H, W), (N, H, W, C) or (N, C, H, W) already of the network's
      size, which is only normalised; a tensor's device is kept.

    Raises ValueError for an unknown name or another shape, TypeError for another type.
    """
    if isinstance(spec, str):
        from zoo import datasets

        spec = datasets.preprocessing(spec)

    def transform(images) -> torch.Tensor:
        return normalise(spec, _batch(spec, images))

    transform.__doc__ = f"PIL image, list of them or uint8 batch -> float32 (N, C, H, W); {spec}"
    return transform


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

    image = image.convert(spec.mode)
    width, height = image.size
    if spec.resize is None:
        return image.resize((spec.size, spec.size), Image.Resampling.BILINEAR)
    short, long = sorted((width, height))
    longer = int(spec.resize * long / short)
    width, height = (spec.resize, longer) if width <= height else (longer, spec.resize)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - spec.size) / 2), round((height - spec.size) / 2)
    return image.crop((left, top, left + spec.size, top + spec.size))


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
        images = np.stack([np.asarray(resize_and_crop(spec, image)) for image in images])  # (N, H, W[, C])
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
