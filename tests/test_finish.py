"""Batch normalisation: estimated anew, folded, coded, and unfolded again for warm starts."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.training import bn
from zoo import codec, networks, partitionings
from zoo.codec import Coded

PARTS = partitionings.get("resnet20-4")


def images(count: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def network() -> nn.Module:
    """A ResNet-20-4 whose gamma, beta and statistics differ from channel to channel."""
    torch.manual_seed(1)
    made = networks.build("resnet20-4")
    for layer in bn.layers(made).values():
        nn.init.uniform_(layer.weight, 0.5, 1.5)
        nn.init.uniform_(layer.bias, -0.5, 0.5)
    return made


def rest_of(made: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in made.named_parameters() if "bn" in name}


def uncompressed(made: nn.Module) -> dict[str, Coded]:
    """The weights of all groups but BN's, exactly."""
    state, coded = made.state_dict(), {}
    for group in PARTS.groups:
        if not group.name.startswith("bn."):
            flat = np.concatenate([state[name].numpy().reshape(-1) for name in group.tensors])
            coded[group.name] = Coded("float32", "raw", flat.view(np.int32)[:, None])
    return coded


@torch.no_grad()
def logits(made: nn.Module, x: torch.Tensor, state: dict | None = None) -> torch.Tensor:
    return torch.func.functional_call(made, state or {}, (x,))


class Tiny(nn.Module):
    """Two BN layers, the second behind what the first gives."""

    def __init__(self):
        super().__init__()
        self.bn1, self.conv, self.bn2 = nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.bn2(self.conv(self.bn1(x).relu()))


def test_statistics_are_those_of_all_images_together():
    torch.manual_seed(0)
    made = Tiny()
    before = copy.deepcopy(made.state_dict())
    batches_of_inputs = [(3 * torch.randn(n, 3, 5, 5) + 1, None) for n in (4, 4, 12)]
    moments = bn.statistics(made, {}, batches_of_inputs)
    inputs = torch.cat([x for x, _ in batches_of_inputs])
    torch.testing.assert_close(moments["bn1.running_mean"], inputs.mean((0, 2, 3)))
    torch.testing.assert_close(moments["bn1.running_var"], inputs.var((0, 2, 3), correction=0))
    inner = torch.cat([made.conv(nn.functional.batch_norm(
        x, None, None, made.bn1.weight, made.bn1.bias, training=True).relu()) for x, _ in batches_of_inputs])  # fmt: skip
    torch.testing.assert_close(moments["bn2.running_mean"], inner.mean((0, 2, 3)).detach())
    torch.testing.assert_close(moments["bn2.running_var"], inner.var((0, 2, 3), correction=0).detach())
    assert made.training and all(torch.equal(before[name], value) for name, value in made.state_dict().items())


def test_statistics_are_summed_over_processes():
    torch.manual_seed(0)
    made = Tiny()
    first_batches, other = [(torch.randn(6, 3, 5, 5), None)], [(torch.randn(6, 3, 5, 5) + 2, None)]
    sent: list[torch.Tensor] = []
    bn.statistics(made, {}, other, lambda sums: sent.append(sums.clone()))
    moments = bn.statistics(made, {}, first_batches, lambda sums: sums.add_(sent.pop(0)))
    both = bn.statistics(made, {}, first_batches + other)
    for name, value in both.items():
        torch.testing.assert_close(moments[name], value)


def test_networks_without_bn_have_no_statistics():
    assert bn.statistics(networks.build("lenet300-100"), {}, []) == {}


def test_fine_steps_change_nothing_and_the_file_is_complete():
    made, x = network(), images(3)
    moments = bn.statistics(made.train(), {}, [(x, None)])
    want = logits(made.train(), x)  # normalised by the same images

    def far(state):  # as a loss: what the precision search makes of it must be close
        return float((logits(made.eval(), x, state) - want).square().mean())

    coded = bn.complete(PARTS, uncompressed(made), rest_of(made), moments, far, penalty=0.0)
    assert list(coded) == [group.name for group in PARTS.groups]
    layout = {group.name: group.shapes for group in PARTS.groups}
    state = partitionings.join(*codec.decode(codec.encode("resnet20-4", "paper", coded, layout), partitionings.layout))
    made.load_state_dict(state, strict=True)
    got = logits(made.eval(), x)
    assert float((got - want).abs().max()) < 0.02 * float(want.abs().max())


def test_dearer_bits_give_fewer_bytes():
    made, x = network(), images(2)
    coded, moments = uncompressed(made), bn.statistics(made.train(), {}, [(x, None)])
    want = logits(made.train(), x)

    def far(state):
        return float((logits(made.eval(), x, state) - want).square().mean())

    def size(penalty: float) -> int:
        done = bn.complete(PARTS, coded, rest_of(made), moments, far, penalty)
        shapes = {group.name: group.shapes for group in PARTS.groups if group.name not in coded}
        return len(codec.encode("resnet20-4", "paper", {name: done[name] for name in shapes}, shapes))

    dear, cheap = size(1e-4), size(1e-9)
    assert dear < 0.7 * cheap
    assert cheap < 2 * 2752 * 11 / 8  # scale and bias of 2752 channels in at most eleven bits


def test_a_dead_channel_is_its_bias():
    made = network()
    with torch.no_grad():
        made.layer1[0].conv1.weight[5] = 0
    x = images()
    moments = bn.statistics(made.train(), {}, [(x, None)])
    coded = bn.complete(PARTS, uncompressed(made), rest_of(made), moments, lambda state: 0.0, 0.0)
    state = partitionings.weights(PARTS, coded)
    assert state["layer1.0.bn2.weight"][5] == 0
    assert float(state["layer1.0.bn2.bias"][5]) == pytest.approx(made.layer1[0].bn2.bias[5].item(), abs=0.02)


def test_steps_of_each_tensor_or_one_for_all():
    tensors = [(np.array([1.0, -2.0, 0.0]), 1.0), (np.array([100.0, 300.0]), 100.0)]
    step_for_each, one = bn.code(tensors, 3, True), bn.code(tensors, 3, False)
    assert step_for_each.psi["scale"].tolist() == [[0.125], [12.5]] and step_for_each.phi[:, 0].tolist() == [8, -16, 0, 8, 24]
    assert one.psi["scale"].tolist() == [[1.25]] and one.phi[:, 0].tolist() == [1, -2, 0, 80, 240]


def test_unfolding_gives_a_network_that_normalises_and_computes_the_same():
    made, x = network(), images()
    moments = bn.statistics(made.train(), {}, [(x, None)])
    folded = copy.deepcopy(made)
    exact = {name: p.clone() for name, p in rest_of(made).items()}
    state = partitionings.constants(PARTS)
    for name in bn.layers(made):
        scale = exact[f"{name}.weight"] / (moments[f"{name}.running_var"] + 1e-5).sqrt()
        state[f"{name}.weight"] = scale
        state[f"{name}.bias"] = exact[f"{name}.bias"] - moments[f"{name}.running_mean"] * scale
    folded.load_state_dict(state, strict=False)
    want = logits(folded.eval(), x)
    bn.unfold(folded, [(x, None)])
    for name, p in rest_of(folded).items():
        torch.testing.assert_close(p, exact[name], rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(logits(folded.eval(), x), want, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(logits(folded.train(), x), want, rtol=1e-2, atol=1e-2)


def test_the_rest_is_averaged_and_restored():
    made = Tiny()
    running = bn.Averages(made, {"conv.weight", "conv.bias"}, decay=0.5)
    assert set(running.averages()) == {"bn1.weight", "bn1.bias", "bn2.weight", "bn2.bias"}
    with torch.no_grad():
        made.bn1.weight.fill_(3.0)
    running.after_step(100)
    assert running.averages()["bn1.weight"].tolist() == [2.0, 2.0, 2.0]
    other = bn.Averages(Tiny(), {"conv.weight", "conv.bias"}, decay=0.5)
    other.load_state_dict(running.state_dict())
    assert other.averages()["bn1.weight"].tolist() == [2.0, 2.0, 2.0]
