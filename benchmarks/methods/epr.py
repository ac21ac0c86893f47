"""EPR: entropy-penalised reparameterisation (Oktay et al. 2019, section 2).

    phi_hat (d, l) float --round, straight through--> phi --f (zoo.reparam)--> theta --> cross-entropy
                  `------- + U(-1/2, 1/2) ----------> learned density of the group's column --> bits

    loss = cross-entropy(f(round(phi_hat))) + lambda * bits            (equations 7 and 8)

Adam at a rate of its own trains the densities (section 3: its steps do not depend on lambda). An average of phi_hat
over the steps is what is rounded, evaluated and stored. After training each density is replaced by an integer
probability table fitted to the final integers, which is what the file holds.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import nn

from zoo import partitionings, reparam
from zoo.codec import Coded, psi_round

GRID = 16  # points a unit at which a density is evaluated; bits between them are interpolated linearly


class EPR(nn.Module):
    """The trainable side of one network's parameter groups.

    options: lambda (nats a bit), step (initial quantisation step; or {group: step}, "default" for the others),
    learn_steps, shift (whether f learns a shift, as in the paper's figure 3; here it does not by default), noise
    ("uniform" as in the paper, or "expected": the same loss averaged over the noise in closed form), rate_every (the
    rate's gradient is renewed every so many steps and reused in between), density_lr, phi_ema (decay), decoders ({group:
    name}, else the partitioning's), model (of the file's tables), relative (each tensor has steps of its own, and `step`
    is in units of the root mean square of its weights at the start), densities ("group": one for a column of the group,
    as in the paper; "tensor": one for a column of each tensor, where the file's model adapts to it).

    Raises ValueError for options, values and groups that it does not know.
    """

    def __init__(self, network: nn.Module, partitioning, options: dict, steps: int):
        super().__init__()
        defaults = {
            "lambda": 1e-6, "step": 0.1, "learn_steps": True, "shift": False, "noise": "uniform", "rate_every": 4,
            "density_lr": 1e-3, "phi_ema": 0.999, "decoders": {}, "model": "static", "relative": False, "densities": "group",
        }
        if unknown := set(options) - set(defaults):
            raise ValueError(f"EPR does not know the options {sorted(unknown)}; it has {sorted(defaults)}")
        self.options = defaults | options
        for name, allowed in {"noise": ("uniform", "expected"), "densities": ("group", "tensor")}.items():
            if self.options[name] not in allowed:
                raise ValueError(f"EPR's {name} is one of {allowed}, found {self.options[name]!r}")
        self.partitioning, weights = partitioning, dict(network.named_parameters())
        self.groups = [g for g in partitioning.groups if not g.name.startswith("bn.")]  # BN is folded and coded at the end
        step, groups = self.options["step"], [g.name for g in self.groups]
        named = {"decoders": {*self.options["decoders"]}, "step": {*step} - {"default"} if isinstance(step, dict) else set()}
        for name, given in named.items():
            if unknown := given - set(groups):
                raise ValueError(f"EPR's {name} names {sorted(unknown)}; the groups are {', '.join(groups)}")
        self.decoders = {g.name: self.options["decoders"].get(g.name, g.decoder) for g in self.groups}
        self.phi, self.log_scale, self.shift = nn.ParameterList(), nn.ParameterList(), nn.ParameterList()
        self.units, self.rows = [], []
        for i, group in enumerate(self.groups):
            decoder = self.decoders[group.name]
            l = reparam.columns(decoder, group.shapes[0])
            rows = torch.cat([reparam.invert(decoder, weights[t].detach(), l) for t in group.tensors])
            own = step.get(group.name, step.get("default", 0.1)) if isinstance(step, dict) else step
            counts = [math.prod(shape) // l for shape in group.shapes]
            self.rows.append(counts)
            parts = rows.split(counts) if self.options["relative"] else [rows]
            units = [float(part.square().mean().sqrt()) or 1.0 for part in parts] if self.options["relative"] else [1.0]
            steps = own * torch.tensor(units)  # (T or 1,)
            self.units.append(float(steps.log().mean().exp()))
            self.phi.append(nn.Parameter(torch.cat([part / s for part, s in zip(parts, steps, strict=True)])))
            self.log_scale.append(nn.Parameter(steps.log()[:, None].repeat(1, l), requires_grad=self.options["learn_steps"]))
            self.shift.append(nn.Parameter(torch.zeros(1, l), requires_grad=self.options["shift"]))
            self.register_buffer(f"mean_{i}", self.phi[i].detach().clone())
            self.register_buffer(f"slope_{i}", torch.zeros_like(self.phi[i]))
        self.density = FactorisedDensity(sum(part.shape[1] for part in self._parts()))
        self.register_buffer("bits", torch.zeros(()))

    def _parts(self) -> list[torch.Tensor]:
        """phi cut into what shares densities: groups, or tensors."""
        if self.options["densities"] == "group":
            return [phi.detach() for phi in self.phi]
        return [part for phi, counts in zip(self.phi, self.rows, strict=True) for part in phi.detach().split(counts)]

    def parameter_sets(self) -> list[dict]:
        """Parameters by the optimiser that trains them: `main` (phi, in units of the initial step), `psi` and `density`."""
        psi = [p for p in (*self.log_scale, *self.shift) if p.requires_grad]
        phi: dict[float, list] = {}
        for parameter, unit in zip(self.phi, self.units, strict=True):
            phi.setdefault(unit, []).append(parameter)
        return [
            *({"optimizer": "main", "params": params, "decay": True, "unit": unit} for unit, params in phi.items()),
            {"optimizer": "psi", "params": psi},
            {"optimizer": "density", "params": list(self.density.parameters()), "lr": self.options["density_lr"]},
        ]

    def weights(self, averaged: bool = False) -> dict[str, torch.Tensor]:
        """State-dict name -> theta. Gradients pass the rounding unchanged; `averaged` gives what `finish` stores, decoded."""
        if averaged:
            stored = partitionings.weights(self.partitioning, self.finish())
            return {name: theta.to(self.bits.device) for name, theta in stored.items()}
        theta = {}
        for i, group in enumerate(self.groups):
            phi = _Round.apply(self.phi[i])
            scale, shift = self.log_scale[i].exp(), self.shift[i] if self.options["shift"] else None
            scale = scale.expand(len(group.tensors), -1)  # (T, l)
            for name, shape, part, own in zip(group.tensors, group.shapes, phi.split(self.rows[i]), scale, strict=True):
                theta[name] = reparam.apply(self.decoders[group.name], part, own, shift, shape)
        return theta

    def regularise(self, step: int, generator: torch.Generator) -> None:
        """Adds the gradient of lambda * bits (equation 8) to phi, and of bits to the densities, after the loss's backward.

        The gradient with respect to phi is renewed every `rate_every` steps and reused in between: it changes slowly,
        and this keeps the term far cheaper than the network's own pass.
        """
        if step % self.options["rate_every"] == 0:
            bits, slopes = rate(self._parts(), self.density, self.options["noise"], generator)
            self.bits.copy_(bits.sum())
            slopes = iter(slopes)
            for i, counts in enumerate(self.rows):
                parts = itertools.islice(slopes, len(counts) if self.options["densities"] == "tensor" else 1)
                getattr(self, f"slope_{i}").copy_(torch.cat(list(parts)))
        for i, phi in enumerate(self.phi):
            slope = getattr(self, f"slope_{i}")
            phi.grad = slope * self.options["lambda"] if phi.grad is None else phi.grad.add_(slope, alpha=self.options["lambda"])

    def after_step(self, step: int) -> None:
        """The running average of phi (section 3.1), warmed up so that early steps are forgotten."""
        decay = min(self.options["phi_ema"], (1 + step) / (10 + step))
        with torch.no_grad():
            for i, phi in enumerate(self.phi):
                getattr(self, f"mean_{i}").lerp_(phi, 1 - decay)

    def estimate(self) -> dict[str, float]:
        """What the progress bar shows: bits under the learned densities and the bytes they promise."""
        bits = float(self.bits)
        return {"bits": bits, "bytes": bits / 8}

    @torch.no_grad()
    def finish(self) -> dict[str, Coded]:
        """Groups of the file: rounded averages and steps at file precision."""
        coded = {}
        for i, group in enumerate(self.groups):
            phi = getattr(self, f"mean_{i}").round().to(torch.int32).cpu().numpy()
            psi = {"scale": psi_round(self.log_scale[i].exp().cpu().numpy())}
            if self.options["shift"]:
                psi["shift"] = psi_round(self.shift[i].cpu().numpy())
            coded[group.name] = Coded(self.decoders[group.name], self.options["model"], phi, psi)
        return coded


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
        own, rise = values[column : column + l].reshape(-1), rises[column : column + l].reshape(-1)
        slopes.append(rise.index_select(0, index).reshape(phi.shape).mul_(GRID))
        counts = torch.bincount(index, minlength=len(own)).to(own.dtype)
        parts = torch.bincount(index, weights=fraction, minlength=len(own)).to(own.dtype)
        bits.append(counts @ own + parts @ rise)
        hits[column : column + l] = (counts - parts + parts.roll(1)).reshape(l, points) / phi.numel()
        column += l
    table.backward(hits)
    return torch.stack(bits), slopes


class _Round(torch.autograd.Function):
    """Rounding with the straight-through gradient (section 2.3)."""

    @staticmethod
    def forward(context, phi: torch.Tensor) -> torch.Tensor:
        return phi.round()

    @staticmethod
    def backward(context, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


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
