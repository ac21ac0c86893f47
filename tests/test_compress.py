"""Compression without training, from weights to a file: the parts against their definitions, the whole on small networks."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

import zoo
from benchmarks import compress
from zoo import codec, datasets, networks, partitionings
from zoo.compress import bn as batch_norm
from zoo.compress import calibration, reference, rounding, search, tuning
from zoo.compress import layer as one_layer
from zoo.compress import network as all_layers
from zoo.compress.calibration import Layer
from zoo.compress.layer import Rounder


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def test_which_batch_normalisation_takes_up_what():
    torch.manual_seed(0)
    result = {layer.name: layer for layer in calibration.layers(networks.build("resnet20-4").eval(), (3, 32, 32))}
    second = result["layer1.1.conv2"]
    assert (second.rows, second.inputs, second.kernel) == (None, "layer1.1.bn2", 9)  # its output is added to the shortcut
    assert (result["layer1.1.conv1"].rows, result["layer1.1.conv1"].inputs) == ("layer1.1.bn2", "layer1.1.bn1")
    assert result["layer2.0.conv1"].inputs is None  # the shortcut takes the same activation
    assert result["conv1"].rows == "layer1.0.bn1"  # the first block activates before its paths part
    assert result["layer1.0.conv2"].rows is None and result["fc"].rows is None
    lenet = calibration.layers(networks.build("lenet5-caffe").eval(), (1, 28, 28))
    assert [(layer.name, layer.kernel, layer.rows, layer.inputs) for layer in lenet] == [
        ("conv1", 25, None, None), ("conv2", 25, None, None), ("fc1", 1, None, None), ("fc2", 1, None, None)
    ]  # fmt: skip


def test_looking_for_them_leaves_the_weights_alone():
    network = networks.build("resnet20-4").eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    calibration.layers(network, (3, 32, 32))
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


@pytest.mark.parametrize("stride, padding", [(1, 1), (2, 1), (2, 0)])
def test_patches_are_what_the_convolution_sees(stride, padding):
    conv = torch.nn.Conv2d(5, 7, 3, stride=stride, padding=padding, bias=False)
    x = torch.randn(2, 5, 9, 8)
    rows, count = calibration.patches(x, conv, 2, torch.Generator().manual_seed(0))
    wanted = F.conv2d(x, conv.weight, stride=stride, padding=padding)
    assert count == wanted.shape[2] * wanted.shape[3]  # few positions: all are taken
    place = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    flat = wanted.flatten(2)[:, :, place].permute(0, 2, 1).reshape(-1, 7)
    torch.testing.assert_close(rows @ conv.weight.flatten(1).T, flat, rtol=1e-4, atol=1e-5)


def test_importance_predicts_the_divergence_of_a_small_change():
    """One output disturbed by noise: the KL divergence is s/2 times the noise's variance."""
    torch.manual_seed(1)
    network = networks.build("lenet300-100").eval().requires_grad_(False)
    for p in network.parameters():
        p.mul_(2.0)
    x = torch.rand(400, 1, 28, 28)
    result, logits = calibration.sensitivity(network, x, ["fc1", "fc2", "fc3"])
    s = result["fc2/importance"]
    chosen, size = int(s.argmax()), 0.05
    noise = torch.zeros(400, 100)
    noise[:, chosen] = size * torch.randn(400)
    handle = network.fc2.register_forward_hook(lambda m, i, out: out + noise)
    moved = network(x)
    handle.remove()
    measured = float(tuning.divergence(logits, moved, calibration.TEMPERATURE).mean()) * calibration.TEMPERATURE**2
    assert measured == pytest.approx(0.5 * float(s[chosen]) * size**2, rel=0.4)


@pytest.mark.parametrize("kind", ["weight", "bias"])
def test_importance_predicts_what_an_error_in_batch_normalisation_does(kind):
    """The same error at all positions: the KL divergence is s/2 times its square, for errors of both signs."""
    torch.manual_seed(1)
    network = networks.build("resnet20-4").eval().requires_grad_(False)
    x = torch.randn(40, 3, 8, 8)
    result, logits = calibration.sensitivity(network, x, ["conv1", "fc"])
    parameter = network.layer2[1].bn2.get_parameter(kind)
    s = result[f"layer2.1.bn2.{kind}"]
    assert s.shape == parameter.shape and result["fc.bias"].shape == (10,)
    size, measured, signs = 0.02, [], torch.randint(2, (20, len(s))) * 2.0 - 1
    for sign in signs:
        kept = parameter.clone()
        parameter.add_(size * sign)
        far = tuning.divergence(logits, network(x), calibration.TEMPERATURE)
        measured.append(float(far.mean()) * calibration.TEMPERATURE**2)
        parameter.copy_(kept)
    assert np.mean(measured) == pytest.approx(0.5 * float(s.sum()) * size**2, rel=0.4)


def test_covariances_of_dense_layers_are_those_of_their_inputs():
    network = networks.build("lenet300-100").eval().requires_grad_(False)
    x = torch.rand(300, 1, 28, 28)
    h = calibration.covariances(network, x, ["fc2"])["fc2"]
    inputs = F.relu(network.fc1(x.flatten(1)))
    wanted = torch.cov(inputs.T, correction=0)
    torch.testing.assert_close(h.diagonal(), wanted.diagonal() + 1e-3 * wanted.diagonal().mean(), rtol=1e-3, atol=1e-6)
    off = ~torch.eye(300, dtype=torch.bool) & (wanted.abs() > 1e-4)
    shrunk = (h[off] / wanted[off]).median()
    assert 0 < shrunk < 1  # towards the diagonal, all by the same factor
    torch.testing.assert_close(h[off], wanted[off] * shrunk, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("decoder", ["dft", "sq"])
def test_latents_measure_the_error_of_the_weights(decoder):
    rng = np.random.default_rng(0)
    w, e = rng.standard_normal((6, 36)).astype(np.float32), rng.standard_normal((6, 36)).astype(np.float32)
    x = rng.standard_normal((100, 36))
    h = (x.T @ x / 100).astype(np.float32)
    y, z = one_layer.to_latents(decoder, w, 9), one_layer.to_latents(decoder, e, 9)
    t = one_layer.transform_hessian(decoder, h.copy(), 9)
    np.testing.assert_allclose(one_layer.from_latents(decoder, y, 9), w, atol=1e-5)
    np.testing.assert_allclose(np.einsum("od,de,oe->o", z, t, z), np.einsum("od,de,oe->o", e, h, e), rtol=1e-4)
    assert np.allclose(t, t.T, atol=1e-5)


def test_a_rounded_layer_beats_plain_rounding_at_the_same_bits():
    rng = np.random.default_rng(0)
    mix = np.eye(90) + 0.3 * rng.standard_normal((90, 90))
    x = rng.standard_normal((4000, 90)) @ mix
    h = (x.T @ x / len(x)).astype(np.float32)
    w = (0.1 * rng.laplace(size=(40, 10, 3, 3))).astype(np.float32)
    importance = np.exp(rng.standard_normal(40)).astype(np.float32)
    layer = Rounder(Layer("a", "a.weight", 9, "bn", "before"), "dft", w, h.copy, importance)
    result = layer.round(2e-3)
    restored = one_layer.unround("dft", result)
    error = restored - w.reshape(40, -1)
    s = np.maximum(importance, one_layer.FLOOR * importance.mean())
    nats = 0.5 * float((s * np.einsum("od,de,oe->o", error, h, error)).sum())
    assert nats == pytest.approx(result.error, rel=1e-3)
    for step in np.geomspace(0.02, 1, 200):  # the finest plain step that needs no more bits
        plain = np.rint(w.reshape(40, -1) / step)
        if rounding.Rate.fit(plain, 9).bits(plain) <= result.bits:
            break
    e = plain * step - w.reshape(40, -1)
    assert result.error < 0.6 * 0.5 * float((s * np.einsum("od,de,oe->o", e, h, e)).sum())
    cheaper = layer.refine(result, 4e-3)
    assert cheaper.bits < result.bits and cheaper.error > result.error


def test_a_matched_layer_answers_with_the_mean_and_variance_it_had():
    bn = torch.nn.BatchNorm2d(3).eval().requires_grad_(False)
    bn.weight.copy_(torch.tensor([2.0, -1.0, 0.5]))
    bn.bias.copy_(torch.tensor([0.1, 0.2, 0.3]))
    bn.running_var.fill_(1 - partitionings.BN_EPS)
    scale, offset = torch.tensor([1.0, 2.0, 0.1]), torch.tensor([0.0, 3.0, -1.0])
    x = torch.randn(50, 3, 4, 5) * scale.reshape(3, 1, 1) + offset.reshape(3, 1, 1)
    wanted = bn(x)
    moved = 0.7 * x + 0.4
    all_layers.match(x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0), bn, (moved,))
    torch.testing.assert_close(bn(moved), wanted, rtol=1e-4, atol=1e-4)
    x = torch.zeros(4, 3, 2, 2)
    all_layers.match(torch.zeros(3), torch.zeros(3), bn, (x,))  # dead channels stay as they are
    assert torch.isfinite(bn.weight).all() and torch.isfinite(bn.bias).all()


@pytest.mark.slow
def test_batch_normalisation_is_estimated_anew_under_the_rounded_weights(tmp_path):
    """BN's outputs keep their mean and variance in every layer, and so do the answers their mean, which have a bias alone."""
    torch.manual_seed(0)
    path = tmp_path / "weights.safetensors"
    save_file(networks.build("resnet20-4").state_dict(), path)
    job = all_layers.Job(reference.load(str(path), "resnet20-4"), "dft", np.zeros((2, 32, 32, 3), np.uint8), tmp_path / "work")
    job.images = torch.randn(40, 3, 32, 32)
    job.statistics()
    network = job.compressed(job.round(1e-9, tmp_path / "a"))
    moments = {}
    for which, model in (("now", network), ("then", job.network)):
        for name, bn in batch_norm.layers(model).items():
            bn.register_forward_hook(
                lambda m, i, out, key=(which, name): moments.update({key: torch.stack(torch.var_mean(out, (0, 2, 3)))})
            )
        with torch.no_grad():
            moments[which, "fc"] = model(job.images).mean(0)
    torch.testing.assert_close(moments["now", "fc"], moments["then", "fc"], rtol=0.02, atol=0.01)
    before = batch_norm.layers(job.network)
    for name, bn in batch_norm.layers(network).items():
        # channels of which next to nothing is left stay weaker
        free = bn.weight / before[name].weight < 0.99 * all_layers.LARGEST
        assert free.float().mean() > 0.95
        torch.testing.assert_close(moments["now", name][1], moments["then", name][1], rtol=0.02, atol=0.01)
        torch.testing.assert_close(moments["now", name][0][free], moments["then", name][0][free], rtol=0.02, atol=0.01)


def test_sizes_are_decimal():
    assert search.parse_bytes("5.4MB") == 5_400_000
    assert search.parse_bytes("40 kB") == 40_000
    assert search.parse_bytes("1234") == 1234
    with pytest.raises(ValueError, match="no size"):
        search.parse_bytes("5 GiB")


@pytest.mark.parametrize("slope", [-0.15, -0.35, -1.0, -3.0])
@pytest.mark.parametrize("off", [0.1, 0.7, 1.3, 10.0])
def test_the_search_for_a_price_ends(slope, off):
    """Bytes fall as a power of the price, faster than new steps alone would have it or slower; a sweep moves them little."""
    price, full, tried, steps = 1e-9 * off, True, [], 0.0
    while not tried or not 0.9905 <= tried[-1][2] <= 0.9985:
        steps = price if full else steps
        tried.append([price, full, (steps / 1e-9) ** slope * (price / steps) ** -0.06])
        price, full = search._next_price(tried, 0.9965)
        assert len(tried) <= search.ATTEMPTS


@pytest.fixture(scope="module")
def mnist_job(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("job")
    network = networks.build("lenet5-caffe")
    path = folder / "weights.safetensors"
    save_file(network.state_dict(), path)
    weights = reference.load(str(path), "lenet5-caffe")
    pixels = np.asarray(datasets.load("mnist", "test").pixels[:200])  # unlabelled, and of no published entry
    return all_layers.Job(weights, "dft", pixels, folder / "work")


@pytest.fixture(scope="module")
def whole(mnist_job):
    """The file of 60 kB, made in one go."""
    return search.search(mnist_job, 60_000, mnist_job.folder / "whole")


def test_a_small_network_from_weights_to_file(mnist_job, whole):
    blob = whole
    assert 59_400 <= len(blob) <= 60_000
    header, groups = codec.decode(blob, partitionings.layout)
    assert header.network == "lenet5-caffe" and list(groups) == ["convs", "fc1", "fc2", "biases"]
    network = zoo.from_bytes(blob)
    with torch.no_grad():
        logits = network(mnist_job.images)
    wanted = mnist_job.logits
    close = float(tuning.divergence(wanted, logits).mean())
    rough = float(tuning.divergence(wanted, wanted.roll(1, 0)).mean())
    assert close < 0.3 * rough  # random weights hold nothing superfluous: about one bit each is left
    assert float((logits.argmax(1) == wanted.argmax(1)).float().mean()) > 0.7


def test_a_stopped_run_goes_on_and_ends_with_the_same_bytes(mnist_job, whole, tmp_path, monkeypatch):
    count, proper = [], one_layer.Rounded.save

    def stop(self, path):
        count.append(path)
        if len(count) == 3:
            raise KeyboardInterrupt
        proper(self, path)

    monkeypatch.setattr(one_layer.Rounded, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        search.search(mnist_job, 60_000, tmp_path / "b")
    again = all_layers.Job(mnist_job.reference, "dft", mnist_job.pixels, mnist_job.folder)
    assert search.search(again, 60_000, tmp_path / "b") == whole
    assert len(count) > 3


def test_the_command_writes_an_entry_that_loads(tmp_path, monkeypatch, capsys):
    from benchmarks.__main__ import main

    torch.manual_seed(0)
    path = tmp_path / "weights.safetensors"
    save_file(networks.build("lenet300-100").state_dict(), path)
    images = datasets.load("mnist", "test").pixels[:150]
    monkeypatch.setattr(compress, "pictures", lambda *_: (np.asarray(images), None))
    command = f"compress lenet300-100 --weights {path} --bytes 40kB --calibration mnist --work {tmp_path / 'work'}"
    assert main([*command.split(), "--out", str(tmp_path / "lenet300-100-test")]) == 0
    record = json.loads((tmp_path / "lenet300-100-test/entry.json").read_text())
    assert record["size_bytes"] <= 40_000 and record["test_errors"] is None
    assert record["weights_source"]["source"] == "weights.safetensors"
    assert zoo.load(str(tmp_path / "lenet300-100-test")) is not None
    assert "bytes" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("basis", ["dft", "sq"])
def test_a_residual_network_with_batch_normalisation(basis, tmp_path, monkeypatch):
    """A ResNet-18 with 10 classes on small images: BN folded, its factors taken up, estimated anew, tuned, all in the file."""
    torch.manual_seed(0)
    network = networks.build("resnet18:10").train()
    x = torch.randn(64, 3, 64, 64)
    with torch.no_grad():
        for _ in range(30):
            network(x)  # moves BN's statistics to those of the data
    path = tmp_path / "weights.safetensors"
    save_file(network.state_dict(), path)
    weights = reference.load(str(path), "resnet18:10")
    job = all_layers.Job(weights, basis, np.zeros((2, 224, 224, 3), np.uint8), tmp_path / "work")
    job.images = x
    close = {}
    for epochs in (0, 1):
        blob = search.search(job, 2_400_000, tmp_path / "a", epochs=epochs)
        assert 2_376_000 <= len(blob) <= 2_400_000
        with torch.no_grad():
            logits = zoo.from_bytes(blob)(x)
        close[epochs] = float(tuning.divergence(job.logits, logits).mean())
    rough = float(tuning.divergence(job.logits, job.logits.roll(1, 0)).mean())
    tried = json.loads((tmp_path / "a/search.json").read_text())["tried"]
    rounded = job.round(tried[-1][0], tmp_path / f"a/attempt-{len(tried) - 1}")
    monkeypatch.setattr(all_layers, "match", lambda *_: None)
    with torch.no_grad():
        old = float(tuning.divergence(job.logits, job.compressed(rounded)(x)).mean())
    assert close[1] < close[0] < 0.9 * old < 0.3 * rough
    assert float((logits.argmax(1) == job.logits.argmax(1)).float().mean()) > 0.85
