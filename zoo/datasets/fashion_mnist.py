"""Fashion-MNIST: Xiao, Rasul, Vollgraf 2017, "Fashion-MNIST: a novel image dataset" (arXiv 1708.07747). Files as MNIST's."""

from __future__ import annotations

from pathlib import Path

from zoo.datasets import mnist
from zoo.datasets.dataset import Arrays, Dataset, Split
from zoo.datasets.download import gunzip, tar_reader
from zoo.preprocessing import Preprocessing

LARGEST_PACKAGED = 30_000_000  # bytes of a gzipped file in the archive


def read_package(archive: Path) -> dict[str, Arrays]:
    """Both splits from an archive of the authors' repository, which carries the official files."""
    get = tar_reader(archive, tuple(f"{name}.gz" for name in mnist.TRAIN + mnist.TEST), LARGEST_PACKAGED)

    def unpacked(name: str) -> bytes:
        return gunzip(get(f"{name}.gz"), name, mnist.LARGEST_FILE)

    return {split: mnist.read(unpacked, split) for split in mnist.FILES}


FASHION_MNIST = Dataset(
    name="fashion-mnist",
    title="Fashion-MNIST",
    class_names=lambda: ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
                         "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),  # fmt: skip
    preprocessings=(Preprocessing("fashion-mnist", "L", 28, None, 255.0, (0.2860,), (0.3530,)),),
    batch=1000,
    test_examples=10_000,
    splits={
        "train": Split((60_000, 28, 28), "e97fad2c0a45d625a54d887016f10393a19f1de01dcc67548194364f11a91469", mnist.TRAIN),
        "test": Split((10_000, 28, 28), "2fb86dcbd2acaf2f804f16cbf13c7414826f96ad5b41acb8667c0f0f9cb74550", mnist.TEST),
    },
    read=mnist.read,
    # Never a root itself: MNIST's files have the same names.
    layouts=("fashion-mnist", "fashion-mnist/raw", "FashionMNIST/raw", "FashionMNIST"),
    largest_file=mnist.LARGEST_FILE,
    hosts=(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    ),
    package="https://deb.debian.org/debian/pool/main/d/dataset-fashion-mnist/"
            "dataset-fashion-mnist_0.0~git20200523.55506a9.orig.tar.xz",
    read_package=read_package,
)  # fmt: skip
