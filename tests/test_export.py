"""`zoo export`: what other programs read answers as the network does."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import zoo
from zoo import cli, datasets, export
from zoo.errors import ZooError


@pytest.fixture
def digits() -> torch.Tensor:
    return zoo.transforms("lenet5-caffe-sq")(np.asarray(datasets.load("mnist", "test").pixels[:7]))


def answers(network, x) -> torch.Tensor:
    with torch.no_grad():
        return network(x)


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(options: str):
        status = cli.main(["export", *options.split()])
        return status, capsys.readouterr()

    return call


def test_tensors(run, tmp_path):
    assert run("lenet300-100-sq --to safetensors")[0] == 0
    state = load_file(tmp_path / "lenet300-100-sq.safetensors")
    assert all(torch.equal(t, state[name]) for name, t in zoo.load("lenet300-100-sq").state_dict().items())


def test_a_file_of_any_network_gives_its_tensors(run, tmp_path):
    yours = torch.nn.Sequential(torch.nn.Linear(4, 3))
    zoo.save(yours, tmp_path / "yours.zoo")
    assert run("yours.zoo --to safetensors --out a.safetensors")[0] == 0
    assert torch.equal(load_file(tmp_path / "a.safetensors")["0.weight"], yours[0].weight)
    status, said = run("yours.zoo --to onnx")
    assert status == 2 and "names no network" in said.err


def test_an_exported_program(run, tmp_path, digits):
    assert run("lenet5-caffe-sq --to torch-export")[0] == 0
    program = torch.export.load(tmp_path / "lenet5-caffe-sq.pt2").module()
    torch.testing.assert_close(answers(program, digits), answers(zoo.load("lenet5-caffe-sq"), digits), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["lenet5-caffe-sq", "lenet300-100-sq"])
def test_onnx(run, tmp_path, digits, name):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    status, said = run(f"{name} --to onnx --out net.onnx")
    assert status == 0, said.err
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"input": digits.numpy()})
    wanted = answers(zoo.load(name), digits)
    assert np.abs(result - wanted.numpy()).max() <= 1e-4 * float(wanted.abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg16-dft", "resnet20-4-dft", "resnet50-dft"])
@pytest.mark.parametrize("kind", ["onnx", "torch-export"])
def test_large_networks(run, tmp_path, name, kind):
    """The command compares the answers itself, for a batch of another size than that of the export."""
    if kind == "onnx":
        pytest.importorskip("onnxscript")
    status, said = run(f"{name} --to {kind} --out net" + (" --input 3x64x64" if name == "resnet50-dft" else ""))
    assert status == 0, said.err
    assert (tmp_path / "net").stat().st_size > 1_000_000


def test_a_program_that_answers_otherwise_is_not_written():
    network = zoo.load("lenet300-100-sq")
    export._same(network, (1, 28, 28), network, "it")
    with pytest.raises(ZooError, match="it answers otherwise than the network: by 0.001"):
        export._same(network, (1, 28, 28), lambda x: 1.001 * network(x), "it")


def test_what_lacks_is_said(run, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    status, said = run("lenet300-100-sq --to onnx")
    assert status == 2 and "onnxruntime: pip install 'entropy-coded-zoo[export]'" in said.err and not list(tmp_path.iterdir())
    with pytest.raises(SystemExit):
        run("lenet300-100-sq --to caffe")
