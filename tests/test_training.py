"""Training: recipes that exist, runs that survive their death, several processes that agree."""

import copy
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
import training_process
from PIL import Image

import zoo
from benchmarks import __main__ as commands
from benchmarks import methods, train
from benchmarks.training import batches, bn, distill, loop, recipe
from zoo import codec, datasets, networks, partitionings, reparam
from zoo.compress import reference

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted(recipe.FOLDER.glob("*.toml"))
CHANGELOG = (recipe.FOLDER.parents[1] / "CHANGELOG.md").read_text(encoding="utf-8")


# --- recipes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe(path):
    """Everything that a recipe names exists, and its options are known."""
    trial = recipe.read(path)
    assert trial.id == path.stem and trial.steps >= 0 and trial.seeds
    partitioning = partitionings.get(trial.network, trial.partitioning)
    groups = {group.name: group for group in partitioning.groups}
    for name in (trial.warm_start, trial.teacher):
        id, _, digest = name.partition("@")
        startable = id in reference.SOURCES or (recipe.FOLDER / f"{id}.toml").exists() or f"`{digest}`" in CHANGELOG
        assert not name or startable, f"{name}: no recipe, and CHANGELOG.md does not say that it left"
    for group, decoder in getattr(trial.options, "decoders", {}).items():
        reparam.columns(decoder, groups[group].shapes[0])
    if isinstance(levels := getattr(trial.options, "levels", None), dict):
        assert set(levels) <= set(groups)
    # EPR's options name groups, which its constructor checks; for the others a small network is enough.
    method = methods.find(trial.method)
    names_groups = issubclass(method, methods.find("epr")) or trial.network.startswith("lenet")
    network = trial.network if names_groups else "lenet300-100"
    partitioning = partitionings.get(network, trial.partitioning)
    fewer = {"fit": 1} if hasattr(trial.options, "fit") else {}  # steps before training, which take seconds
    method(networks.build(network), partitioning, trial.options.model_copy(update=fewer), trial.steps)
    first, last = (loop._schedule(trial, step) for step in (trial.steps // 4, max(trial.steps - 1, 0)))
    assert 0 <= last <= first <= 1
    if trial.dataset == "imagenet":
        assert batches.crops(trial)[0]["size"] <= 224
    else:
        assert datasets.of_preprocessing(trial.preprocess).name == trial.dataset
        assert isinstance(trial.augment, recipe.Shifts)


def test_the_recipes_of_the_paper_are_there():
    ids = {path.stem for path in RECIPES}
    assert {"vgg16-ref", "vgg16-dft", "resnet20-4-ref", "resnet20-4-dft", "resnet20-4-sq", "resnet20-4-orth"} <= ids
    assert {"resnet18-dft-imagenet", "resnet18-sq-imagenet", "resnet50-dft-train", "resnet50-sq-train"} <= ids


def test_transforms_of_figure_4b_differ_in_the_decoder_alone():
    trial = [recipe.deciding(recipe.read(f"resnet20-4-{kind}")) for kind in ("dft", "sq", "orth")]
    assert [o["options"].pop("decoders") for o in trial] == [{}, {"convs": "sq"}, {"convs": "orth:0"}]
    for o in trial:
        o.pop("id")
    assert trial[0] == trial[1] == trial[2]


def test_he_et_al_s_schedule():
    trial = recipe.read("resnet50-dft-train")
    epoch = (1_281_167 - batches.FOLDER_HOLDOUT) // trial.batch
    assert trial.steps == 90 * epoch
    rates = [trial.optimizer.lr * loop._schedule(trial, e * epoch) for e in (0, 29, 30, 59, 60, 89)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_unknown_names_in_a_recipe_are_reported_together():
    content = {"id": "x", "network": "vgg17", "method": "epl", "steps": 1, "colour": 1, "optimizer": {"speed": 2}}
    with pytest.raises(ValueError) as caught:
        recipe.from_dict(content)
    faults = str(caught.value).split("; ")
    assert faults[0].startswith("recipe: network: no network is called 'vgg17'")
    for fault in ("batch is missing", "optimizer.speed is unknown", "colour is unknown"):
        assert fault in faults
    assert "method: unknown method 'epl'; benchmarks/methods/ has direct, epr" in str(caught.value)


def test_unknown_options_of_method_and_augmentation_are_reported_together():
    content = {
        "id": "x", "network": "vgg16", "method": "hemp", "steps": 1, "batch": 1, "seeds": "0",
        "augment": {"rotate": 3, "flip": 1},
        "options": {"lamda": 1, "prune": {"sparsity": "much", "often": 1}},
    }  # fmt: skip
    with pytest.raises(ValueError) as caught:
        recipe.from_dict(content, "here")
    for fault in ("seeds is '0'", "augment: flip is 1, expected a valid boolean; rotate is unknown",
                  "options: prune.sparsity is 'much', expected a valid number; prune.often is unknown; lamda is unknown"):
        assert fault in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "complaints"),
    [
        ({"steps": 5e3, "batch": True}, ["steps is 5000.0, expected a valid integer", "batch is True, expected a valid integer"]),
        ({"network": 3, "seeds": 3}, ["network is 3, expected a valid string", "seeds is 3, expected a valid tuple"]),
        ({"seeds": ["0"]}, ["seeds.0 is '0', expected a valid integer"]),
        ({"shrink": [[2, 14, 3]]}, ["shrink.0 is (2, 14, 3), Tuple should have at most 2 items"]),
        ({"shrink": [[4, 24], [2, 14]]}, ["shrink: found ((4, 24), (2, 14)), expected ascending steps"]),
        (
            {"optimizer": {"lr": "1e-3", "nesterov": 1}},
            ["optimizer.lr is '1e-3', expected a valid number", "optimizer.nesterov is 1, expected a valid boolean"],
        ),
        ({"optimizer": {"lr": float("inf")}}, ["optimizer.lr is inf, expected a finite number"]),
        ({"optimizer": 5}, ["optimizer is 5, expected a valid dictionary or instance of Optimizer"]),
        ({"finish": {"penalty": "x"}}, ["finish.penalty is 'x', expected a valid number"]),
        ({"options": {"step": "x"}}, ["options: step is 'x', expected a valid number; step is 'x', expected a valid dictionary"]),
        ({"precision": "fp16"}, ["precision is 'fp16', expected 'float32', 'bf16' or 'auto'"]),
        ({"optimizer": {"name": "adamw"}}, ["optimizer.name is 'adamw', expected 'adam' or 'sgd'"]),
        (
            {"optimizer": {"schedule": "cos"}},
            ["optimizer.schedule is 'cos', expected 'constant', 'cosine', 'linear' or 'step'"],
        ),
        ({"teacher": "vgg16-ref"}, ["distill is 0.0, expected a share above 0 and up to 1 with a teacher"]),
        ({"network": "lenet5-caffe", "data": "fashion-mnist"}, ['expected network = "lenet5-caffe:fashion-mnist" instead']),
        ({"teacher": "vgg16-ref", "distill": 1.5}, ["distill is 1.5, expected"]),
    ],
)
def test_values_that_mean_nothing_are_reported_together(changes, complaints):
    content = {"id": "x", "network": "vgg16", "method": "epr", "steps": 1, "batch": 1}
    with pytest.raises(ValueError, match="^here: ") as caught:
        recipe.from_dict(content | changes, "here")
    assert [c for c in complaints if c not in str(caught.value)] == []


def test_whole_numbers_are_floats_too_and_none_stays():
    content = {"id": "x", "network": "vgg16", "method": "epr", "steps": 1, "batch": 1}
    trial = recipe.from_dict(content | {"optimizer": {"lr": 1, "psi_lr": None}, "shrink": [[2, 14], [3, 20]], "seeds": [4]})
    assert (trial.optimizer.lr, trial.optimizer.psi_lr, trial.shrink, trial.seeds) == (1, None, ((2, 14), (3, 20)), (4,))


@pytest.mark.parametrize("override", ["id.x=1", "optimizer.lr.x=1", "steps.x.y=1"])
def test_an_override_below_what_is_no_table_is_refused(override):
    with pytest.raises(ValueError, match=rf"{override}: .* is no table"):
        recipe.read("lenet300-100-sq", (override,))


# --- runs ---------------------------------------------------------------------------------------------------


def process(*arguments: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess:
    settings = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | environment
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=settings, check=check, capture_output=True, text=True)


SCRIPT = str(ROOT / "tests" / "training_process.py")


@pytest.fixture
def standin(monkeypatch):
    """The same stand-in for MNIST as in the processes."""
    monkeypatch.setattr(datasets, "load", datasets.load)
    monkeypatch.setattr(datasets, "HOLDOUT", datasets.HOLDOUT)
    training_process.use_standin()


def test_a_killed_training_ends_with_the_bytes_of_one_that_was_not(tmp_path):
    result = json.loads(process(SCRIPT, "kills", str(tmp_path)).stdout.splitlines()[-1])
    assert len(result["stopped"]) >= 2 and any(0 < step < training_process.STEPS for step in result["stopped"]), result
    whole, killed = ((tmp_path / kind / "model.zoo").read_bytes() for kind in ("whole", "killed"))
    assert whole == killed
    log = (tmp_path / "killed" / "train.log").read_text()
    assert log.count("step 100,") == log.count("step 200,") == log.count("step 300,") == 1
    assert "penalty" in log and "data" in log  # the shares of a step
    made_by = log.splitlines()[1]
    assert all(f"{name} {metadata.version(name)}" in made_by for name in ("torch", "numpy", "constriction")), made_by


def test_two_processes_agree_and_train_as_one_does(tmp_path, standin):
    process("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", SCRIPT, "ranks", str(tmp_path))
    records = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2)]
    assert records[0] == records[1] and records[0]["world"] == 2
    assert (tmp_path / "rank-0.zoo").read_bytes() == (tmp_path / "rank-1.zoo").read_bytes()
    (tmp_path / "alone").mkdir()
    training_process.ranks(tmp_path / "alone")
    alone = json.loads((tmp_path / "alone" / "rank-0.json").read_text())
    assert alone["world"] == 1
    np.testing.assert_allclose(records[0]["losses"], alone["losses"], rtol=0.02)
    assert alone["losses"][-1] < 0.9 * alone["losses"][0]


def test_a_batch_must_divide_among_the_processes(standin, monkeypatch):
    monkeypatch.setattr(loop, "_ranks", lambda device: (0, 5))
    with pytest.raises(ValueError, match="a batch of 32 cannot be cut into 5 equal parts"):
        loop.Run(training_process.small(), 0)


def test_seeds_differ(standin):
    """They would not if a seed reached only the bits that torch's generator does not hear."""
    first = [loop.Run(training_process.small(), seed).batches.train(0, 0, 1)[1].tolist() for seed in (0, 1)]
    assert first[0] != first[1]


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path, standin):
    loop.run(training_process.small(steps=4, checkpoint_every=2), 0, tmp_path, stop_after=2)
    with pytest.raises(ValueError, match="another recipe or seed"):
        loop.run(training_process.small(steps=4, options={"lambda": 1e-5}), 0, tmp_path)
    assert not (tmp_path / "model.zoo").exists()


def test_the_outcome_of_an_earlier_recipe_is_forgotten_when_training_begins(tmp_path, standin):
    """Else a half-trained run whose checkpoint somebody deleted would be reported, and evaluated, with the old model."""
    train.train_one(training_process.small(steps=2), 0, tmp_path, threads=1)
    (tmp_path / "checkpoint.safetensors").unlink()
    new = training_process.small(steps=4, checkpoint_every=2, options={"lambda": 1e-5})
    loop.run(new, 0, tmp_path, stop_after=2)
    assert not (tmp_path / "outcome.json").exists()
    assert train.train_one(new, 0, tmp_path, threads=1)["size_bytes"] == (tmp_path / "model.zoo").stat().st_size


def test_a_restart_forgets_the_outcome_before_its_first_step(tmp_path, standin):
    """Else a restart that was killed would look finished."""
    loop.run(training_process.small(steps=2), 0, tmp_path)
    loop.run(training_process.small(steps=2), 0, tmp_path, resume=False, stop_after=0)
    assert not (tmp_path / "outcome.json").exists()


def test_the_outcome_is_written_after_the_model(tmp_path, standin, monkeypatch):
    written = []
    monkeypatch.setattr(loop, "write", lambda path, content: written.append(path.name))
    loop.run(training_process.small(steps=2), 0, tmp_path)
    assert written[-2:] == ["model.zoo", "outcome.json"]


def test_divergence_is_reported_and_the_last_good_checkpoint_stays(tmp_path, standin):
    trial = training_process.small(method="plain", options={}, steps=6, checkpoint_every=2)
    loop.run(trial, 0, tmp_path, stop_after=2)
    good = (tmp_path / "checkpoint.safetensors").read_bytes()

    def diverged(self):
        self.step += 1
        return torch.tensor(float("nan") if self.step == 3 else 1.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Run, "train_step", diverged)
        with pytest.raises(FloatingPointError, match="the loss is nan at step 4: lower the learning rate"):
            loop.run(trial, 0, tmp_path)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == good


def test_a_learning_rate_that_diverges_is_one_line_of_the_command(tmp_path, standin, capsys):
    path = tmp_path / "x.toml"
    path.write_text('id = "x"\nnetwork = "lenet300-100"\nmethod = "epr"\nsteps = 40\nbatch = 32\n[optimizer]\nlr = 1e38\n')
    assert commands.main(["train", str(path), "--seed", "0", "--out", str(tmp_path)]) == 1
    assert "python -m benchmarks train: phi is not finite: training has diverged" in capsys.readouterr().err
    assert not (tmp_path / "x" / "seed-0" / "checkpoint.safetensors").exists()


def test_sgd_s_rate_is_one_for_weights_whatever_the_unit_of_the_latents(standin):
    """Two units, no rounding in sight: the same weights after a step of SGD with decay."""
    after = []
    for step in (3e-4, 1e-3):
        trial = training_process.small(
            options={"lambda": 0.0, "step": step},
            optimizer={"name": "sgd", "lr": 0.05, "psi_lr": 0.0, "weight_decay": 0.1, "schedule": "constant"},
        )
        training = loop.Run(trial, 0)
        training.train_step()
        after.append(training.method.weights()["fc2.weight"].detach())
    start = networks_weight(0)
    assert float((after[0] - start).abs().max()) > 1e-3
    torch.testing.assert_close(after[0], after[1], rtol=0, atol=1.5e-3)


def networks_weight(seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    return networks.build("lenet300-100").fc2.weight.detach()


class Bare(methods.Method):
    """What benchmarks/methods/__init__.py says must be written, and nothing more."""

    def __init__(self, network, partitioning, options, steps):
        super().__init__(network, partitioning, options, steps)
        self.names = [name for group in self.groups for name in group.tensors]
        weights = dict(network.named_parameters())
        self.theta = torch.nn.ParameterList(torch.nn.Parameter(weights[name].detach().clone()) for name in self.names)

    def parameter_sets(self):
        return [methods.ParameterSet(list(self.theta))]

    def weights(self, averaged=False):
        return dict(zip(self.names, self.theta, strict=True))

    def finish(self):
        theta = {name: value.detach().numpy() for name, value in self.weights().items()}
        rows = {g.name: np.concatenate([theta[name].reshape(-1, 1) for name in g.tensors]) for g in self.groups}
        scale = {"scale": np.full((1, 1), 2.0**-8, np.float32)}
        return {name: codec.Coded("scalar", "static", np.rint(256 * x).astype(np.int32), scale) for name, x in rows.items()}


def test_a_method_needs_no_more_than_the_interface(tmp_path, standin, monkeypatch):
    monkeypatch.setattr(methods, "find", lambda name: Bare)
    path = loop.run(training_process.small(method="bare", steps=2, options={}), 0, tmp_path)
    assert zoo.load(path).fc1.weight.shape == (300, 784)


# --- networks with batch normalisation ----------------------------------------------------------------------


@pytest.fixture
def cifar(monkeypatch):
    """60 random pictures in CIFAR-10's place, 20 of them held out."""
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (60, 32, 32, 3)).astype(np.uint8)
    labels = draw.integers(0, 10, 60).astype(np.uint8)
    monkeypatch.setattr(datasets, "load", lambda dataset, split: datasets.Images(pixels, labels, ""))
    monkeypatch.setattr(datasets, "HOLDOUT", 20)


def short(id: str, *overrides: str) -> recipe.Recipe:
    """A recipe of the repository, cut to a few steps of a few images."""
    small = ("steps=4", "batch=4", "evaluate_every=2", "checkpoint_every=2", "finish.images=8", "finish.heldout=10")
    return recipe.read(id, small + overrides)


@pytest.mark.parametrize("precision", ["float32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_a_recipe_with_warm_start_and_teacher_is_resumed_exactly(precision, cifar, tmp_path, monkeypatch):
    torch.manual_seed(5)
    reference = networks.build("resnet20-4").eval()
    monkeypatch.setattr(loop.history, "load", lambda name: {"resnet20-4-half": copy.deepcopy(reference)}[name])
    monkeypatch.setattr(distill, "load", lambda name: ({"taught": reference}[name], "cifar10"))
    trial = short("resnet20-4-sq", f"precision={precision}", "teacher=taught", "distill=0.7", "temperature=2.0")
    whole = loop.run(trial, 0, tmp_path / "whole").read_bytes()
    loop.run(trial, 0, tmp_path / "parts", stop_after=2)
    assert loop.run(trial, 0, tmp_path / "parts").read_bytes() == whole
    header, groups = codec.decode(whole, partitionings.layout)
    assert list(groups) == ["convs", "fc", "bn.scale", "bn.bias", "fc.bias"] and groups["convs"].decoder == "sq"
    network = networks.build("resnet20-4")
    network.load_state_dict(partitionings.join(header, groups), strict=True)
    outcome = json.loads((tmp_path / "whole" / "outcome.json").read_text())
    heldout = batches.open_(trial, 0, torch.device("cpu")).heldout()
    with torch.no_grad():
        errors = sum(int((network.eval()(x).argmax(1) != y).sum()) for x, y in heldout)
    assert abs(errors - outcome["heldout_errors"]) <= 1  # random answers may tie


def test_what_the_teacher_answers_is_computed_once_and_changes_nothing(cifar, monkeypatch):
    torch.manual_seed(5)
    teacher, calls = networks.build("resnet20-4").eval(), []
    monkeypatch.setattr(distill, "load", lambda name: (teacher, "cifar10"))
    monkeypatch.setattr(loop, "TEACHER_LOGITS", [])
    monkeypatch.setattr(datasets, "HOLDOUT", 48)  # 12 pictures, in nine variants each
    settings = ("precision=float32", "teacher=taught", "distill=0.7", "augment={shift=1}", "steps=1000", "keep={}", "warm_start=")
    trial = short("resnet20-4-sq", *settings)
    training, other = loop.Run(trial, 0), loop.Run(trial, 1)
    assert training.teacher_logits is other.teacher_logits and len(training.teacher_logits) == training.batches.variants
    handle = teacher.register_forward_hook(lambda *call: calls.append(call))
    losses = [float(training.train_step()) for _ in range(2)]
    assert not calls
    again = loop.Run(trial, 0)
    again.teacher_logits = None
    assert [float(again.train_step()) for _ in range(2)] == pytest.approx(losses, rel=1e-4) and len(calls) == 2
    handle.remove()


def test_a_warm_start_from_a_file_computes_what_the_file_does(cifar, monkeypatch):
    torch.manual_seed(5)
    reference = networks.build("resnet20-4")
    target = partitionings.get("resnet20-4")
    for name in bn.layers(reference):  # as in a file: scale and bias, no statistics
        reference.get_submodule(name).weight.data.uniform_(0.1, 2.0)
    reference.load_state_dict(partitionings.constants(target), strict=False)
    reference.eval()
    monkeypatch.setattr(loop.history, "load", lambda name: reference)
    trial = short("resnet20-4-sq", "precision=float32", "batch=40", "augment.crop=0", "augment.flip=false", "keep={}")
    training = loop.Run(trial, 0)
    images, _ = training.batches.train(0, 0, 1)
    with torch.no_grad():
        torch.testing.assert_close(training.network.train()(images), reference(images), rtol=2e-2, atol=2e-2)


def test_early_images_are_averaged_down_to_the_sizes_of_shrink(cifar):
    trial = recipe.from_dict({
        "id": "x", "network": "resnet20-4", "method": "plain", "steps": 5, "batch": 2, "shrink": [[2, 8], [3, 16]],
    })  # fmt: skip
    training, seen = loop.Run(trial, 0), []
    training.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = [training.batches.train(step, 0, 1)[0] for step in range(4)]
    for _ in images:
        training.train_step()
    assert [x.shape[-1] for x in seen] == [8, 8, 16, 32]
    torch.testing.assert_close(seen[2], images[2].unflatten(2, (16, 2)).unflatten(4, (16, 2)).mean((3, 5)))
    assert torch.equal(seen[3], images[3])


@pytest.mark.slow
@pytest.mark.parametrize(
    "id", ["vgg16-ref", "vgg16-dft", "vgg16-lc-ternary", "resnet20-4-half", "resnet20-4-dft", "resnet20-4-orth"]
)
def test_recipes_for_cifar_run(id, cifar, tmp_path, monkeypatch):
    trial = short(id)
    monkeypatch.setattr(loop.history, "load", lambda name: networks.build(trial.network).eval())
    blob = loop.run(trial, 0, tmp_path).read_bytes()
    codec.decode(blob, partitionings.layout)
    assert json.loads((tmp_path / "outcome.json").read_text())["heldout_examples"] == 20


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """300 pictures of ten classes, told apart by colour, as an ImageNet folder."""
    root = tmp_path_factory.mktemp("pictures")
    draw = np.random.default_rng(1)
    for number in range(300):
        label = number % 10
        place = root / "train" / f"kind{label}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 60, (72, 80, 3)) + np.array([20 * label, 190 - 20 * label, 90])
        Image.fromarray(pixels.astype(np.uint8)).save(place / f"{number:03}.jpeg", quality=90)
    return root


@pytest.mark.slow
def test_two_processes_train_resnet18_from_a_folder(pictures, tmp_path):
    """`resnet18-dft-imagenet` with ten classes on small pictures, by the command that its comment gives."""
    settings = [
        "network=resnet18:10", "augment.size=64", "steps=6", "batch=16", "evaluate_every=3", "checkpoint_every=3",
        "finish.images=32", "finish.heldout=20", "optimizer.lr=0.02", "precision=float32",
    ]  # fmt: skip
    flags = [flag for setting in settings for flag in ("--set", setting)]
    process(
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "benchmarks", "train",
        "resnet18-dft-imagenet", *flags, "--threads", "1", "--out", str(tmp_path), ZOO_DATA=str(pictures), ZOO_WORKERS="1",
    )  # fmt: skip
    (model,) = tmp_path.glob("*/seed-0/model.zoo")
    header, groups = codec.decode(model.read_bytes(), partitionings.layout)
    assert header.network == "resnet18:10" and groups["convs3x3"].decoder == "dft"
    network = networks.build(header.network)
    network.load_state_dict(partitionings.join(header, groups), strict=True)
    outcome = json.loads((model.parent / "outcome.json").read_text())
    assert outcome["heldout_examples"] == 30
    assert "processes 2" in (model.parent / "train.log").read_text()
