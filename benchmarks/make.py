"""The commands that make an entry which does not come with the zoo: nothing is run.

    python -m benchmarks make resnet18-dft
"""

from __future__ import annotations

import argparse

from benchmarks.training import recipe as recipes
from zoo.errors import UnknownModel

_COMPRESS = (
    "python -m benchmarks compress {network} --weights timm/{network}.tv_in1k --basis {basis} --bytes {size} "
    "--calibration IMAGENET/train --out artifacts/{network}-{basis}"
)
WITHOUT_TRAINING = {  # for anybody who has ImageNet
    "resnet18-dft": _COMPRESS.format(network="resnet18", basis="dft", size="1.97MB"),
    "resnet18-sq": _COMPRESS.format(network="resnet18", basis="sq", size="2.78MB"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="id of a recipe in benchmarks/recipes/")


def main(args: argparse.Namespace) -> int:
    ways = commands(args.id)
    if not ways:
        names = sorted({path.stem for path in recipes.FOLDER.glob("*.toml")} | set(WITHOUT_TRAINING))
        raise UnknownModel(f"there is no recipe for {args.id!r}; those there are: {', '.join(names)}")
    print("\nor\n".join(ways))
    return 0


def commands(name: str) -> list[str]:
    """Ways to make the entry of that name, each a command line; empty where none is known."""
    ways = [WITHOUT_TRAINING[name]] if name in WITHOUT_TRAINING else []
    if name in {path.stem for path in recipes.FOLDER.glob("*.toml")}:
        ways.append(f"python -m benchmarks train {name} && python -m benchmarks evaluate {name}")
    return ways
