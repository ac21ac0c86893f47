"""EPR: the density against numbers worked out by hand, the fast rate against direct evaluation, its gradients."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.methods import epr
from benchmarks.methods.epr import EPR, FactorisedDensity, rate
from zoo import networks, partitionings, reparam


def density(l: int, seed: int = 0, **options) -> FactorisedDensity:
    """A density whose parameters are away from their first values."""
    torch.manual_seed(seed)
    made = FactorisedDensity(l, **options)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(torch.empty_like(p).uniform_(-0.7, 0.7))
    return made


def cumulative(made: FactorisedDensity, column: int, x: float) -> float:
    """The cumulative written out with numpy (Balle et al. 2018, appendix 6.1, equations 29 to 32)."""
    value = np.array([[x]])
    for k, (matrix, bias) in enumerate(zip(made.matrices, made.biases, strict=True)):
        positive = np.log1p(np.exp(matrix[column].detach().double().numpy()))
        value = positive @ value + bias[column].detach().double().numpy()
        if k < len(made.factors):
            value = value + np.tanh(made.factors[k][column].detach().double().numpy()) * np.tanh(value)
    return float(1 / (1 + np.exp(-value[0, 0])))


def test_a_density_without_hidden_layers_is_the_logistic_distribution():
    made = FactorisedDensity(1, filters=())
    with torch.no_grad():
        made.matrices[0].fill_(math.log(math.expm1(2.0)))  # slope 2
        made.biases[0].fill_(0.0)
    result = made.bits(torch.tensor([0.0, 1.0]))[0].tolist()
    # P(0) = s(1) - s(-1) = 0.731059 - 0.268941; P(1) = s(3) - s(1) = 0.952574 - 0.731059
    assert result == pytest.approx([-math.log2(0.462117), -math.log2(0.221516)], abs=1e-5)


def test_bits_are_those_of_the_cumulative_s_differences():
    made = density(3)
    points = torch.tensor([-7.25, -1.0, 0.0, 0.4, 2.0, 5.5])
    result = made.bits(points)
    for column in range(3):
        mass = [cumulative(made, column, float(x) + 0.5) - cumulative(made, column, float(x) - 0.5) for x in points]
        np.testing.assert_allclose(result[column].detach(), -np.log2(mass), rtol=2e-3)


def test_the_masses_of_all_integers_sum_to_one():
    made = density(4, seed=3)
    masses = torch.exp2(-made.bits(torch.arange(-3000.0, 3001.0)))
    assert torch.all((masses.sum(1) - 1).abs() < 1e-3)


def groups(seed: int = 1) -> list[torch.Tensor]:
    """Two groups of latents, (400, 3) and (300, 1)."""
    generator = torch.Generator().manual_seed(seed)
    return [3 * torch.randn(400, 3, generator=generator), 2 * torch.randn(300, 1, generator=generator)]


def direct(made: FactorisedDensity, column: int, x: torch.Tensor) -> torch.Tensor:
    """Bits of each x (n,) under the density of one column, without a table."""
    return made.bits(x)[column]


def test_interpolated_bits_are_those_of_direct_evaluation():
    made, latents = density(4), groups()
    result, _ = rate(latents, made, "uniform", torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)  # the same noise again, group by group
    noisy = [phi + torch.rand(phi.shape, generator=generator) - 0.5 for phi in latents]
    first = sum(direct(made, c, noisy[0][:, c]).sum() for c in range(3))
    second = direct(made, 3, noisy[1][:, 0]).sum()
    torch.testing.assert_close(result, torch.stack([first, second]).detach(), rtol=1e-3, atol=0)


def test_expected_bits_are_the_mean_over_the_noise():
    made, latents = density(4), groups()
    result, _ = rate(latents, made, "expected", None)
    offsets = (torch.arange(50) + 0.5) / 50 - 0.5
    first = sum(direct(made, c, latents[0][:, c] + o).sum() for c in range(3) for o in offsets) / 50
    second = sum(direct(made, 3, latents[1][:, 0] + o).sum() for o in offsets) / 50
    torch.testing.assert_close(result, torch.stack([first, second]).detach(), rtol=1e-3, atol=0)


def test_gradient_of_the_expected_rate_is_its_finite_difference():
    made = density(4)
    generator = torch.Generator().manual_seed(2)
    # In the middle of the cells between grid points, where linear interpolation has a derivative.
    cells = torch.randint(-4 * epr.GRID, 4 * epr.GRID, (50, 4), generator=generator)
    phi = (cells + 0.5) / epr.GRID
    _, (first, second) = rate([phi[:, :3].contiguous(), phi[:, 3:].contiguous()], made, "expected", None)
    slopes = torch.cat([first, second], 1)
    h = 0.4 / epr.GRID
    for row, column in [(0, 0), (7, 1), (20, 2), (33, 3), (49, 0)]:
        total = []
        for sign in (1, -1):
            moved = phi.double().clone()
            moved[row, column] += sign * h
            bits, _ = rate([moved[:, :3].float(), moved[:, 3:].float()], made, "expected", None)
            total.append(float(bits.double().sum()))
        assert (total[0] - total[1]) / (2 * h) == pytest.approx(float(slopes[row, column]), rel=0.02, abs=0.02)
    # and in closed form: the derivative of a mean over a unit interval is the difference of its ends
    exact = torch.stack([direct(made, c, phi[:, c] + 0.5) - direct(made, c, phi[:, c] - 0.5) for c in range(4)], 1)
    torch.testing.assert_close(slopes, exact.detach(), rtol=0.02, atol=0.02)


def test_gradient_of_the_density_is_that_of_direct_evaluation():
    made, latents = density(4), groups()
    rate(latents, made, "uniform", torch.Generator().manual_seed(5))
    result = [p.grad.clone() for p in made.parameters()]
    for p in made.parameters():
        p.grad = None
    generator = torch.Generator().manual_seed(5)
    noisy = [phi + torch.rand(phi.shape, generator=generator) - 0.5 for phi in latents]
    loss = sum(direct(made, c, noisy[0][:, c]).sum() for c in range(3)) / latents[0].numel()
    loss = loss + direct(made, 3, noisy[1][:, 0]).sum() / latents[1].numel()
    loss.backward()
    for gradient, p in zip(result, made.parameters(), strict=True):
        torch.testing.assert_close(gradient, p.grad, rtol=0.02, atol=2e-4)


def test_latents_that_have_run_away_are_reported():
    with pytest.raises(ValueError, match="phi spans"):
        rate([torch.tensor([[0.0], [1e5]])], density(1), "expected", None)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_latents_that_are_not_numbers_are_reported(value):
    with pytest.raises(FloatingPointError, match="phi is not finite: training has diverged, lower the learning rate"):
        rate([torch.zeros(3, 1), torch.tensor([[0.0], [value]])], density(2), "expected", None)


def method(network: str = "lenet300-100", **options) -> tuple[EPR, nn.Module]:
    torch.manual_seed(0)
    built = networks.build(network)
    return EPR(built, partitionings.get(network), options, 100), built


def test_latents_start_at_the_network_s_weights_and_round_to_the_step():
    made, network = method(step={"fc3": 0.02, "default": 0.05})
    theta, weights = made.weights(), dict(network.named_parameters())
    assert theta.keys() == weights.keys()
    for name, value in theta.items():
        step = 0.02 if name == "fc3.weight" else 0.05
        torch.testing.assert_close(value, (weights[name] / step).round() * step, rtol=1e-5, atol=1e-7)


def test_gradients_pass_the_rounding_unchanged():
    made, _ = method(step=0.05)
    theta = made.weights()["fc3.weight"]
    theta.backward(torch.ones_like(theta))
    torch.testing.assert_close(made.latents[1].phi.value.grad, torch.full_like(made.latents[1].phi.value, 0.05))


def test_the_penalty_is_added_to_the_gradient_and_reused_between():
    made, _ = method(**{"lambda": 1e-3, "rate_every": 2, "noise": "expected"})
    made.regularise(0, torch.Generator())
    latents = [latent.phi.value for latent in made.latents]
    first = [phi.grad.clone() for phi in latents]
    assert made.estimate()["bits"] > 0 and all(g.abs().max() > 0 for g in first)
    made.regularise(1, torch.Generator())  # not renewed: the same again
    for phi, once in zip(latents, first, strict=True):
        torch.testing.assert_close(phi.grad, 2 * once)


@pytest.mark.parametrize("network", ["lenet300-100", "resnet20-4"])  # the second has DFT kernels
def test_what_is_evaluated_is_what_is_stored_the_rounded_average(network):
    made, _ = method(network, step=0.05)
    with torch.no_grad():
        for latent in made.latents:
            latent.phi.value.add_(3.0)
            latent.log_scale.add_(0.0123)
    made.after_step(0)  # decay 1/10: nine tenths of the way
    stored, shown = made.finish(), made.weights(averaged=True)
    assert shown.keys() == made.weights().keys()
    for group in made.groups:
        arrays = reparam.decode(stored[group.name].decoder, stored[group.name].phi, stored[group.name].psi, list(group.shapes))
        for name, array in zip(group.tensors, arrays, strict=True):
            np.testing.assert_array_equal(array, shown[name].numpy())


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"noise": "none"}, "options of EPR: noise is 'none', expected 'uniform' or 'expected'"),
        ({"densities": "tensors", "rate_every": 0}, "rate_every is 0, .* densities is 'tensors', expected 'group' or 'tensor'"),
        ({"step": {"convs": 0.1, "default": 0.1}}, r"EPR's step names \['convs'\]; the groups are fc1\+fc2, fc3, biases"),
        ({"decoders": {"default": "sq"}}, r"EPR's decoders names \['default'\]; the groups are fc1\+fc2, fc3, biases"),
    ],
)
def test_values_of_options_that_mean_nothing_are_refused(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        method(**options)


def test_decoders_by_group():
    torch.manual_seed(0)
    network = networks.build("resnet20-4")
    made = EPR(network, partitionings.get("resnet20-4"), {"decoders": {"convs": "orth:3"}, "step": 1e-4}, 10)
    assert [latent.phi.value.shape[1] for latent in made.latents] == [9, 1, 1]
    theta = made.weights()
    assert not any(".bn" in name for name in theta)  # left to benchmarks/training/bn.py
    torch.testing.assert_close(theta["conv1.weight"], network.conv1.weight, rtol=0, atol=5e-4)
    with pytest.raises(ValueError, match="lamda is unknown"):
        EPR(network, partitionings.get("resnet20-4"), {"lamda": 1}, 10)


def test_relative_steps_are_in_units_of_each_tensor_s_size():
    made, network = method("vgg16", relative=True, step={"convs": 2.0, "default": 0.5})
    weights, theta = dict(network.named_parameters()), made.weights()
    for name, factor in (("conv1.weight", 2.0), ("conv9.weight", 2.0), ("fc3.weight", 0.5)):
        step = factor * float(weights[name].detach().square().mean().sqrt())
        if factor == 0.5:
            torch.testing.assert_close(theta[name], (weights[name] / step).round() * step, rtol=1e-4, atol=1e-7)
        group = next(i for i, g in enumerate(made.groups) if name in g.tensors)
        row = made.groups[group].tensors.index(name)
        torch.testing.assert_close(made.latents[group].log_scale.exp()[row], torch.full((9 if "conv" in name else 1,), step))
    stored = made.finish()
    assert stored["convs"].psi["scale"].shape == (13, 9) and stored["fc1"].psi["scale"].shape == (1, 1)
    arrays = reparam.decode("dft", stored["convs"].phi, stored["convs"].psi, list(made.groups[0].shapes))
    shown = made.weights(averaged=True)
    for name, array in zip(made.groups[0].tensors, arrays, strict=True):
        np.testing.assert_array_equal(array, shown[name].numpy())


def test_densities_of_tensors_see_their_own_tensor_alone():
    """Two tensors of one group, one of zeros: under a shared density its zeros cost what the other's integers make them cost."""
    made, _ = method(densities="tensor", step=0.05, **{"lambda": 1.0, "noise": "expected", "density_lr": 0.05})
    with torch.no_grad():
        made.latents[0].phi.value[: 784 * 300] = 0.0  # fc1; fc2 stays as it is
    assert made.density.matrices[0].shape[0] == 6  # fc1, fc2, fc3 and three biases
    optimizer = torch.optim.Adam(made.density.parameters(), 0.05)
    for step in range(60):
        optimizer.zero_grad()
        made.regularise(4 * step, torch.Generator())
        optimizer.step()
    columns = made.density.bits(torch.zeros(1))[:, 0].detach()
    assert float(columns[0]) < 0.05 < 0.5 < float(columns[1])
    slope = made.latents[0].slope.reshape(-1)
    assert slope[784 * 300 :].abs().max() > 0 and slope.shape == (784 * 300 + 300 * 100,)
