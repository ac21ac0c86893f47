"""A training run as a TOML file: everything that decides its result, checked when it is read."""

from __future__ import annotations

import itertools
import tomllib
import types
import typing
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path

from zoo import networks
from zoo.errors import ZooError

FOLDER = Path(__file__).parent.parent / "recipes"
CHOICES = {
    "precision": ("float32", "bf16", "auto"),
    "optimizer.name": ("adam", "sgd"),
    "optimizer.schedule": ("constant", "cosine", "linear", "step"),
}


@dataclass(frozen=True)
class Optimizer:
    """Of the network's own parameters and latents; the method names the rates of its other parameters."""

    name: str = "adam"  # adam | sgd
    lr: float = 1e-3
    psi_lr: float | None = None  # of step sizes and shifts; None: lr / 10
    schedule: str = "cosine"  # constant | cosine (to zero) | linear (to zero) | step (times `drop` at each milestone)
    milestones: tuple[int, ...] = ()  # steps
    drop: float = 0.1
    warmup: int = 0  # steps of linear warm-up
    weight_decay: float = 0.0
    momentum: float = 0.9  # of SGD
    nesterov: bool = True


@dataclass(frozen=True)
class Finish:
    """How what the method leaves (BN) is coded: see benchmarks/training/bn.py. Without effect where it leaves nothing."""

    penalty: float | None = None  # nats a bit; None: the method's lambda, else 1e-8
    images: int = 10_000  # training images for BN's statistics; a fifth of them during training, a quarter for scores of channels
    heldout: int = 2_000  # held-out images that judge precisions


@dataclass(frozen=True)
class Claim:
    """What the authors aim at; the leaderboard shows it beside what was measured. The bytes also bound the choice of a seed."""

    bytes: int | None = None
    error_percent: float | None = None
    quoted: str = ""  # key of the published result that the entry stands beside (zoo/quoted.json)


@dataclass(frozen=True)
class Recipe:
    """See benchmarks/recipes/ for examples. Steps, not epochs, are the unit of time; `batch` is the global batch."""

    id: str
    network: str
    method: str
    steps: int
    batch: int
    seeds: tuple[int, ...] = (0, 1, 2)
    partitioning: str = "paper"
    data: str = ""  # data set, where it is not the network's own, "hf:REPOSITORY" or "pool:FOLDER": see training/batches.py
    preprocessing: str = ""  # name for zoo.preprocessing, where it is not that of the data set
    warm_start: str = ""  # id of the entry whose weights training starts from; ID@SHA-256 of one that left: see history.py
    keep: dict = field(default_factory=dict)  # channels that stay of the warm start's, by space: see benchmarks/training/thin.py
    teacher: str = ""  # id of the entry, or source of weights ("keras/resnet50"), whose logits are distilled
    distill: float = 0.0  # weight of the teacher's divergence against the labels' cross-entropy, where a label is known
    temperature: float = 1.0
    features: float = 0.0  # weight of the error in the teacher's stage outputs: see benchmarks/training/distill.py
    stages: tuple[str, ...] = ()  # modules of teacher and student whose outputs are compared
    inherit: tuple[str, ...] = ()  # layers that start as copies of the teacher's
    label_smoothing: float = 0.0
    precision: str = "float32"  # float32 | bf16 (autocast) | auto (bf16 where the hardware multiplies it)
    channels_last: bool = False  # memory layout of convolutions
    shrink: tuple[tuple[int, int], ...] = ()  # (n, s): before step n images are averaged down to s x s pixels: cheap early steps
    average: float = 0.999  # decay of the running average of the parameters that the method leaves as they are (BN)
    evaluate_every: int = 1000
    checkpoint_every: int = 1000
    optimizer: Optimizer = field(default_factory=Optimizer)
    augment: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)  # of the method
    finish: Finish = field(default_factory=Finish)
    claim: Claim = field(default_factory=Claim)
    comment: str = ""  # what the run costs and gives, for people

    @property
    def dataset(self) -> str:
        """Name of the data set that the network is tested on: `data`, or the network's own."""
        if self.data and not self.data.startswith(("hf:", "pool:")):
            return self.data
        return networks.spec(self.network).dataset

    @property
    def preprocess(self) -> str:
        """Name of the preprocessing: `preprocessing`, or the data set's own."""
        return self.preprocessing or self.dataset


def find(path: str | Path) -> Path:
    """The recipe file at `path`, or of that id in benchmarks/recipes/. Raises FileNotFoundError with the ids that exist."""
    path = Path(path)
    if not path.is_file() and (FOLDER / f"{path}.toml").is_file():
        path = FOLDER / f"{path}.toml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.toml")))
        raise FileNotFoundError(f"no recipe {path}; benchmarks/recipes/ has {known}")
    return path


def read(path: str | Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """The recipe at `path`, or of that id in benchmarks/recipes/, with `a.b=value` overrides (TOML values).

    Raises what `from_dict` does, ValueError for an override that cannot be, FileNotFoundError with the recipes that exist.
    """
    path = find(path)
    content = tomllib.loads(path.read_text())
    for override in overrides:
        key, sep, value = override.partition("=")
        if not sep:
            raise ValueError(f"an override reads key=value, found {override!r}")
        try:
            parsed = tomllib.loads(f"v = {value}")["v"]
        except tomllib.TOMLDecodeError:
            parsed = value
        *tables, last = key.split(".")
        target = content
        for table in tables:
            target = target.setdefault(table, {})
            if not isinstance(target, dict):
                raise ValueError(f"{override}: {table} is no table")
        target[last] = parsed
    return from_dict(content, str(path))


def deciding(recipe: Recipe) -> dict:
    """The fields that decide what a run of one seed gives: two recipes that agree in them are the same training."""
    values = {k: v for k, v in asdict(recipe).items() if k not in ("seeds", "claim", "comment", "checkpoint_every")}
    return values | {"warm_start": recipe.warm_start.partition("@")[0]}  # the digest came when the entry left the shelf


def from_dict(content: dict, where: str = "recipe") -> Recipe:
    """The recipe of a TOML file, a log or a checkpoint, checked.

    Raises ValueError, which begins with `where`: for unknown and missing keys, all of them; then for values of a wrong type
    or beyond CHOICES, all of them; then for a network that does not exist, a teacher without `distill`, an unsorted `shrink`.
    """
    content = dict(content)
    tables = {"optimizer": Optimizer, "finish": Finish, "claim": Claim}
    given = {name: content[name] for name in tables if isinstance(content.get(name), dict)}
    unknown = sorted(set(content) - {f.name for f in fields(Recipe)})
    for table, own in given.items():
        unknown += [f"{table}.{k}" for k in sorted(set(own) - {f.name for f in fields(tables[table])})]
    missing = [k for k in ("id", "network", "method", "steps", "batch") if k not in content]
    if unknown or missing:
        raise ValueError(f"{where}: unknown keys {unknown or 'none'}, missing keys {missing or 'none'}")
    wrong = _wrong(Recipe, content)
    for table, own in given.items():
        wrong += _wrong(tables[table], own, f"{table}.")
    if wrong:
        raise ValueError(f"{where}: {'; '.join(wrong)}")
    try:
        networks.spec(content["network"])
    except ZooError as error:
        raise ValueError(f"{where}: {error}") from error
    parts = {table: kind(**_frozen(given.get(table, {}))) for table, kind in tables.items()}
    recipe = Recipe(**_frozen(content | parts))
    if recipe.teacher and not 0 < recipe.distill <= 1:
        raise ValueError(f"{where}: distill is {recipe.distill}, expected a share above 0 and up to 1 with a teacher")
    if not recipe.teacher and (recipe.features or recipe.inherit or recipe.data.startswith("pool:")):
        raise ValueError(f"{where}: features, inherit and a pool of pictures need a teacher")
    if bool(recipe.features) != bool(recipe.stages):
        raise ValueError(f"{where}: features is {recipe.features} and stages is {recipe.stages}, expected both or neither")
    if any(a >= b for (a, _), (b, _) in itertools.pairwise(recipe.shrink)):
        raise ValueError(f"{where}: shrink is {recipe.shrink}, expected ascending steps")
    return recipe


def _frozen(table: dict) -> dict:
    """A table with its lists, and the lists in them, as tuples."""

    def frozen(value):
        return tuple(map(frozen, value)) if isinstance(value, (list, tuple)) else value

    return {key: frozen(value) for key, value in table.items()}


def _wrong(kind: type, content: dict, prefix: str = "") -> list[str]:
    """What is wrong with the values of a table whose keys are fields of `kind`."""
    hints, found = typing.get_type_hints(kind), []
    for key, value in content.items():
        if not _fits(value, hints[key]):
            expected = str(hints[key]) if typing.get_args(hints[key]) else hints[key].__name__
        elif prefix + key in CHOICES and value not in CHOICES[prefix + key]:
            expected = f"one of {', '.join(CHOICES[prefix + key])}"
        else:
            continue
        found.append(f"{prefix}{key} is {value!r}, expected {expected}")
    return found


def _fits(value, hint) -> bool:
    """Whether a value of a TOML or JSON file is of a field's type: whole numbers are floats too, lists are tuples."""
    if isinstance(hint, types.UnionType):
        return any(_fits(value, one) for one in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        kinds = typing.get_args(hint)
        if not isinstance(value, (list, tuple)):
            return False
        kinds = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
        return len(value) == len(kinds) and all(map(_fits, value, kinds))
    if is_dataclass(hint):
        return isinstance(value, dict)
    return type(value) in ((int, float) if hint is float else (hint,))  # True is no number
