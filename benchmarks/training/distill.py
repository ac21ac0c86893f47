"""A teacher: the student learns its answers and, where the recipe says so, what its stages put out.

    images --teacher--> logits, stage outputs (B, C, h, w)
       `----student---> logits, stage outputs (B, c, h, w) --1 x 1 projection--> (B, C, h, w)

    loss of one picture = KL(teacher | student) at a temperature T, times T^2     (Hinton et al. 2015, section 2)
                          where its label is known: `distill` of that, and 1 - `distill` of the label's cross-entropy
                        + `features` times the mean squared error of the projections, each channel of the teacher's
                          outputs standardised over the batch                     (Romero et al. 2015, equation 3)

Teacher and student see the same pixels, augmented and mixed alike (Beyer et al. 2022, "function matching").
"""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.training.recipe import Recipe
from zoo import datasets, preprocessing
from zoo.compress import reference


class Teacher(nn.Module):
    """The teacher's network, and the projections of the student's stages. Only the projections are trained.

    Raises ValueError where a stage is missing in one of the networks.
    """

    def __init__(self, recipe: Recipe, student: nn.Module):
        super().__init__()
        network, source = load(recipe.teacher)
        self.network = [network.requires_grad_(False).eval()]  # in a list: it is no part of the state
        self.temperature, self.share, self.weight = recipe.temperature, recipe.distill, recipe.features
        self.matched = _affine(datasets.PREPROCESSINGS[recipe.preprocess], datasets.PREPROCESSINGS[source])
        self.outputs: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]] = {}, {}
        self.projections = nn.ModuleDict()
        stages = recipe.stages if recipe.features else ()
        for side, module in enumerate((student, network)):
            for stage in stages:
                _submodule(module, stage, recipe).register_forward_hook(self._keep(side, stage))
        for stage, (inputs, outputs) in _widths(student, network, stages).items():
            self.projections[stage] = nn.Conv2d(inputs, outputs, 1)

    def inherit(self, student: nn.Module, layers: tuple[str, ...]) -> None:
        """Copies the named layers of the teacher into the student. Raises ValueError where their shapes differ."""
        for layer in layers:
            try:
                student.get_submodule(layer).load_state_dict(self.network[0].get_submodule(layer).state_dict())
            except (AttributeError, RuntimeError) as error:
                raise ValueError(f"layer {layer!r} of the teacher does not fit the student: {error}") from error

    def place(self, device: torch.device, channels_last: bool) -> None:
        """Moves the teacher's network to a device and into the memory layout of the student."""
        self.network[0].to(device, memory_format=torch.channels_last if channels_last else torch.preserve_format)

    @torch.no_grad()
    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """float32 (B, classes) for images as the student sees them."""
        if self.matched is not None:
            factor, offset = (t.to(images.device) for t in self.matched)
            images = images * factor + offset
        return self.network[0](images).float()

    def answers(self, images: torch.Tensor) -> torch.Tensor:
        """int64 (B,)"""
        return self.logits(images).argmax(1)

    def loss(
        self, logits: torch.Tensor, images: torch.Tensor, labels: torch.Tensor, smoothing: float,
        teacher_logits: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The mean over the batch, right after the student has seen `images`. Labels below 0 are not known.

        teacher_logits: those for the images if they are kept from an earlier pass; None to compute them.
        """
        t = self.temperature
        target = ((self.logits(images) if teacher_logits is None else teacher_logits) / t).softmax(1)
        soft = nn.functional.kl_div((logits / t).log_softmax(1), target, reduction="none").sum(1) * t * t  # (B,)
        hard = nn.functional.cross_entropy(logits, labels, ignore_index=-100, label_smoothing=smoothing, reduction="none")
        total = torch.where(labels >= 0, self.share * soft + (1 - self.share) * hard, soft).mean()
        for stage, projection in self.projections.items():
            student, teacher = (outputs.pop(stage) for outputs in self.outputs)
            teacher = nn.functional.batch_norm(teacher.float(), None, None, training=True)
            total = total + self.weight / len(self.projections) * (projection(student).float() - teacher).square().mean()
        return total

    def _keep(self, side: int, stage: str):
        def hook(module: nn.Module, inputs, output: torch.Tensor) -> None:
            if side == 1 or module.training:
                self.outputs[side][stage] = output

        return hook


def load(name: str) -> tuple[nn.Module, str]:
    """The network called `name`, a source of zoo/compress/reference.py or an entry, and its preprocessing."""
    if name.partition("@")[0] in reference.SOURCES:
        weights = reference.load(name)
        return weights.build(), weights.preprocessing
    import zoo

    return zoo.load(name), zoo.info(name).preprocessing


def _affine(student: preprocessing.Preprocessing, teacher: preprocessing.Preprocessing):
    """(factor, offset), float32 (1, C, 1, 1): what turns the student's input into the teacher's; None where they agree."""
    mean, wanted_mean = (torch.tensor(spec.mean) for spec in (student, teacher))
    deviation, wanted_deviation = (torch.tensor(spec.deviation) for spec in (student, teacher))
    scale = student.scale / teacher.scale  # pixel / scale is what means and deviations speak of
    factor, offset = deviation * scale / wanted_deviation, (mean * scale - wanted_mean) / wanted_deviation
    if torch.equal(factor, torch.ones_like(factor)) and not offset.any():
        return None
    return factor[None, :, None, None], offset[None, :, None, None]


def _widths(student: nn.Module, teacher: nn.Module, stages: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """Channels that each stage puts out, of the student and of the teacher: those of its last BN layer."""

    def width(network: nn.Module, stage: str) -> int:
        return [m for m in network.get_submodule(stage).modules() if isinstance(m, nn.BatchNorm2d)][-1].num_features

    return {stage: (width(student, stage), width(teacher, stage)) for stage in stages}


def _submodule(network: nn.Module, stage: str, recipe: Recipe) -> nn.Module:
    try:
        return network.get_submodule(stage)
    except AttributeError as error:
        raise ValueError(f"{recipe.id}: stages names {stage!r}, which {type(network).__name__} does not have") from error
