"""EPR: entropy-penalised reparameterisation (Oktay et al. 2019, section 2).

    phi_hat (d, l) float --round, straight through--> phi --f (zoo.reparam)--> theta --> cross-entropy
                  `------- + U(-1/2, 1/2) ----------> learned density of the group's column --> bits

    loss = cross-entropy(f(round(phi_hat))) + lambda * bits            (equations 7 and 8)

Adam at a rate of its own trains the densities (section 3: its steps do not depend on lambda). An average of phi_hat
over the steps is what is rounded, evaluated and stored. After training each density is replaced by an integer
probability table fitted to the final integers, which is what the file holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from benchmarks.methods import Method, ParameterSet
from benchmarks.methods.common import Averaged, straight_through
from benchmarks.training.tables import Table
from zoo import codec, partitionings, reparam
from zoo.codec import Coded, psi_round
from zoo.partitionings import Group

GRID = 16  # points in the distance of two integers at which a density is evaluated; in between, bits are interpolated


class Options(Table):
    lambda_: float = Field(1e-6, alias="lambda")  # nats a bit
    step: float | dict[str, float] = 0.1  # initial quantisation step; or one for each group, "default" for the others
    relative: bool = False  # a step for each tensor, and `step` counts in root mean squares of the tensor's first weights
    noise: Literal["uniform", "expected"] = "uniform"  # of the paper; or the same loss averaged over it in closed form
    rate_every: int = Field(4, gt=0)  # steps for which the rate's gradient is reused
    density_lr: float = 1e-3  # of Adam, for the densities
    densities: Literal["group", "tensor"] = "group"  # one for each column of the group, as in the paper, or of each tensor
    phi_ema: float = 0.999  # decay of the running average of phi
    decoders: dict[str, str] = {}  # by group, where not the partitioning's
    model: str = "static"  # entropy model of the file


class EPR(Method):
    """Integers phi, their steps and their densities, for each group."""

    Options = Options

    def __init__(self, network, partitioning, options, steps):
        super().__init__(network, partitioning, options, steps)
        o, weights = self.options, dict(network.named_parameters())
        step = o.step if isinstance(o.step, dict) else {"default": o.step}
        for option, groups in {"decoders": {*o.decoders}, "step": {*step} - {"default"}}.items():
            if unknown := groups - {group.name for group in self.groups}:
                names = ", ".join(group.name for group in self.groups)
                raise ValueError(f"EPR's {option} names {sorted(unknown)}; the groups are {names}")
        self.latents = nn.ModuleList()
        for group in self.groups:
            decoder = o.decoders.get(group.name, group.decoder)
            initial = step.get(group.name, step.get("default", 0.1))
            self.latents.append(Latent(group, decoder, [weights[t].detach() for t in group.tensors], initial, o.relative))
        self.density = FactorisedDensity(sum(rows.shape[1] for rows in self._rows_by_density()))
        self.register_buffer("bits", torch.zeros(()))

    def _rows_by_density(self) -> list[torch.Tensor]:
        """phi (d, l) of each group, or of each tensor: whatever has densities of its own."""
        by_tensor = self.options.densities == "tensor"
        return [rows for latent in self.latents for rows in (latent.rows() if by_tensor else [latent.phi.value.detach()])]

    def parameter_sets(self) -> list[ParameterSet]:
        phi: dict[float, list[nn.Parameter]] = {}
        for latent in self.latents:
            phi.setdefault(latent.typical_step, []).append(latent.phi.value)
        return [
            *(ParameterSet(parameters, decay=True, weight_per_unit=step) for step, parameters in phi.items()),
            ParameterSet([latent.log_scale for latent in self.latents], "psi"),
            ParameterSet(list(self.density.parameters()), "density", lr=self.options.density_lr),
        ]

    def weights(self, averaged: bool = False) -> dict[str, torch.Tensor]:
        if averaged:
            stored = partitionings.weights(self.partitioning, self.finish())
            return {name: theta.to(self.bits.device) for name, theta in stored.items()}
        return {name: theta for latent in self.latents for name, theta in latent.weights().items()}

    def regularise(self, step: int, generator: torch.Generator) -> None:
        """Adds the gradient of lambda * bits (equation 8) to phi, and of bits to the densities, after the loss's backward.

        The gradient with respect to phi is renewed every `rate_every` steps and reused in between: it changes slowly,
        and this keeps the term far cheaper than the network's own pass.
        """
        if step % self.options.rate_every == 0:
            bits, slopes = rate(self._rows_by_density(), self.density, self.options.noise, generator)
            self.bits.copy_(bits.sum())
            slopes = torch.cat([slope.reshape(-1) for slope in self.priced(slopes, step)])
            for latent, slope in zip(self.latents, slopes.split([latent.slope.numel() for latent in self.latents]), strict=True):
                latent.slope.copy_(slope.view_as(latent.slope))
        for latent in self.latents:
            phi, price = latent.phi.value, self.options.lambda_
            phi.grad = latent.slope * price if phi.grad is None else phi.grad.add_(latent.slope, alpha=price)

    def priced(self, slopes: list[torch.Tensor], step: int) -> list[torch.Tensor]:
        """d bits / d phi of what shares densities, as training uses them: a method that knows more of the file changes them."""
        return slopes

    def after_step(self, step: int) -> None:
        """The running average of phi (section 3.1)."""
        for latent in self.latents:
            latent.phi.update(step, self.options.phi_ema)

    def estimate(self) -> dict[str, float]:
        """Bits under the learned densities, and the bytes that they promise."""
        bits = float(self.bits)
        return {"bits": bits, "bytes": bits / 8}

    @property
    def bit_price(self) -> float:
        return self.options.lambda_

    def finish(self) -> dict[str, Coded]:
        return {latent.group.name: latent.coded(self.options.model) for latent in self.latents}

    @staticmethod
    def paper_bytes(blob: bytes) -> tuple[int, str]:
        """Sections 3.1 and 3.2 count neither names, lengths nor checksum; LeNet biases are compressed, those of networks
        with batch normalisation are float32; BN statistics and scales are not counted."""
        header, breakdown = codec.anatomy(blob, partitionings.layout)
        groups = {group.name: group for group in partitionings.get(header.network, header.partitioning).groups}
        normalised = any(group.kind == "bn" for group in groups.values())
        total = 0.0
        for group_bytes in breakdown:
            if normalised and group_bytes.group == "bn.scale":
                continue
            if normalised and "bias" in group_bytes.group:
                total += 4 * groups[group_bytes.group].size
            else:
                total += group_bytes.coded_bits / 8 + group_bytes.table_bytes + group_bytes.psi_bytes
        biases = "biases as float32, no BN scales or statistics" if normalised else "biases included"
        return math.ceil(total), f"coded integers, probability tables and decoder parameters; {biases}; no header or checksum"


class Latent(nn.Module):
    """phi (d, l) of one group, before rounding: the rows of its tensors one after another, in units of the steps.

    log_scale: logarithms of the steps, (T or 1, l): a row for each tensor with `relative`, else one for all.
    slope: d bits / d phi as last computed. typical_step: geometric mean of the initial steps.
    """

    def __init__(self, group: Group, decoder: str, weights: list[torch.Tensor], step: float, relative: bool):
        super().__init__()
        self.group, self.decoder = group, decoder
        l = reparam.columns(decoder, group.shapes[0])
        rows = torch.cat([reparam.invert(decoder, weight, l) for weight in weights])
        self.counts = [math.prod(shape) // l for shape in group.shapes]  # rows of each tensor
        tensors = rows.split(self.counts) if relative else [rows]
        sizes = [float(tensor.square().mean().sqrt()) or 1.0 for tensor in tensors] if relative else [1.0]
        steps = step * torch.tensor(sizes)  # (T or 1,)
        self.typical_step = float(steps.log().mean().exp())
        self.phi = Averaged(torch.cat([tensor / s for tensor, s in zip(tensors, steps, strict=True)]))
        self.log_scale = nn.Parameter(steps.log()[:, None].repeat(1, l))
        self.register_buffer("slope", torch.zeros_like(self.phi.value))

    def rows(self) -> Iterator[torch.Tensor]:
        """phi of each tensor."""
        return iter(self.phi.value.detach().split(self.counts))

    def weights(self) -> dict[str, torch.Tensor]:
        """State-dict name -> f(round(phi)); gradients pass the rounding unchanged."""
        phi = straight_through(self.phi.value, self.phi.value.detach().round())
        scales = self.log_scale.exp().expand(len(self.counts), -1)  # (T, l)
        theta = {}
        for name, shape, rows, scale in zip(self.group.tensors, self.group.shapes, phi.split(self.counts), scales, strict=True):
            theta[name] = reparam.apply(self.decoder, rows, scale, None, shape)
        return theta

    def coded(self, model: str) -> Coded:
        """The rounded average of phi, and the steps at file precision."""
        phi = self.phi.mean.round().to(torch.int32).cpu().numpy()
        return Coded(self.decoder, model, phi, {"scale": psi_round(self.log_scale.detach().exp().cpu().numpy())})


def rate(groups: list[torch.Tensor], density: FactorisedDensity, noise: str, generator: torch.Generator | None):
    """Bits of each group's phi (d, l) under the densities of its columns, and d bits / d phi for each.

    Adds d (bits a symbol) / d density to the .grad of the density's parameters. A density is evaluated on a grid over
    the range of phi, once a column; the bits of each noisy phi are interpolated, so an element costs a gather, not a
    small network. With noise="expected" the table is averaged over the unit interval first, which is the expectation
    of the loss over the noise. Raises FloatingPointError where phi is not finite, ValueError where its range is too wide.
    """
    device = groups[0].device
    ends = [float(end) for phi in groups for end in phi.aminmax()]
    if not all(map(math.isfinite, ends)):
        raise FloatingPointError("phi is not finite: training has diverged, lower the learning rate")
    low, high = math.floor(min(ends)) - 1, math.ceil(max(ends)) + 1
    points = (high - low) * GRID + 1
    if points > 4096 * GRID:
        raise ValueError(f"phi spans {high - low} steps: the initial step is far too small, or training has diverged")
    table = density.bits(torch.linspace(low, high, points, device=device))  # (columns of all groups, points)
    if noise == "expected":
        ends = nn.functional.pad(table, (GRID // 2, GRID // 2), mode="replicate")
        window = torch.full((1, 1, GRID + 1), 1.0 / GRID, device=device)
        window[..., 0] = window[..., -1] = 0.5 / GRID  # trapezoid rule
        table = nn.functional.conv1d(ends[:, None], window)[:, 0]
    values = table.detach()
    rises = torch.diff(values, append=values[:, -1:])
    bits, slopes, hits, column = [], [], torch.empty_like(values), 0
    for phi in groups:
        l = phi.shape[1]
        position = phi - low
        if noise == "uniform":
            position += torch.rand(phi.shape, generator=generator, device=device) - 0.5
        index = position.mul_(GRID).to(torch.int32).clamp_(0, points - 2)
        fraction = position.sub_(index)
        if l > 1:
            index += torch.arange(l, device=device, dtype=torch.int32) * points
        index, fraction = index.reshape(-1), fraction.reshape(-1)
        table_bits, rise = values[column : column + l].reshape(-1), rises[column : column + l].reshape(-1)
        slopes.append(rise.index_select(0, index).reshape(phi.shape).mul_(GRID))
        counts = torch.bincount(index, minlength=len(table_bits)).to(table_bits.dtype)
        fractions = torch.bincount(index, weights=fraction, minlength=len(table_bits)).to(table_bits.dtype)
        bits.append(counts @ table_bits + fractions @ rise)
        hits[column : column + l] = (counts - fractions + fractions.roll(1)).reshape(l, points) / phi.numel()
        column += l
    table.backward(hits)
    return torch.stack(bits), slopes


class FactorisedDensity(nn.Module):
    """One univariate non-parametric density a column (Balle et al. 2018, appendix 6.1): a monotone network whose
    output is the logit of the cumulative."""

    def __init__(self, l: int, filters: tuple[int, ...] = (3, 3, 3), init_scale: float = 4.0):
        super().__init__()
        widths = (1, *filters, 1)
        scale = init_scale ** (1 / (len(widths) - 1))
        self.matrices, self.biases, self.factors = nn.ParameterList(), nn.ParameterList(), nn.ParameterList()
        for a, b in zip(widths[:-1], widths[1:], strict=True):
            self.matrices.append(nn.Parameter(torch.full((l, b, a), math.log(math.expm1(1 / scale / b)))))
            self.biases.append(nn.Parameter(torch.rand(l, b, 1) - 0.5))
            if b > 1:
                self.factors.append(nn.Parameter(torch.zeros(l, b, 1)))

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Logit of the cumulative at x (l, 1, n) -> (l, 1, n)."""
        for k, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            x = nn.functional.softplus(matrix) @ x + bias
            if k < len(self.factors):
                x = x + torch.tanh(self.factors[k]) * torch.tanh(x)
        return x

    def bits(self, x: torch.Tensor) -> torch.Tensor:
        """-log2 of the probability of the unit interval around each x (n,): (l, n)."""
        x = x.expand(self.matrices[0].shape[0], 1, -1)
        lower, upper = self.logits(x - 0.5), self.logits(x + 0.5)
        sign = torch.where(lower + upper > 0, -1.0, 1.0)  # the side on which the difference keeps its digits
        mass = (torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower)).abs()
        return -torch.log2(mass.clamp_min(1e-9))[:, 0]


METHOD = EPR
