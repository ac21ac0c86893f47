"""A training run as a TOML file: everything that decides its result, checked when it is read."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from zoo import networks
from zoo.errors import ZooError

FOLDER = Path(__file__).parent / "recipes"


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
    """How what the method leaves (BN) is coded: see benchmarks/finish.py. Without effect where it leaves nothing."""

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
    data: str = ""  # data set, where it is not the network's own, or "hf:REPOSITORY": see benchmarks/batches.py
    preprocessing: str = ""  # name for zoo.preprocessing, where it is not that of the data set
    warm_start: str = ""  # id of the entry whose weights training starts from
    keep: dict = field(default_factory=dict)  # channels that stay of the warm start's, by space: see benchmarks/thin.py
    teacher: str = ""  # id of the entry whose logits are distilled
    distill: float = 0.0  # weight of the teacher's cross-entropy against the labels'
    temperature: float = 1.0
    label_smoothing: float = 0.0
    precision: str = "float32"  # float32 | bf16 (autocast)
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
        if self.data and not self.data.startswith("hf:"):
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

    Raises ValueError naming every unknown key at once, FileNotFoundError with the recipes that exist.
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
        target[last] = parsed
    return from_dict(content, str(path))


def deciding(recipe: Recipe) -> dict:
    """The fields that decide what a run of one seed gives: two recipes that agree in them are the same training."""
    return {k: v for k, v in asdict(recipe).items() if k not in ("seeds", "claim", "comment", "checkpoint_every")}


def from_dict(content: dict, where: str = "recipe") -> Recipe:
    content = dict(content)
    optimizer, finish, claim = (dict(content.pop(table, {})) for table in ("optimizer", "finish", "claim"))
    unknown = sorted(set(content) - {f.name for f in fields(Recipe)})
    for table, keys, kind in (("optimizer", optimizer, Optimizer), ("finish", finish, Finish), ("claim", claim, Claim)):
        unknown += [f"{table}.{k}" for k in sorted(set(keys) - {f.name for f in fields(kind)})]
    missing = [k for k in ("id", "network", "method", "steps", "batch") if k not in content]
    if unknown or missing:
        raise ValueError(f"{where}: unknown keys {unknown or 'none'}, missing keys {missing or 'none'}")
    try:
        networks.spec(content["network"])
    except ZooError as error:
        raise ValueError(f"{where}: {error}") from error
    if "milestones" in optimizer:
        optimizer["milestones"] = tuple(optimizer["milestones"])
    content["seeds"] = tuple(content.get("seeds", Recipe.seeds))
    content["shrink"] = tuple((int(until), int(size)) for until, size in content.get("shrink", ()))
    return Recipe(**content, optimizer=Optimizer(**optimizer), finish=Finish(**finish), claim=Claim(**claim))
