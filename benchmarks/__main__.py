"""The commands that train, measure and write records: `python -m benchmarks COMMAND --help` shows an example of each.

    recipe --train--> runs/<id>/seed-<n>/model.zoo --evaluate--> artifacts/<id>/ --leaderboard--> leaderboard.md, figures

A command is one line of COMMANDS: the module that offers `add_arguments(parser)` and `main(args)`, which returns
nothing or an exit status. Its docstring is the text of `--help`. Only the module of the given command is imported.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from zoo.errors import ZooError

COMMANDS = {  # name: (module, one line)
    "train": ("benchmarks.train", "recipe -> model files in runs/, one for each seed"),
    "evaluate": ("benchmarks.evaluate", "model files of a recipe -> the record in artifacts/, measured once"),
    "submit": ("benchmarks.submit", "a model file that another program wrote -> its entry, measured once"),
    "quote": ("benchmarks.quote", "a published number -> the list of quoted results"),
    "measure": ("benchmarks.measure", "ImageNet's validation set -> the test errors of entries that have none"),
    "sample": ("benchmarks.sample", "pictures -> errors and agreement of an entry and of the network that it compresses"),
    "recode": ("benchmarks.recode", "entries -> the same integers, coded as the encoder does today"),
    "make": ("benchmarks.make", "an entry that does not come with the zoo: from published weights, or by its recipe"),
    "leaderboard": ("benchmarks.report.leaderboard", "records -> leaderboard.md, figures and the table in README.md"),
    "page": ("benchmarks.report.page", "records -> the page of the leaderboard: static files in site/"),
    "check": ("benchmarks.check", "what a contribution adds or changes -> all that must be mended"),
    "pictures": ("benchmarks.report.pictures", "integers of entries -> the drawings in docs/, a method each"),
    "compare": ("benchmarks.compare", "two entries: exact paired test on their answers, difference in bytes"),
    "sweep": ("benchmarks.sweep", "a recipe under several values of one setting -> a curve as CSV"),
    "ablation": ("benchmarks.report.ablation", "sweeps without one ingredient each -> a table of bytes at equal error"),
    "compress": ("benchmarks.compress", "weights -> a model file of a given size, without training"),
    "others": ("benchmarks.others", "networks of other libraries, trained for minutes, before and after at several sizes"),
    "peers": ("benchmarks.peers", "other codecs on the same weights: bytes, answers, seconds to encode and to load"),
    "speed": ("benchmarks.speed", "ratios of speed, both sides measured in the same run"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; 1 where it failed with a complaint of ours, 2 where the command line is wrong."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] not in COMMANDS:
        return _overview(argv)
    name = argv[0]
    module = importlib.import_module(COMMANDS[name][0])
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    try:
        return module.main(parser.parse_args(argv[1:])) or 0
    except (ZooError, ValueError, FileNotFoundError, FileExistsError, FloatingPointError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted; run it again to go on", file=sys.stderr)
        return 130


def _overview(argv: list[str]) -> int:
    lines = ["usage: python -m benchmarks COMMAND [--help]", ""]
    lines += [f"  {name:<14}{summary}" for name, (_, summary) in COMMANDS.items()]
    lines += ["", "example: python -m benchmarks train lenet300-100-sq --seed 0"]
    help_asked = bool(argv) and argv[0] in ("-h", "--help")
    if argv and not help_asked:
        lines.insert(0, f"python -m benchmarks: no command {argv[0]!r}")
    print("\n".join(lines), file=sys.stdout if help_asked else sys.stderr)
    return 0 if help_asked else 2


if __name__ == "__main__":
    sys.exit(main())
