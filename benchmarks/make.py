"""Make an entry that does not come with the zoo, from its weights or by its recipe: each command is shown, then run.

    python -m benchmarks make resnet18-dft-imagenet      the paper's row, from weights that timm's authors trained on ImageNet
    python -m benchmarks make lenet300-100-sq            train all seeds, then measure

A run that was stopped goes on where it was when the command is given again.
"""

from __future__ import annotations

import argparse

from benchmarks import evaluate
from benchmarks.training import recipe as recipes
from zoo.errors import UnknownModel

FROM_WEIGHTS = {  # id: (network, source of weights, basis of the 3x3 kernels, bytes at most)
    "resnet18-dft-imagenet": ("resnet18", "timm/resnet18.tv_in1k", "dft", "1.97MB"),
    "resnet18-sq-imagenet": ("resnet18", "timm/resnet18.tv_in1k", "sq", "2.78MB"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help=f"{', '.join(FROM_WEIGHTS)}, or a recipe in benchmarks/recipes/")
    parser.add_argument("--calibration", metavar="DIR", help="pictures by class; without them compression makes its own")
    folder = str(evaluate.ARTIFACTS)
    parser.add_argument("--artifacts", default=folder, metavar="DIR", help="where the entry goes (default: artifacts/)")
    parser.add_argument("--train", action="store_true", help="train by the recipe even where weights can be had")
    parser.add_argument("--dry-run", action="store_true", help="show the commands, run nothing")


def main(args: argparse.Namespace) -> int:
    from benchmarks.__main__ import main as run

    for words in commands(args.id, args.artifacts, args.calibration, args.train):
        print(f"python -m benchmarks {' '.join(words)}", flush=True)
        status = 0 if args.dry_run else run(words)
        if status:
            return status
    return 0


def commands(name: str, artifacts: str = "artifacts", calibration: str | None = None, train: bool = False) -> list[list[str]]:
    """The commands, in words, that make the entry of that name. Raises `UnknownModel` with the names that can be made."""
    by_recipe = sorted(path.stem for path in recipes.FOLDER.glob("*.toml"))
    if name in FROM_WEIGHTS and not train:
        network, weights, basis, size = FROM_WEIGHTS[name]
        pictures = ["--calibration", calibration] if calibration else []
        source = ["compress", network, "--weights", weights, "--basis", basis, "--bytes", size]
        return [[*source, *pictures, "--out", f"{artifacts}/{name}"]]
    if name in by_recipe:
        return [["train", name], ["evaluate", name, "--out", artifacts]]
    known = ", ".join(sorted({*by_recipe, *FROM_WEIGHTS}))
    raise UnknownModel(f"no way to make {name!r} is known; those that can be made: {known}")
