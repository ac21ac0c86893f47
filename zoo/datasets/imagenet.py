"""ImageNet-1k: Russakovsky et al. 2015, "ImageNet large scale visual recognition challenge". Bring your own pictures."""

from __future__ import annotations

import functools

from zoo.datasets.dataset import PACKAGED, Dataset
from zoo.preprocessing import Preprocessing


@functools.cache
def _classes() -> tuple[tuple[str, str], ...]:
    """(synset, name) of the 1,000 classes: synsets from timm's imagenet_synsets.txt, names as torchvision."""
    lines = (PACKAGED / "imagenet_classes.tsv").read_text(encoding="utf-8").splitlines()
    return tuple((synset, name) for synset, name in (line.split("\t") for line in lines))


def synsets() -> tuple[str, ...]:
    """The 1,000 WordNet ids of ImageNet-1k, sorted: position = class index."""
    return tuple(synset for synset, _ in _classes())


# He et al. 2016, section 3.4 (one centre crop), with the statistics of torchvision and timm.
STANDARD = Preprocessing("imagenet", "RGB", 224, 256, 255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# The Keras ResNet-50: means only. It takes BGR; here the input channels of conv1 are reversed instead.
CAFFE = Preprocessing("imagenet-caffe", "RGB", 224, 256, 1.0, (123.68, 116.779, 103.939), (1.0, 1.0, 1.0))
# The same for networks trained on smaller pictures: objects then are as large as in training (Touvron et al. 2019).
CAFFE_128 = Preprocessing("imagenet-caffe-128", "RGB", 128, 147, 1.0, (123.68, 116.779, 103.939), (1.0, 1.0, 1.0))

IMAGENET = Dataset(
    name="imagenet",
    title="ImageNet",
    class_names=lambda: tuple(name for _, name in _classes()),
    preprocessings=(STANDARD, CAFFE, CAFFE_128),
    batch=50,
    test_examples=50_000,  # of the validation set, 50 of each class
)
