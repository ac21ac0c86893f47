"""`zoo compress`: a checkpoint in, a small file out, and what it says about it."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo import cli, codec, datasets, networks
from zoo.compress import command, reference
from zoo.measurement import weights_digest


@pytest.fixture(scope="module")
def trained() -> dict[str, torch.Tensor]:
    """Weights that answer MNIST with 1 % of errors."""
    return zoo.load("lenet300-100-ref").state_dict()


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """200 pictures of MNIST in class folders."""
    root, images = tmp_path_factory.mktemp("digits"), datasets.load("mnist", "test")
    for label in range(10):
        (root / str(label)).mkdir()
    for i in range(200):
        Image.fromarray(np.asarray(images.pixels[i])).save(root / str(images.labels[i]) / f"{i:03}.png")
    return root


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Intermediate results that the tests share, each with a bound of its own: statistics of the inputs take longest."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture
def run(tmp_path, trained, work, capsys):
    """Runs the command on the trained weights, or on another state dict: status, output, errors, path of the file."""
    torch.set_num_threads(1)

    def call(options: str, state=None):
        torch.save({"state_dict": trained if state is None else state, "epoch": 3}, tmp_path / "weights.pth")
        out = tmp_path / "small.zoo"
        options = options.replace("WORK", f"--epochs 0 --work {work}")
        status = cli.main(["compress", str(tmp_path / "weights.pth"), "--out", str(out), *options.split()])
        said = capsys.readouterr()
        return status, said.out, said.err, out

    return call


def size_of(path) -> int:
    return path.stat().st_size


def test_weights_alone(run, trained):
    status, said, _, out = run("--bits 2")
    assert status == 0 and 0.97 * 66_652 <= size_of(out) <= 66_652
    assert "taken from 'state_dict'" in said and "They are those of lenet300-100: --network would name it" in said
    error = float(re.search(r"error of the weights: ([0-9.]+) %", said)[1])
    assert 3 < error < 40
    state = zoo.load_state_dict(out)
    assert {name: t.shape for name, t in state.items()} == {name: t.shape for name, t in trained.items()}


def test_a_bound_that_is_generous_ends_at_once(run, trained):
    status, said, _, out = run("--bytes 2MB --network lenet300-100")
    assert status == 0 and "nothing is rounded" in said and "step" not in said
    assert all(torch.equal(t, trained[name]) for name, t in zoo.load(out).state_dict().items())


def test_pictures_measure_before_and_after_and_calibrate(run, digits):
    status, said, _, out = run(f"--bytes 20kB --network lenet300-100 --pictures {digits} WORK")
    assert status == 0 and 0.97 * 20_000 <= size_of(out) <= 20_000
    before, after = map(int, re.search(r"errors: (\d+) of 200 before \([^)]*\), (\d+) after", said).groups())
    assert before <= 4 and after <= before + 8
    assert re.search(r"agreement: \d+ of 200", said) and "second-order rounding: " in said
    assert zoo.load(out).num_classes == 10
    again = run(f"--bytes 20kB --network lenet300-100 --pictures {digits} WORK")  # goes on from the folder
    assert again[3].read_bytes() == out.read_bytes()


def test_many_lost_answers_are_a_warning(run, digits):
    _, said, _, out = run(f"--bytes 3000 --network lenet300-100 --pictures {digits} WORK")
    assert size_of(out) <= 3000
    assert "warning" in said and "more than 200 pictures" in said


def test_a_bound_of_the_error(run, digits):
    status, said, _, out = run(f"--error +1% --network lenet300-100 --pictures {digits}")
    before, after = map(int, re.search(r"errors: (\d+) of 200 before \([^)]*\), (\d+) after", said).groups())
    assert status == 0 and after <= before + 2
    assert size_of(out) < 60_000  # 4.8 million bits at float32: far fewer are enough


def test_a_file_carries_its_classes_and_pictures(run, digits, tmp_path):
    (tmp_path / "names.txt").write_text("\n".join("zero one two three four five six seven eight nine".split()))
    options = f"--bytes 20kB --network lenet300-100 --pictures {digits} --classes {tmp_path / 'names.txt'} WORK"
    status, said, _, out = run(options)
    assert status == 0 and 0.97 * 20_000 <= size_of(out) <= 20_000
    assert codec.read_header(out.read_bytes()).version == 2 and zoo.classes(out)[3] == "three"
    assert zoo.info(out).preprocessing == datasets.preprocessing("mnist")
    picture = Image.open(next((digits / "7").iterdir()))
    assert zoo.classes(out)[zoo.load(out)(zoo.transforms(out)(picture)).argmax()] == "seven"


@pytest.mark.parametrize("options, message", [
    ("--bytes 0", "a file of 0 bytes cannot be made"), ("--bytes 5GiB", "no size"), ("--bytes 300", "too few"),
    ("--bits -1", "no positive number"), ("--error 1", "as \\+1%"), ("--error +1%", "needs pictures"),
    ("--bits 2 --network lenet5-caffe", "missing: conv1.weight.*They are those of lenet300-100"),
    ("--bits 2 --network lenet300-100:7", r"fc3.weight \(10, 100\), expected \(7, 100\)"),
    ("--bits 2 --network resnet81", "no network is called 'resnet81'; nearest"), ("--bits 2 --key ema", "has no 'ema'"),
    ("--bits 2 --pictures nowhere --network lenet300-100", "no folder nowhere"), ("--bits 2 --pictures nowhere", "not known"),
])  # fmt: skip
def test_what_cannot_be_done_is_said_and_writes_nothing(run, options, message):
    status, _, error, out = run(options)
    assert status == 2 and re.search(message, error) and not out.exists()


def test_weights_that_are_not_finite_are_named(run, trained):
    state = {name: tensor.clone() for name, tensor in trained.items()}
    state["fc2.weight"][3, 4] = torch.nan
    status, _, error, out = run("--bytes 2MB", state)
    assert status == 2 and "fc2.weight holds 1 numbers that are not finite" in error and not out.exists()


def test_the_folder_of_intermediate_results_is_named_by_all_that_decides_them(trained):
    black = np.zeros((4, 28, 28), np.uint8)

    def key(preprocess="mnist", pixels=black, seed=0, state=trained):
        weights = reference.Reference("lenet300-100", preprocess, state, "", None, weights_digest(state), "")
        return command.work_key(weights, pixels, seed)

    other = {name: t + 1 for name, t in trained.items()}
    keys = [key(), key("cifar10"), key(pixels=np.ones((4, 28, 28), np.uint8)), key(pixels=np.zeros((8, 14, 28), np.uint8)),
            key(seed=1), key(state=other)]  # fmt: skip
    assert len(set(keys)) == len(keys) and key() == key()


def test_old_checkpoints_lack_counters_of_batch_normalisation(tmp_path):
    state = networks.build("resnet20-4").state_dict()
    old = {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}
    assert list(command.complete(old, "resnet20-4")) == list(state)


def test_a_trainers_prefix_is_removed_where_the_network_is_named(run, trained):
    state = {f"model.{name}": tensor for name, tensor in trained.items()} | {"loss.weight": torch.ones(3)}
    status, said, _, out = run("--bytes 2MB --network lenet300-100", state)
    assert status == 0 and "prefix 'model.' removed; left out beside it: loss.weight" in said
    assert all(torch.equal(tensor, trained[name]) for name, tensor in zoo.load(out).state_dict().items())


@pytest.fixture(scope="module")
def small_timm(tmp_path_factory):
    """A network of timm with statistics of 60 pictures: the checkpoint and the folder of pictures."""
    from zoo import named, preprocessing

    torch.manual_seed(0)
    torch.set_num_threads(1)
    root, rng = tmp_path_factory.mktemp("timm"), np.random.default_rng(0)
    (root / "pictures").mkdir()
    for i in range(60):
        Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).resize((32, 32)).save(root / "pictures" / f"{i:02}.png")
    network, spec = named.build("timm/test_resnet:10").train(), datasets.preprocessing("cifar10")
    batch = preprocessing.preprocess(spec)(command.read_pictures(str(root / "pictures"), spec, 60).pixels)
    for _ in range(20):
        network(batch)
    torch.save(network.state_dict(), root / "weights.pth")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("calibration", ["--pictures PICTURES", "--synthetic 32"])
def test_a_network_of_timm_is_calibrated(calibration, small_timm, tmp_path, capsys):
    """The same bytes with and without calibration, by pictures or by what batch normalisation remembers: more answers stay."""
    options = f"{small_timm / 'weights.pth'} --network timm/test_resnet:10 --preprocessing cifar10 --bits 3"
    calibration = calibration.replace("PICTURES", str(small_timm / "pictures"))
    options += f" {calibration} --work {tmp_path} --out {tmp_path / 'small.zoo'}"
    assert cli.main(["compress", *options.split()]) == 0
    said = capsys.readouterr().out
    lost = {kind: int(re.search(rf"{kind} rounding: [0-9,]+ bytes, (\d+) of", said)[1]) for kind in ("plain", "second-order")}
    assert lost["second-order"] < lost["plain"]
    assert zoo.info(tmp_path / "small.zoo").network == "timm/test_resnet:10"
    if "--pictures" in calibration:
        assert int(re.search(r"agreement: (\d+) of 60", said)[1]) == 60 - lost["second-order"]
    else:
        assert "no pictures are given: 32 are made" in said and "agreement" not in said
