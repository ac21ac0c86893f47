"""Recipe -> model file, resumable.

    python -m benchmarks train lenet300-100-sq --seed 0            about 11 minutes on one core, 3.6 kB
    torchrun --nproc-per-node 8 -m benchmarks train resnet18-dft-imagenet --device cuda
                                                               data-parallel: the batch is cut into equal parts

Every random choice is a function of (seed, step), so a run that was killed and resumed from its last checkpoint ends
with the same bytes as one that was not (same machine, same number of threads).
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import nn
from torch.func import functional_call
from tqdm import tqdm

from benchmarks import methods
from benchmarks.training import batches, bn, checkpoint, history, thin
from benchmarks.training import recipe as recipes
from benchmarks.training.distill import Teacher
from benchmarks.training.recipe import Recipe
from benchmarks.training.versions import versions
from zoo import codec, compact, files, networks, partitionings
from zoo.files import write

TEACHER_LOGITS: list = []  # (key of the teacher and its images, logits of all these images): the seeds of a recipe share them


class Run:
    """One seed of a recipe, at some step: everything that a checkpoint holds."""

    def __init__(self, recipe: Recipe, seed: int, device: str = "cpu"):
        self.recipe, self.seed, self.device, self.step = recipe, seed, torch.device(device), 0
        self.bf16 = recipe.precision == "bf16" or recipe.precision == "auto" and _multiplies_bf16(self.device)
        self.rank, self.world = _ranks(self.device)
        if recipe.batch % self.world:
            raise ValueError(f"a batch of {recipe.batch} cannot be cut into {self.world} equal parts")
        torch.manual_seed(seed)
        self.network = networks.build(recipe.network)
        self.batches = batches.open_(recipe, seed, self.device)
        if recipe.warm_start:
            self.network.load_state_dict(history.load(recipe.warm_start).state_dict())
            self.network.to(self.device)
            with self._autocast():
                bn.unfold(self.network, self._first_batches(recipe.finish.images_on_the_way), self._sum)
        self.full_partitioning = self.partitioning = partitionings.get(recipe.network, recipe.partitioning)
        self.kept_channels: thin.Kept = {}
        if recipe.keep:
            self._thin()
        self.teacher = Teacher(recipe, self.network) if recipe.teacher else None
        if self.teacher is not None:
            self.teacher.place(self.device, recipe.channels_last)
            if recipe.inherit and not recipe.warm_start:
                self.teacher.inherit(self.network, recipe.inherit)
            self.teacher.to(self.device)
            self.batches.answer = self._answers
        self.teacher_logits = self._all_teacher_logits()
        classes = networks.spec(recipe.network).classes_count
        self.answers = self.batches.answers(classes) if getattr(self.batches, "views", 0) else None
        method = methods.find(recipe.method)
        self.method: methods.Method = method(self.network, self.partitioning, recipe.options, recipe.steps).to(self.device)
        self.network.to(self.device)
        owned = set(self.method.weights())
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(name not in owned)
        self.bn_averages = bn.Averages(self.network, owned, recipe.average)
        self.generator = torch.Generator(self.device)
        self.optimizers = self._optimizers()
        self.log: list[str] = []
        self.seconds = 0.0
        self.spent: dict[str, float] = {}  # seconds of this process by activity

    def _thin(self) -> None:
        """Removes the channels that the recipe does not keep."""
        self.network.to(self.device)

        def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return nn.functional.cross_entropy(logits.float(), labels)

        with self._autocast():
            images = self._first_batches(self.recipe.finish.images_for_scores)
            scores = thin.scores(self.recipe.network, self.network, images, loss)
        for score in scores.values():
            self._sum(score)
        self.kept_channels = thin.choose({space: score.cpu() for space, score in scores.items()}, self.recipe.keep)
        compact.remove(self.recipe.network, self.network, self.kept_channels)
        self.partitioning = thin.partitioning(self.full_partitioning, self.kept_channels)

    def train_step(self) -> torch.Tensor:
        """One step: forward, backward, the method's penalty, optimisers. Returns the loss, detached."""
        with self._timed("step"):
            return self._step()

    def _step(self) -> torch.Tensor:
        with self._timed("data"):
            images, labels = self.batches.train(self.step, self.rank, self.world)
        with self._timed("teacher"):
            teacher_logits = self._remembered(images)
        with self._timed("data"):
            for until, size in self.recipe.shrink:
                if self.step < until:
                    images = nn.functional.interpolate(images, size=(size, size), mode="area")
                    break
        self.network.train()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            logits = functional_call(self.network, self._weights(), (images,))
        loss = self._loss(logits.float(), images, labels, teacher_logits)
        loss.backward()
        if self.world > 1:
            self._average_gradients()
        self.generator.manual_seed(batches.mixed(self.seed, self.step))
        with self._timed("penalty"):
            self.method.regularise(self.step, self.generator)
        factor = _schedule(self.recipe, self.step)
        limit = self.method.max_lr(self.step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = min(group["base_lr"] * factor, limit) if group["scheduled"] else group["base_lr"]
            optimizer.step()
        self.method.after_step(self.step)
        self.bn_averages.after_step(self.step)
        self.step += 1
        return loss.detach()

    @torch.no_grad()
    def heldout_errors(self) -> int:
        """Errors on the held-out images with the weights that would be stored now, but BN in float32."""
        weights = self._weights(averaged=True) | self.bn_averages.averages()
        with self._autocast():
            errors, _, _ = self._heldout(weights | self._statistics(weights, self.recipe.finish.images_on_the_way))
        return errors

    def artifact(self) -> bytes:
        """The model file of the present state. All processes of a run must ask for it together."""
        layout = {group.name: group.shapes for group in self.full_partitioning.groups}
        coded, averages, finish = self.method.finish(), self.bn_averages.averages(), self.recipe.finish
        weights = self._placed(partitionings.weights(self.partitioning, coded)) | averages
        statistics = self._statistics(weights, finish.images)
        penalty = self.method.bit_price if finish.penalty is None else finish.penalty

        def loss(state: dict[str, torch.Tensor]) -> float:
            with self._autocast():  # only differences count here
                _, total, count = self._heldout(self._placed(state), finish.heldout)
            return total / count

        coded = bn.complete(self.partitioning, coded, averages, statistics, loss, penalty)
        if self.kept_channels:
            coded = bn.shortest_bn(self.full_partitioning, thin.expand(self.full_partitioning, self.kept_channels, coded))
        return codec.encode(self.recipe.network, self.recipe.partitioning, coded, layout)

    def artifact_errors(self, blob: bytes) -> int:
        """Held-out errors of a model file, in float32 as it will be measured."""
        state = partitionings.join(*codec.decode(blob, partitionings.layout))
        return self._heldout(self._placed(state))[0]

    @torch.no_grad()
    def _heldout(self, state: dict[str, torch.Tensor], limit: int | None = None) -> tuple[int, float, int]:
        """Errors, summed loss and number of held-out images (about `limit` at most) with these tensors, over all processes."""
        self.network.eval()
        totals = torch.zeros(3, dtype=torch.float64, device=self.device)
        for images, labels in self.batches.heldout(self.rank, self.world):
            logits = functional_call(self.network, state, (images,)).float()
            loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
            totals += torch.stack([(logits.argmax(1) != labels).sum(), loss, torch.tensor(len(labels), device=self.device)])
            if limit and totals[2] * self.world >= limit:
                break
        self._sum(totals)
        return int(totals[0]), float(totals[1]), int(totals[2])

    def _statistics(self, weights: dict[str, torch.Tensor], images: int) -> bn.Statistics:
        """BN statistics under these weights."""
        self.network.train()
        return bn.statistics(self.network, weights, self._first_batches(images), self._sum)

    def _first_batches(self, images: int) -> Iterator[batches.Batch]:
        """Training batches with at least that many images, without mixtures: the same ones at every call."""
        batch = getattr(self.batches, "clean", self.batches.train)
        for step in range(-(-images // self.recipe.batch)):
            yield batch(step, self.rank, self.world)

    def _sum(self, tensor: torch.Tensor) -> None:
        """Adds up a tensor over all processes, in place."""
        if self.world > 1:
            torch.distributed.all_reduce(tensor)

    def shares(self) -> str:
        """Shares of the time of training steps for data, the teacher's answers and the method's penalty, for the log."""
        total = self.spent.get("step", 0.0) or 1.0
        return "".join(f", {name} {self.spent.get(name, 0.0) / total:.0%}" for name in ("data", "teacher", "penalty"))

    @contextmanager
    def _timed(self, activity: str):
        started = time.perf_counter()
        yield
        self.spent[activity] = self.spent.get(activity, 0.0) + time.perf_counter() - started

    def state(self) -> dict:
        """What `restore` takes: nested dicts and lists of plain values and tensors, for `checkpoint.save`."""
        return {
            "recipe": recipes.to_json(self.recipe),
            "seed": self.seed,
            "step": self.step,
            "seconds": self.seconds,
            "log": self.log,
            "network": self.network.state_dict(),
            "kept": self.kept_channels,
            "method": self.method.state_dict(),
            "rest": self.bn_averages.state_dict(),
            "teacher": self.teacher.state_dict() if self.teacher is not None else {},
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def restore(self, state: dict) -> None:
        """Raises ValueError when the checkpoint belongs to another recipe or seed."""
        saved = recipes.from_dict(json.loads(state["recipe"]), "the checkpoint's recipe")
        if recipes.deciding(saved) != recipes.deciding(self.recipe) or state["seed"] != self.seed:
            raise ValueError("the checkpoint was made by another recipe or seed: give another --out, or --restart")
        self.kept_channels = state.get("kept", {})  # the same number as in this run, on the same machine the same channels
        self.network.load_state_dict(state["network"])
        self.method.load_state_dict(state["method"])
        self.bn_averages.load_state_dict(state.get("rest", {}))
        if self.teacher is not None:
            self.teacher.load_state_dict(state["teacher"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.seconds, self.log = state["step"], state["seconds"], state["log"]

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        """Main and psi parameters under the recipe's schedule; densities under Adam at a constant rate (section 3)."""
        o = self.recipe.optimizer
        main, density = [], []
        for chosen in self.method.parameter_sets():
            if not chosen.parameters:
                continue
            lr = {"main": o.lr, "psi": o.lr / 10 if o.psi_lr is None else o.psi_lr, "density": chosen.lr}[chosen.role]
            decay = o.weight_decay if chosen.decay else 0.0
            if o.name == "sgd" and chosen.role == "main":
                # theta = w * parameter + ..: the parameter's gradient is w times that of theta, so a step of size lr / w^2
                # changes theta as a step of size lr on theta itself would.
                lr, decay = lr / chosen.weight_per_unit**2, decay * chosen.weight_per_unit**2
            entry = {"params": chosen.parameters, "lr": lr, "weight_decay": decay, "scheduled": chosen.role != "density"}
            (density if chosen.role == "density" else main).append(entry)
        projections = list(self.teacher.parameters()) if self.teacher is not None else []
        for parameters in (projections, list(self.bn_averages.parameter.values())):
            if parameters:
                main.append({"params": parameters, "lr": o.lr, "weight_decay": 0.0, "scheduled": True})
        for entry in main + density:
            entry["base_lr"] = entry["lr"]
        if o.name == "adam":
            optimizers = [torch.optim.Adam(main, fused=True)]
        else:
            optimizers = [torch.optim.SGD(main, momentum=o.momentum, nesterov=o.nesterov, fused=True)]
        return optimizers + ([torch.optim.Adam(density, fused=True)] if density else [])

    def _weights(self, averaged: bool = False) -> dict[str, torch.Tensor]:
        return self._placed(self.method.weights(averaged))

    def _placed(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The tensors on the device; convolutions channels-last where the recipe says so, which is much faster on CPUs."""
        state = {name: tensor.to(self.device) for name, tensor in state.items()}
        if not self.recipe.channels_last:
            return state
        last = torch.channels_last
        return {name: w.contiguous(memory_format=last) if w.dim() == 4 else w for name, w in state.items()}

    def _remembered(self, images: torch.Tensor) -> torch.Tensor | None:
        """The teacher's logits for a batch as it was cut, before it is averaged down; None where they are not kept."""
        if self.teacher_logits is not None:
            return self.teacher_logits[self.batches.numbers(self.step, self.rank, self.world)]
        if self.answers is None:
            return None
        with self._autocast():
            rows = self.batches.rows(self.step, self.rank, self.world)
            return self.answers.of(rows, lambda: self.teacher.logits(images))

    def _loss(
        self, logits: torch.Tensor, images: torch.Tensor, labels: torch.Tensor, teacher_logits: torch.Tensor | None
    ) -> torch.Tensor:
        smoothing = self.recipe.label_smoothing
        if self.teacher is None:
            return nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing)
        with self._autocast():
            return self.teacher.loss(logits, images, labels, smoothing, teacher_logits)

    @torch.no_grad()
    def _all_teacher_logits(self) -> torch.Tensor | None:
        """The teacher's logits for every image that training can show; None if the images are so many that it would not pay."""
        r, count = self.recipe, getattr(self.batches, "variants", None)
        if self.teacher is None or r.features or r.shrink or count is None or count > r.steps * r.batch // 2:
            return None
        key = r.teacher, r.dataset, r.preprocess, r.augment.plain(), count, self.device, self.bf16
        if not TEACHER_LOGITS or TEACHER_LOGITS[0] != key:
            chunks = torch.arange(count, device=self.device).split(500)
            bar = tqdm(chunks, desc=f"answers of {r.teacher}", disable=self.rank != 0, mininterval=1.0)
            with self._autocast():
                TEACHER_LOGITS[:] = key, torch.cat([self.teacher.logits(self.batches.variant_images(chunk)) for chunk in bar])
        return TEACHER_LOGITS[1]

    def _answers(self, images: torch.Tensor) -> torch.Tensor:
        with self._autocast():
            return self.teacher.answers(images)

    def _autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()

    def _average_gradients(self) -> None:
        """One exchange for all gradients: their sum over the processes is the same bits everywhere."""
        gradients = [p.grad for o in self.optimizers for group in o.param_groups for p in group["params"] if p.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        self._sum(flat)
        flat /= self.world
        for gradient, piece in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(piece.view_as(gradient))


def run(recipe: Recipe, seed: int, out: Path, device: str = "cpu", resume: bool = True, stop_after: int | None = None) -> Path:
    """Trains one seed to its end and writes `out`/train.log, model.zoo and at last outcome.json; returns the model's path.

    Continues from `out`/checkpoint.safetensors, or from the one before where that is damaged; with `resume` False it
    deletes both. `stop_after` ends early, with a checkpoint.
    Raises FloatingPointError where training has diverged; the last checkpoint is from before that.
    """
    training = Run(recipe, seed, device)
    path, chief = out / "checkpoint.safetensors", training.rank == 0
    state = checkpoint.latest(path, device) if resume else None
    if state is not None:
        training.restore(state)
        training.log.append(f"continued at step {training.step}: {_settings(training)}")
    if chief:
        files.clean(out)
        if not resume:
            checkpoint.delete(path)
        (out / "outcome.json").unlink(missing_ok=True)  # it says "finished", perhaps of another recipe
    if not training.log:
        training.log = _preamble(training)
    last = recipe.steps if stop_after is None else min(stop_after, recipe.steps)
    started = time.perf_counter() - training.seconds
    loss_sum, counted = torch.zeros((), device=training.device), 0
    bar = tqdm(total=recipe.steps * recipe.batch, initial=training.step * recipe.batch, desc=f"{recipe.id} seed {seed}",
               unit=" images", unit_scale=True, disable=not chief, mininterval=1.0)
    heldout_note = ""
    while training.step < last:
        loss = training.train_step()
        loss_sum, counted = loss_sum + loss, counted + 1
        bar.update(recipe.batch)
        if training.step % 100 == 0:
            bar.set_postfix_str(_line(float(loss), training) + heldout_note, refresh=False)
        evaluating = training.step % recipe.evaluate_every == 0 or training.step == recipe.steps
        saving = training.step % recipe.checkpoint_every == 0 or training.step == last
        if evaluating or saving:
            total = loss_sum.clone()
            training._sum(total)
            mean = float(total) / counted / training.world
            if not math.isfinite(mean):  # before the last good checkpoint is overwritten
                raise FloatingPointError(f"the loss is {mean} at step {training.step}: lower the learning rate")
        if evaluating:
            errors = training.heldout_errors()
            heldout_note = f", held-out {errors}/{training.batches.heldout_count}"
            loss_sum, counted = torch.zeros_like(loss_sum), 0
            training.seconds = time.perf_counter() - started
            shares = training.shares()
            training.log.append(f"step {training.step}, {_line(mean, training)}{heldout_note}{shares}, {training.seconds:.0f} s")
        if saving:
            training.seconds = time.perf_counter() - started
            if chief:
                checkpoint.save(path, training.state())
                write(out / "train.log", ("\n".join(training.log) + "\n").encode())
    bar.close()
    if training.step < recipe.steps:
        return out / "model.zoo"
    blob = training.artifact()
    errors = training.artifact_errors(blob)
    if chief:
        training.log.append(f"finished: {len(blob)} bytes, held-out {errors}/{training.batches.heldout_count}")
        write(out / "train.log", ("\n".join(training.log) + "\n").encode())
        examples = training.batches.heldout_count
        outcome = {"seed": seed, "size_bytes": len(blob), "heldout_errors": errors, "heldout_examples": examples}
        write(out / "model.zoo", blob)
        write(out / "outcome.json", json.dumps(outcome | {"seconds": round(training.seconds)}).encode())  # last: finished
        tqdm.write(training.log[-1])
    return out / "model.zoo"


def _line(loss: float, training: Run) -> str:
    estimate = ", ".join(f"{name} {value:,.0f}" for name, value in training.method.estimate().items())
    return f"loss {loss:.4f}" + (f", {estimate}" if estimate else "")


def _preamble(training: Run) -> list[str]:
    made_by = ", ".join(f"{name} {version}" for name, version in versions().items())
    lines = [f"recipe {recipes.to_json(training.recipe)}", f"versions {made_by}", f"seed {training.seed}, {_settings(training)}"]
    pictures = getattr(training.batches, "pictures", None)
    return lines + ([f"pool {pictures.digest}, {len(pictures)} pictures"] if pictures else [])


def _settings(training: Run) -> str:
    precision = "bf16" if training.bf16 else "float32"
    return f"device {training.device}, processes {training.world}, threads {torch.get_num_threads()}, {precision}"


def _schedule(recipe: Recipe, step: int) -> float:
    o = recipe.optimizer
    if step < o.warmup:
        return (step + 1) / o.warmup
    progress = (step - o.warmup) / max(1, recipe.steps - o.warmup)
    if o.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if o.schedule == "linear":
        return 1 - progress
    if o.schedule == "constant":
        return 1.0
    return o.drop ** sum(step >= milestone for milestone in o.milestones)  # "step"


def _multiplies_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16: elsewhere it is emulated, ten times slower than float32."""
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


def _ranks(device: torch.device) -> tuple[int, int]:
    """This process's number and how many there are, as torchrun tells it (in its environment variables)."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return 0, 1
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return torch.distributed.get_rank(), torch.distributed.get_world_size()
