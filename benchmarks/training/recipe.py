"""A training run as a TOML file: everything that decides its result, checked when it is read.

A table of the file is a model below: its fields are the keys, their types what may stand there. [options] are those of the
method (`Options` in its file in benchmarks/methods/), [augment] those of the kind of data.
"""

from __future__ import annotations

import itertools
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny, ValidationError, ValidationInfo, field_validator, model_validator

from benchmarks.training.tables import Listed, Table, complaints
from zoo import datasets, networks
from zoo.errors import ZooError
from zoo.verify import IDLE

FOLDER = Path(__file__).parent.parent / "recipes"


class Optimizer(Table):
    """[optimizer]: how the network's own parameters and latents are trained; for other parameters the method names a rate."""

    name: Literal["adam", "sgd"] = "adam"
    lr: float = 1e-3
    psi_lr: float | None = None  # of step sizes; None: lr / 10
    schedule: Literal["constant", "cosine", "linear", "step"] = "cosine"  # the middle two fall to zero
    milestones: Annotated[tuple[int, ...], Listed] = ()  # of "step": the rate is multiplied by `drop` at each of these steps
    drop: float = 0.1
    warmup: int = 0  # steps of linear warm-up
    weight_decay: float = 0.0
    momentum: float = 0.9  # of SGD
    nesterov: bool = True


class Finish(Table):
    """[finish]: how batch normalisation is coded (benchmarks/training/bn.py). Without effect on a network that has none."""

    penalty: float | None = None  # nats a bit; None: the method's `bit_price`
    images: int = 10_000  # training images from which the BN statistics of the file are estimated
    heldout: int = 2_000  # held-out images that judge precisions

    @property
    def images_on_the_way(self) -> int:
        """Training images for BN statistics during training and at a warm start, where they need not be as exact."""
        return self.images // 5

    @property
    def images_for_scores(self) -> int:
        """Training images from which the importance of channels is estimated (benchmarks/training/thin.py)."""
        return self.images // 4


class Claim(Table):
    """[claim]: what the authors aim at, shown beside what was measured. The bytes bound the choice of a seed."""

    bytes: int | None = None
    error_percent: float | None = None
    quoted: str = ""  # key of the published result that the entry stands beside (zoo/quoted.json)


class Shifts(Table):
    """[augment] for small images, MNIST and CIFAR-10."""

    shift: int = 0  # each image moves by up to so many pixels; black comes in
    crop: int = 0  # likewise, but the image's reflection comes in
    flip: bool = False  # mirrors half of the images
    cutout: int = 0  # greys a square of so many pixels a side


class Crops(Table):
    """[augment] for pictures: a random part of each is resized (torchvision's RandomResizedCrop)."""

    size: int | None = None  # pixels; None: the network's
    area: Annotated[tuple[float, float], Listed] = (0.08, 1.0)  # least and greatest share of the picture
    ratio: Annotated[tuple[float, float], Listed] = (3 / 4, 4 / 3)  # of width to height
    flip: bool = True


class StreamedCrops(Crops):
    """[augment] for data = "hf:..."."""

    buffer: int = 10_000  # pictures among which the order is shuffled
    examples: int | None = None  # length of an epoch, where the Hub does not tell it
    configuration: str | None = None  # of the data set


class MixedCrops(Crops):
    """[augment] for data = "pool:..."."""

    mixup: float = 0.0  # share of the pictures that another one is mixed into
    views: int = Field(0, ge=0)  # fixed parts of each picture, whose answers are computed once; 0: always new parts


class Recipe(Table):
    """See benchmarks/recipes/ for examples. Steps, not epochs, are the unit of time; `batch` is the global batch."""

    id: str
    network: str
    method: str
    steps: int = Field(ge=0)
    batch: int = Field(gt=0)
    seeds: Annotated[tuple[int, ...], Listed] = (0, 1, 2)
    partitioning: str = "paper"
    data: str = ""  # data set, where it is not the network's own, "hf:REPOSITORY" or "pool:FOLDER": see training/batches.py
    preprocessing: str = ""  # name for zoo.preprocessing, where it is not that of the data set
    warm_start: str = ""  # id of the entry whose weights training starts from; ID@SHA-256 of one that left: see history.py
    keep: dict[str, int] = {}  # channels that stay of the warm start's, by space: see benchmarks/training/thin.py
    teacher: str = ""  # id of the entry, or source of weights ("keras/resnet50"), whose logits are distilled
    distill: float = 0.0  # weight of the teacher's divergence against the labels' cross-entropy, where a label is known
    temperature: float = 1.0
    features: float = 0.0  # weight of the error in the teacher's stage outputs: see benchmarks/training/distill.py
    stages: Annotated[tuple[str, ...], Listed] = ()  # modules of teacher and student whose outputs are compared
    inherit: Annotated[tuple[str, ...], Listed] = ()  # layers that start as copies of the teacher's
    label_smoothing: float = 0.0
    precision: Literal["float32", "bf16", "auto"] = "float32"  # bf16: autocast; auto: bf16 where the hardware multiplies it
    channels_last: bool = False  # memory layout of convolutions
    shrink: Annotated[tuple[tuple[int, int], ...], Listed] = ()  # (n, s): before step n images are averaged down to s x s
    average: float = 0.999  # decay of the running average of the parameters that the method leaves as they are (BN)
    evaluate_every: int = Field(1000, gt=0)
    checkpoint_every: int = Field(1000, gt=0)
    optimizer: Optimizer = Optimizer()
    augment: SerializeAsAny[Table] = Field(default={}, validate_default=True)
    options: SerializeAsAny[Table] = Field(default={}, validate_default=True)
    finish: Finish = Finish()
    claim: Claim = Claim()
    comment: str = ""  # what the run costs and gives, for people

    @field_validator("network")
    @classmethod
    def _network(cls, name: str) -> str:
        try:
            networks.spec(name)
        except ZooError as error:
            raise ValueError(str(error)) from error
        return name

    @field_validator("data")
    @classmethod
    def _data(cls, data: str, info: ValidationInfo) -> str:
        network = info.data.get("network")
        if network and data in datasets.DATASETS:
            spec = networks.spec(network)
            if data != spec.dataset and datasets.get(data).shape == spec.input_shape:  # the file must say what it is for
                raise ValueError(f'expected network = "{spec.base}:{data}" instead')
        return data

    @field_validator("method")
    @classmethod
    def _method(cls, name: str) -> str:
        from benchmarks import methods

        methods.find(name)
        return name

    @field_validator("shrink")
    @classmethod
    def _shrink(cls, shrink: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        if any(a >= b for (a, _), (b, _) in itertools.pairwise(shrink)):
            raise ValueError(f"found {shrink}, expected ascending steps")
        return shrink

    @field_validator("augment", mode="plain")
    @classmethod
    def _augment(cls, table: Any, info: ValidationInfo) -> Table:
        return _nested(_augmentation(info.data), table) if "network" in info.data and "data" in info.data else Table()

    @field_validator("options", mode="plain")
    @classmethod
    def _options(cls, table: Any, info: ValidationInfo) -> Table:
        from benchmarks import methods

        return _nested(methods.find(info.data["method"]).Options, table) if "method" in info.data else Table()

    @model_validator(mode="after")
    def _teacher(self):
        if self.teacher and not 0 < self.distill <= 1:
            raise ValueError(f"distill is {self.distill}, expected a share above 0 and up to 1 with a teacher")
        if not self.teacher and (self.features or self.inherit or self.data.startswith("pool:")):
            raise ValueError("features, inherit and a pool of pictures need a teacher")
        if getattr(self.augment, "views", 0) and (self.features or self.augment.mixup):
            raise ValueError("views keep the teacher's answers to whole parts of pictures: features and mixup must be 0")
        if bool(self.features) != bool(self.stages):
            raise ValueError(f"features is {self.features} and stages is {self.stages}, expected both or neither")
        return self

    @property
    def dataset(self) -> str:
        """Name of the data set that the network is tested on: `data`, or the network's own."""
        return _dataset(self.data, self.network)

    @property
    def preprocess(self) -> str:
        """Name of the preprocessing: `preprocessing`, or the data set's own."""
        return self.preprocessing or self.dataset


def _dataset(data: str, network: str) -> str:
    if data and not data.startswith(("hf:", "pool:")):
        return data
    return networks.spec(network).dataset


def _augmentation(fields: dict[str, Any]) -> type[Table]:
    """The model of [augment] for a recipe's `data` and `network`."""
    data = fields["data"]
    if data.startswith("hf:"):
        return StreamedCrops
    if data.startswith("pool:"):
        return MixedCrops
    return Shifts if datasets.get(_dataset(data, fields["network"])).downloadable else Crops


def _nested(model: type[Table], table: Any) -> Table:
    try:
        return model.model_validate(table)
    except ValidationError as error:  # its faults become one line of the recipe's
        raise ValueError(complaints(error)) from error


def find(path: str | Path) -> Path:
    """The recipe file at `path`, or of that id in benchmarks/recipes/. Raises FileNotFoundError with the ids that exist."""
    path = Path(path)
    if not path.is_file() and (FOLDER / f"{path}.toml").is_file():
        path = FOLDER / f"{path}.toml"
    if not path.is_file():
        ids = ", ".join(sorted(p.stem for p in FOLDER.glob("*.toml")))
        raise FileNotFoundError(f"no recipe {path}; benchmarks/recipes/ has {ids}")
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
    values = {key: value for key, value in recipe.plain().items() if key not in IDLE}
    return values | {"warm_start": recipe.warm_start.partition("@")[0]}  # the digest came when the entry left the shelf


def from_dict(content: dict, where: str = "recipe") -> Recipe:
    """The recipe of a TOML file, a log or a checkpoint. Raises ValueError: `where`, then all that is wrong with it."""
    return Recipe.parse(content, where)


def to_json(recipe: Recipe) -> str:
    """What `from_dict` takes, as JSON in one line: for logs and checkpoints."""
    return json.dumps(recipe.plain(), sort_keys=True)
