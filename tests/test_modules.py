"""Second-order rounding of any module: what its layers see, what normalisation takes up, and files that keep its answers."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import zoo
from zoo import states
from zoo.compress import calibration, modules, plain, rounding, tensors, tuning
from zoo.compress.layer import Rounded
from zoo.compress.rounding import Rate


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


class Mixed(nn.Module):
    """A bit of everything: convolutions with bias, depthwise and in groups, work in place, attention, a tensor of no layer."""

    def __init__(self):
        super().__init__()
        self.first, self.bn1 = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.deep, self.bn2 = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.BatchNorm2d(16)
        self.grouped, self.bn3 = nn.Conv2d(16, 32, 3, 2, 1, groups=4, bias=False), nn.BatchNorm2d(32)
        self.positions = nn.Parameter(0.1 * torch.randn(16, 32))
        self.norm, self.wide, self.narrow = nn.LayerNorm(32), nn.Linear(32, 64), nn.Linear(64, 32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = torch.relu_(self.bn1(self.first(x)))
        x = torch.relu_(self.bn2(self.deep(x)))
        x = F.gelu(self.bn3(self.grouped(x)))
        x = x.flatten(2).transpose(1, 2) + self.positions  # (B, 16, 32)
        x = x + self.narrow(torch.relu_(self.wide(self.norm(x))))
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return {"features": x.mean(1), "logits": self.head(x.mean(1))}


@pytest.fixture
def network() -> nn.Module:
    network = Mixed().train()
    for _ in range(20):
        network(torch.randn(64, 3, 8, 8))  # moves the statistics to those of the data
    return network.eval()


def divergence(network, other, x) -> float:
    with torch.no_grad():
        return float(tuning.divergence(network(x)["logits"], other(x)["logits"]).mean())


def test_layers_and_what_takes_up_their_factors(network):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    result = {layer.name: layer for layer in calibration.find(network, torch.randn(2, 3, 8, 8))}
    assert {name: (layer.rows, layer.inputs, layer.groups) for name, layer in result.items()} == {
        "first": ("bn1", None, 1), "deep": ("bn2", None, 16), "grouped": ("bn3", None, 4),
        "wide": (None, "norm", 1), "narrow": (None, None, 1), "head": (None, None, 1),
    }  # fmt: skip
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("module, shape", [
    (nn.Conv1d(6, 9, 3, padding=2, dilation=2), (2, 6, 11)), (nn.Conv3d(2, 5, 3, stride=2, padding=1), (2, 2, 5, 6, 7)),
    (nn.Conv2d(8, 12, (3, 1), padding="same", groups=4), (2, 8, 6, 5)), (nn.Conv2d(6, 6, 3, padding=1, groups=6), (2, 6, 6, 5)),
    (nn.Linear(7, 3), (2, 4, 5, 7)),
])  # fmt: skip
def test_patches_times_weights_are_a_layers_outputs(module, shape):
    x = torch.randn(shape)
    rows, count = calibration.patches(x, module, 2, torch.Generator().manual_seed(0))
    wanted = (
        module(x) if isinstance(module, nn.Linear) else module(x).flatten(2).transpose(1, 2)
    )  # (B, ..., O)
    wanted = wanted.detach().flatten(0, -2) - module.bias.detach()
    assert len(shape) * count > 0 and 2 * count == len(wanted)
    groups = getattr(module, "groups", 1)
    weight = module.weight.detach().reshape(groups, -1, rows.shape[-1])
    result = torch.einsum("gnd,god->ngo", rows.reshape(groups, -1, rows.shape[-1]), weight).flatten(1)
    order = torch.argsort(result[:, 0]), torch.argsort(wanted[:, 0])  # positions come in random order
    torch.testing.assert_close(result[order[0]], wanted[order[1]], rtol=1e-4, atol=1e-5)


def test_the_importance_of_a_tensor_predicts_what_an_error_in_it_does(network):
    x = torch.randn(200, 3, 8, 8)
    frozen = copy.deepcopy(network).requires_grad_(False)
    result, answers = calibration.sensitivity(frozen, x, ["head"], tensors=["positions"])
    s, size = result["positions"], 0.02
    assert s.shape == (16, 32) and not any(p.requires_grad for p in frozen.parameters())
    measured = []
    for _ in range(20):
        moved = copy.deepcopy(frozen)
        moved.positions.add_(size * (torch.randint(2, s.shape) * 2.0 - 1))
        far = tuning.divergence(answers, moved(x)["logits"], calibration.TEMPERATURE)
        measured.append(float(far.mean()) * calibration.TEMPERATURE**2)
    assert np.mean(measured) == pytest.approx(0.5 * float(s.sum()) * size**2, rel=0.4)


def test_groups_are_rounded_as_if_each_were_a_layer():
    rng = np.random.default_rng(0)
    groups, rows, d = 5, 3, 9
    x = rng.standard_normal((groups, 60, d)).astype(np.float32) @ (np.eye(d) + 0.3).astype(np.float32)
    h = np.einsum("gnd,gne->gde", x, x) / 60
    y, a = (
        (2 * rng.laplace(size=(groups * rows, d))).astype(np.float32),
        np.exp(rng.standard_normal(groups * rows)).astype(np.float32),
    )
    rate, lam = Rate.fit(np.rint(y)), 0.3
    factor = rounding.factorise(h.copy)
    one = rounding.sequential(y, h, a, lam, rate, factor)
    swept = rounding.descend(y, one, h, a, lam, rate)
    for g in range(groups):
        own_rows = slice(g * rows, (g + 1) * rows)
        alone = Rate(rate.rows[own_rows], rate.columns, rate.tables)
        alone_factor = np.arange(d), factor[1][g]
        np.testing.assert_array_equal(
            one[own_rows], rounding.sequential(y[own_rows], h[g], a[own_rows], lam, alone, alone_factor)
        )
        np.testing.assert_array_equal(
            swept[own_rows], rounding.descend(y[own_rows], one[own_rows], h[g], a[own_rows], lam, alone)
        )
    costs = [rounding.objective(y, q, h, a, lam, rate) for q in (np.rint(y), one, swept)]
    assert costs[2] <= costs[1] < costs[0]
    error = (y - one).reshape(groups, rows, d)
    quadratic = float(a.reshape(groups, rows).ravel() @ np.einsum("grd,gde,gre->gr", error, h, error).ravel())
    assert costs[1] == pytest.approx(quadratic + lam * rate.bits(one), rel=1e-5)


def test_at_the_same_size_answers_change_far_less(network, tmp_path):
    x = torch.randn(300, 3, 8, 8)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.train()
    zoo.save(network, tmp_path / "plain.zoo", bytes=9000)
    size = zoo.save(network, tmp_path / "second.zoo", bytes=9000, calibration=x[:200])
    assert network.training and all(p.requires_grad for p in network.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert 0.97 * 9000 <= size <= 9000
    network.eval()
    files = {name: zoo.load(tmp_path / f"{name}.zoo", into=Mixed()) for name in ("plain", "second")}
    far = {name: divergence(network, other, x[200:]) for name, other in files.items()}
    assert far["second"] < 0.3 * far["plain"]
    file, train = files["second"].train(), network.train()
    same = F.cosine_similarity(file(x)["logits"], train(x)["logits"]).mean()
    assert same > 0.9  # in train mode, too: factors of rows are in the statistics


def test_factors_are_taken_up_exactly(network, tmp_path):
    """Layers 'rounded' to their own weights, as integers of tiny steps, under any factors: the same answers in both modes."""
    frozen, x = copy.deepcopy(network).requires_grad_(False), torch.randn(60, 3, 8, 8)
    state = states.check(network.state_dict())
    job = modules.ModuleJob(frozen, state, x, tmp_path)
    job.statistics()
    rng, rounded = np.random.default_rng(0), {}
    for layer in job.layers:
        weight = state[layer.weight].numpy().reshape(len(state[layer.weight]), -1)
        rows = np.exp(rng.standard_normal(len(weight)) * bool(layer.rows)).astype(np.float32)
        channels = np.exp(rng.standard_normal(weight.shape[1] // layer.kernel) * bool(layer.inputs)).astype(
            np.float32
        )
        kernel = layer.kernel if job.decoders[layer.weight] == "dft" else 1
        inputs = channels if kernel > 1 or layer.kernel == 1 else np.repeat(channels, layer.kernel)
        places = np.full(kernel, 1e-6, np.float32)
        q = np.rint(job.rounder(layer).y / rows[:, None] / np.repeat(inputs, kernel) / 1e-6).astype(np.float32)
        rounded[layer.name] = Rounded(q, rows, inputs, places, 0.0, 0.0)
    rounded |= {name: job._round_other(name, 1e-15, None) for name in job.others}
    job.lam = 1.0
    other = Mixed()
    other.load_state_dict(states.unpack(job.encode(job.groups({}, rounded, 1.0)))[1])
    assert divergence(network, other.eval(), x) < 1e-4
    with torch.no_grad():
        torch.testing.assert_close(
            other.train()(x)["logits"], network.train()(x)["logits"], rtol=0.02, atol=0.01
        )


def test_a_stopped_run_goes_on_and_ends_with_the_same_bytes(network, tmp_path, monkeypatch):
    state, x = states.check(network.state_dict()), torch.randn(60, 3, 8, 8)
    frozen = copy.deepcopy(network).requires_grad_(False)
    whole = modules.compress(frozen, state, x, 8000, tmp_path / "a")
    saved, proper = [], tensors.save

    def stop(path, values):
        saved.append(path)
        if len(saved) == 12:
            raise KeyboardInterrupt
        proper(path, values)

    monkeypatch.setattr(tensors, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        modules.compress(frozen, state, x, 8000, tmp_path / "b")
    assert modules.compress(frozen, state, x, 8000, tmp_path / "b") == whole


def test_a_transformer_of_tokens_with_a_tied_embedding(tmp_path):
    from benchmarks.others import Characters

    network = Characters(width=32, blocks=1, heads=2, length=16).eval()
    with torch.no_grad():
        network.embedding.weight.mul_(20)
    x = torch.randint(128, (80, 16))
    zoo.save(network, tmp_path / "plain.zoo", bits=4)
    zoo.save(network, tmp_path / "second.zoo", bits=4, calibration=x)
    far = {}
    for name in ("plain", "second"):
        other = zoo.load(tmp_path / f"{name}.zoo", into=Characters(width=32, blocks=1, heads=2, length=16))
        assert other.head.weight is other.embedding.weight
        with torch.no_grad():
            far[name] = float(tuning.divergence(network(x).flatten(0, 1), other(x).flatten(0, 1)).mean())
    assert far["second"] < 0.8 * far["plain"]


def test_a_network_without_layers_that_have_hessians(tmp_path):
    """Recurrent, transposed, embedded: steps by the squared slopes of each tensor."""

    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.gru = nn.Embedding(50, 16), nn.GRU(16, 32, batch_first=True)
            self.up, self.out = nn.ConvTranspose1d(32, 16, 4, groups=2), nn.Linear(16, 7)

        def forward(self, x):
            states, _ = self.gru(self.embedding(x))
            return self.out(self.up(states.transpose(1, 2)).mean(2))

    network, x = Recurrent().eval(), torch.randint(50, (80, 10))
    far = []
    for inputs in (None, x):
        size = zoo.save(network, tmp_path / "a.zoo", bits=4, calibration=inputs)
        other = zoo.load(tmp_path / "a.zoo", into=Recurrent())
        with torch.no_grad():
            far.append(float(tuning.divergence(network(x), other(x)).mean()))
    assert far[1] < 0.7 * far[0] and size <= 4 * sum(p.numel() for p in network.parameters()) / 8


def test_half_precision_keeps_its_type(network, tmp_path):
    half = copy.deepcopy(network).to(torch.bfloat16)
    x = torch.randn(60, 3, 8, 8)
    zoo.save(half, tmp_path / "half.zoo", bits=4, calibration=x)
    state = zoo.load_state_dict(tmp_path / "half.zoo")
    assert {t.dtype for t in state.values() if t.is_floating_point()} == {torch.bfloat16}
    assert divergence(network, zoo.load(tmp_path / "half.zoo", into=Mixed()), x) < 0.01


def test_a_generous_bound_rounds_nothing_and_wrong_use_is_said(network, tmp_path):
    x = torch.randn(10, 3, 8, 8)
    zoo.save(network, tmp_path / "a.zoo", bytes="10MB", calibration=x)
    assert all(
        torch.equal(t, network.state_dict()[n]) for n, t in zoo.load_state_dict(tmp_path / "a.zoo").items()
    )
    with pytest.raises(ValueError, match="needs a module, and a bound"):
        zoo.save(network.state_dict(), tmp_path / "b.zoo", bits=3, calibration=x)
    with pytest.raises(ValueError, match="needs a module, and a bound"):
        zoo.save(network, tmp_path / "b.zoo", calibration=x)
    assert plain.kinds(states.check(network.state_dict())) and not (tmp_path / "b.zoo").exists()
