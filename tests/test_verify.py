"""Verification finds every difference between a record and its file, and says which."""

from __future__ import annotations

import dataclasses
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_entry, random_model, standin_images
from PIL import Image

import zoo
from benchmarks import measure
from benchmarks import sample as benchmark_sample
from benchmarks.__main__ import main as benchmark
from zoo import codec, compact, datasets, evidence, files, measurement, partitionings, registry, verify
from zoo.errors import CorruptArtifact, DataUnavailable, UnknownModel, VerificationFailed, WrongData


def outcome(entry, **options):
    return verify.check(registry.load_record(entry.folder), progress=False, **options)


def rewrite(entry, **changes):
    registry.save(entry.changed(**changes))


# ------------------------------------------------------------------------------------------ measuring


def test_errors_are_counted_by_hand_the_same(lenet_blob):
    images = standin_images(300)
    judged = measurement.measure(lenet_blob, images, batch=64, progress=False)
    network = zoo.from_bytes(lenet_blob)
    with torch.inference_mode():
        pixels = torch.from_numpy(images.pixels)[:, None].float()
        logits = network((pixels / 255 - 0.1307) / 0.3081)
    expected = logits.argmax(1).numpy()
    assert np.array_equal(judged.predictions, expected) and judged.predictions.dtype == np.uint8
    assert judged.errors == int((expected != images.labels).sum()) and judged.examples == 300
    assert judged.test_set == images.digest
    two = logits.topk(2)
    assert np.array_equal(judged.runners_up, two.indices[:, 1].numpy())
    gaps = (two.values[:, 0] - two.values[:, 1]) / logits.abs().amax(1)
    assert np.allclose(judged.gaps, gaps.numpy(), atol=1e-5)


def test_a_measurement_needs_no_images(lenet_blob):
    judged = measurement.measure(lenet_blob, None)
    assert judged.size_bytes == len(lenet_blob) and judged.golden.shape == (4, 10)
    assert judged.errors is judged.examples is judged.predictions is judged.test_set is None
    with torch.inference_mode():
        batch = zoo.preprocessing.preprocess("mnist")(datasets.golden_input("mnist"))
        assert np.allclose(judged.golden, zoo.from_bytes(lenet_blob)(batch).numpy(), rtol=1e-5)


def test_measure_takes_ids_and_paths_and_the_test_set_by_itself(entry, mnist_standin):
    for source in (entry.id, entry.path, entry.folder, entry.path.read_bytes()):
        assert zoo.measure(source, progress=False).errors == entry.test_errors


def test_measure_takes_data_set_and_preprocessing_from_the_record(artifacts, lenet_blob, monkeypatch):
    raw = dataclasses.replace(datasets.PREPROCESSINGS["mnist"], name="mnist-raw", scale=1.0)
    monkeypatch.setitem(datasets.PREPROCESSINGS, "mnist-raw", raw)
    made = make_entry(artifacts, "raw", lenet_blob, preprocessing="mnist-raw")
    recorded = evidence.read_golden(made.folder)
    for source in (made.id, made.folder):
        assert np.allclose(zoo.measure(source, None).golden, recorded)
    usual = zoo.measure(made.path, None).golden  # a bare file has no record
    assert np.array_equal(usual, zoo.measure(made.id, None, preprocess="mnist").golden) and not np.allclose(usual, recorded)


def test_the_batch_size_changes_nothing(lenet_blob):
    images = standin_images(37)
    whole = measurement.measure(lenet_blob, images, progress=False)
    for batch in (1, 10, 36, 37, 38):
        judged = measurement.measure(lenet_blob, images, batch=batch, progress=False)
        assert np.array_equal(judged.predictions, whole.predictions)


def sparse_model() -> bytes:
    """A LeNet300-100 whose first 200 hidden neurons are zero."""
    header, groups = zoo.decode(random_model(seed=8, spread=3))
    weights = groups["fc1+fc2"].phi.reshape(-1)
    weights[: 784 * 200] = 0
    groups["biases"].phi[:200] = 0
    return zoo.encode(header.network, header.partitioning, groups)


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_quick_measurement_gives_the_same(jobs):
    images, blob = standin_images(300), sparse_model()
    whole = measurement.measure(blob, images, progress=False)
    counted = []
    quick = measurement.measure(blob, images, batch=7, jobs=jobs, quick=True, progress=counted.append)
    assert np.array_equal(quick.predictions, whole.predictions) and np.array_equal(quick.runners_up, whole.runners_up)
    assert np.allclose(quick.gaps, whole.gaps, atol=1e-5) and quick.errors == whole.errors
    assert quick.weights_sha256 == whole.weights_sha256 and np.array_equal(quick.golden, whole.golden)
    assert counted == [7] * 42 + [6]
    assert quick.multiplications == 784 * 100 + 100 * 100 + 100 * 10 and whole.multiplications is None


def test_where_two_logits_are_close_the_whole_network_answers(monkeypatch):
    """Here the small network is wrong by a little: only images whose best logits are further apart keep its answer."""
    images, blob = standin_images(300), sparse_model()
    whole = measurement.measure(blob, images, progress=False)

    def spoil(name, network):
        network.fc3.bias.data += torch.linspace(0, 1, 10) * 4e-6 * float(np.abs(whole.golden).max())

    monkeypatch.setattr(compact, "remove_dead", spoil)
    monkeypatch.setattr(measurement, "CLOSE", 0.2)
    quick = measurement.measure(blob, images, quick=True, progress=False)
    close = whole.gaps < 0.19
    assert close.any() and not close.all()
    assert np.allclose(quick.gaps[close], whole.gaps[close], atol=1e-6)  # the small network: 8e-6
    assert not np.array_equal(quick.gaps[whole.gaps > 0.21], whole.gaps[whole.gaps > 0.21])


def test_a_small_network_that_answers_otherwise_is_not_used(monkeypatch):
    images, blob = standin_images(300), sparse_model()
    whole = measurement.measure(blob, images, progress=False)
    monkeypatch.setattr(compact, "remove_dead", lambda name, network: network.fc3.bias.data.add_(torch.arange(10.0)))
    quick = measurement.measure(blob, images, quick=True, progress=False)
    assert np.array_equal(quick.predictions, whole.predictions)
    assert quick.multiplications == 784 * 300 + 300 * 100 + 100 * 10


def test_the_multiplications_of_a_network_are_counted():
    network = zoo.networks.build("lenet5-caffe")
    expected = 20 * 25 * 24**2 + 50 * 20 * 25 * 8**2 + 800 * 500 + 500 * 10
    assert measurement.cost(network, torch.zeros(3, 1, 28, 28)) == expected


def test_labels_that_the_network_does_not_have_are_refused(lenet_blob):
    images = standin_images(20)
    labels = images.labels.copy()
    labels[3] = 10
    with pytest.raises(WrongData, match="11 classes, the network 10"):
        measurement.measure(lenet_blob, datasets.Images(images.pixels, labels, "x"), progress=False)


def test_pictures_of_another_size_are_resized(lenet_blob):
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (5, 40, 40), np.uint8)
    judged = measurement.measure(lenet_blob, datasets.Images(pixels, np.zeros(5, np.uint8), "x"), progress=False)
    with torch.inference_mode():
        batch = zoo.preprocessing.preprocess("mnist")([Image.fromarray(p) for p in pixels])
        assert np.array_equal(judged.predictions, zoo.from_bytes(lenet_blob)(batch).argmax(1).numpy())


def test_the_digest_of_weights_knows_names_shapes_and_every_bit():
    state = {"a": torch.zeros(2, 3), "b": torch.ones(1)}
    digest = measurement.weights_digest(state)
    assert digest == measurement.weights_digest({"a": torch.zeros(3, 2).T.contiguous(), "b": torch.ones(1)})
    others = [
        {"b": torch.ones(1), "a": torch.zeros(2, 3)},
        {"a": torch.zeros(3, 2), "b": torch.ones(1)},
        {"a": torch.zeros(2, 3), "c": torch.ones(1)},
        {"a": torch.zeros(2, 3, dtype=torch.int32), "b": torch.ones(1)},
        {"a": -torch.zeros(2, 3), "b": torch.ones(1)},
    ]
    assert digest not in {measurement.weights_digest(other) for other in others}


def test_the_digest_of_weights_is_as_documented():
    import hashlib

    text = b"zoo weights 1\nw float32 2x1\n" + np.array([1, 2], "<f4").tobytes() + b"n int64 \n" + np.array(7, "<i8").tobytes()
    state = {"w": torch.tensor([[1.0], [2.0]]), "n": torch.tensor(7)}
    assert measurement.weights_digest(state) == hashlib.sha256(text).hexdigest()


def test_golden_outputs_survive_their_file(tmp_path):
    logits = np.random.default_rng(0).normal(0, 5, (4, 10)).astype(np.float32)
    evidence.write_golden(tmp_path, logits)
    assert np.array_equal(evidence.read_golden(tmp_path), logits)
    for text in ("{}", "[1]", "nonsense", '{"logits": [["a"]]}'):
        (tmp_path / "golden.json").write_text(text)
        with pytest.raises(CorruptArtifact, match=r"golden\.json"):
            evidence.read_golden(tmp_path)


def test_predictions_are_read_without_pickle(tmp_path):
    evidence.write_predictions(tmp_path, np.array([3, 1], np.uint8))
    assert evidence.read_predictions(tmp_path).tolist() == [3, 1]
    np.save(tmp_path / "predictions.npy", np.array([{}], object))
    with pytest.raises(CorruptArtifact, match="cannot be read"):
        evidence.read_predictions(tmp_path)
    np.save(tmp_path / "predictions.npy", np.zeros((2, 2), np.uint8))
    with pytest.raises(CorruptArtifact, match="expected classes"):
        evidence.read_predictions(tmp_path)


# ------------------------------------------------------------------------------------------ verdicts


def test_an_honest_entry_is_ok(entry):
    judged = outcome(entry)
    assert judged.ok and judged.status == "OK" and judged.problems == judged.notes == []
    assert (judged.errors, judged.examples, judged.size_bytes) == (entry.test_errors, 200, entry.size_bytes)
    assert judged.seconds > 0
    judged.check()


def test_bytes_only_needs_no_data(entry, monkeypatch):
    def refuse(*_):
        raise AssertionError("asked for data")

    monkeypatch.setattr(measurement, "test_images", refuse)
    judged = outcome(entry, bytes_only=True)
    assert judged.ok and judged.errors is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights_sha256": "0" * 64}, f"weights_sha256: expected {'0' * 64}, found"),
        ({"network": "lenet5-caffe"}, "network: expected lenet5-caffe, found lenet300-100"),
        ({"parameters": 266_611}, "parameters: expected 266,611, found 266,610"),
        ({"partitioning": "layers"}, "partitioning: expected layers, found paper"),
        ({"preprocessing": "fog"}, "preprocessing 'fog' is not known; there are"),
        ({"dataset": "fog"}, "data set 'fog'"),
        ({"quoted": "lenet300-100/nobody"}, "no key of the quoted results"),
    ],
)
@pytest.mark.parametrize("bytes_only", [False, True])
def test_a_wrong_record_fails(artifacts, lenet_blob, change, message, bytes_only):
    entry = make_entry(artifacts, "untested", lenet_blob)  # unless bytes_only, on MNIST itself
    rewrite(entry, **change)
    judged = outcome(entry, bytes_only=bytes_only)
    assert judged.status == "FAILED" and len(judged.problems) == 1 and message in judged.problems[0]
    with pytest.raises(VerificationFailed, match=entry.id):
        judged.check()


def test_a_wrong_number_of_errors_fails(entry):
    rewrite(entry, test_errors=entry.test_errors - 1)
    first, second = outcome(entry).problems
    assert f"the record says {entry.test_errors - 1}, its predictions.npy makes {entry.test_errors}" in first
    assert second.startswith(f"errors: expected {entry.test_errors - 1} of 200") and f"found {entry.test_errors} of 200" in second


def test_predictions_that_differ_are_listed(entry):
    recorded = evidence.read_predictions(entry.folder)
    changed = recorded.copy()
    changed[[3, 150]] = (recorded[[3, 150]] + 1) % 10
    evidence.write_predictions(entry.folder, changed)
    problems = outcome(entry).problems
    assert problems[0] == (
        f"predictions: 2 of 200 differ: image 3: expected {changed[3]}, found {recorded[3]}, "
        f"image 150: expected {changed[150]}, found {recorded[150]}"
    )
    evidence.write_predictions(entry.folder, (recorded + 1) % 10)
    assert outcome(entry).problems[0].endswith("and 180 more")
    evidence.write_predictions(entry.folder, recorded[:-1])
    assert "predictions: expected 199, found 200" in outcome(entry).problems[0]
    (entry.folder / "predictions.npy").unlink()
    assert "predictions.npy" in outcome(entry).problems[0]


def test_ties_within_rounding_are_notes(entry, monkeypatch, mnist_standin):
    judged = measurement.measure(entry.path, mnist_standin, progress=False)
    recorded = judged.predictions.copy()
    recorded[7] = judged.runners_up[7]
    evidence.write_predictions(entry.folder, recorded)
    rewrite(entry, test_errors=int((recorded != mnist_standin.labels).sum()))
    assert outcome(entry).status == "FAILED"

    def measure(*args, **options):
        gaps = judged.gaps.copy()
        gaps[7] = 0.9e-4
        return dataclasses.replace(judged, gaps=gaps)

    monkeypatch.setattr(measurement, "measure", measure)
    now = outcome(entry)
    assert now.ok and "1 predictions differ only where two logits are equal within rounding" in now.notes[0]
    assert "image 7" in now.notes[0]


def test_golden_outputs_that_differ_are_described(entry):
    golden = evidence.read_golden(entry.folder)
    largest = float(np.abs(golden).max())
    golden[2, 7] += 0.5e-4 * largest
    evidence.write_golden(entry.folder, golden)
    assert outcome(entry, bytes_only=True).ok
    golden[2, 7] += 1e-3 * largest
    evidence.write_golden(entry.folder, golden)
    (problem,) = outcome(entry, bytes_only=True).problems
    assert "1 of 40 logits differ" in problem and "image 2, class 7: expected" in problem
    evidence.write_golden(entry.folder, golden[:3])
    assert "expected shape (3, 10), found (4, 10)" in outcome(entry, bytes_only=True).problems[0]
    (entry.folder / "golden.json").unlink()
    assert "golden.json" in outcome(entry, bytes_only=True).problems[0]


def test_another_test_set_fails(entry, monkeypatch):
    other = standin_images(seed=8)
    monkeypatch.setattr(measurement, "test_images", lambda *_: other)
    (problem,) = outcome(entry).problems
    assert entry.test_set in problem and other.digest in problem


def test_a_recipe_that_is_missing_in_the_repository_is_a_fault(entry, tmp_path, monkeypatch):
    rewrite(entry, recipe="benchmarks/recipes/nowhere.toml")
    assert outcome(entry).ok  # an entry of another folder: its recipe may lie elsewhere
    monkeypatch.setattr(registry, "PACKAGE", entry.folder.parents[1] / "zoo")
    monkeypatch.setattr(registry, "roots", lambda: [entry.folder.parent])
    assert entry.folder.parent.name == "artifacts"
    (problem,) = verify.check(registry.find(entry.id), bytes_only=True).problems
    assert problem == "recipe: there is no benchmarks/recipes/nowhere.toml"


def test_a_recipe_that_was_changed_is_a_note(entry, tmp_path, monkeypatch):
    import hashlib

    first = "steps = 1\ncomment = 'as it was'\n[options]\nlambda = 1e-6\n"
    recipe = tmp_path / "r.toml"
    recipe.write_text(first)
    monkeypatch.setattr(registry, "PACKAGE", tmp_path / "zoo")
    rewrite(entry, recipe="r.toml", recipe_sha256=hashlib.sha256(first.encode()).hexdigest())
    assert outcome(entry).notes == []
    logged = {"steps": 1, "batch": 128, "comment": "as it was", "options": {"lambda": 1e-6}}
    (entry.folder / "train.log").write_text(f"recipe {json.dumps(logged)}\nstep 1\n")
    recipe.write_text(first.replace("as it was", "said better") + "[claim]\nbytes = 5\n")
    assert outcome(entry).notes == []  # neither decides anything
    recipe.write_text(first.replace("steps = 1", "steps = 2").replace("1e-6", "2e-6"))
    now = outcome(entry)
    assert now.ok and now.notes == [
        "r.toml has been edited since: steps is 2, was 1; options.lambda is 2e-06, was 1e-06; "
        "train.log begins with the recipe as it was run"
    ]
    (entry.folder / "train.log").unlink()
    assert "cannot be compared with train.log" in outcome(entry).notes[0]


def test_missing_data_is_no_failure_of_the_entry(entry, monkeypatch):
    def refuse(*_):
        raise DataUnavailable("mnist test could not be had from any source")

    monkeypatch.setattr(measurement, "test_images", refuse)
    judged = outcome(entry)
    assert judged.status == "INCOMPLETE" and not judged.ok and judged.problems == []
    assert "mnist test" in judged.unavailable and "--bytes-only" in judged.unavailable
    with pytest.raises(DataUnavailable):
        judged.check()
    rewrite(entry, weights_sha256="0" * 64)  # what can be checked without data still is
    assert outcome(entry).status == "FAILED"


def test_what_needs_no_data_comes_first_and_a_missing_data_set_is_looked_for_once(artifacts, lenet_blob, mnist_standin,
                                                                                 monkeypatch):  # fmt: skip
    for name in ("a", "b", "c"):
        make_entry(artifacts, name, lenet_blob, mnist_standin)
    (artifacts / "c" / "model.zoo").write_bytes(lenet_blob[:-1])
    steps, measure_before = [], measurement.measure
    monkeypatch.setattr(measurement, "measure", lambda blob, images, **options: steps.append(images) or
                        measure_before(blob, images, **options))  # fmt: skip
    outcomes = list(verify.verify(progress=False, jobs=2))
    assert [o.id for o in outcomes] == ["c", "a", "b"] and [o.status for o in outcomes] == ["FAILED", "OK", "OK"]
    assert steps == [None, None, mnist_standin, mnist_standin]

    asked = []
    monkeypatch.setattr(measurement, "test_images", lambda dataset: asked.append(dataset) or refuse())
    outcomes = list(verify.verify(["a", "b"], progress=False))
    assert [o.status for o in outcomes] == ["INCOMPLETE"] * 2 and all("no network" in o.unavailable for o in outcomes)
    assert asked == ["mnist"]


def refuse():
    raise DataUnavailable("no network")


def test_all_entries_or_some(entry, artifacts, lenet_blob):
    make_entry(artifacts, "another", lenet_blob)
    assert [o.id for o in verify.verify(progress=False)] == ["another", entry.id]
    assert [o.id for o in verify.verify([entry.id], bytes_only=True)] == [entry.id]
    with pytest.raises(UnknownModel):
        next(verify.verify([entry.id, "nobody"]))


def test_a_record_that_cannot_be_read_does_not_stop_the_others(entry, artifacts, lenet_blob):
    make_entry(artifacts, "another", lenet_blob)
    (artifacts / "another" / "entry.json").write_text("{")
    for names in ((), ("another", entry.id)):
        bad, good = verify.verify(names, bytes_only=True)
        assert bad.id == "another" and bad.status == "FAILED" and "cannot be read" in bad.problems[0]
        assert good.id == entry.id and good.ok


def test_a_file_that_cannot_be_read_is_a_problem(entry, monkeypatch):
    def refuse(path, count):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(registry.files, "head", refuse)
        judged = outcome(entry)
    assert judged.status == "FAILED" and judged.problems == [f"[Errno 13] Permission denied: '{entry.path}'"]


def test_errors_that_nobody_measured_are_a_note(artifacts, lenet_blob, mnist_standin):
    made = make_entry(artifacts, "untested", lenet_blob)
    judged = outcome(made)
    assert judged.ok and "not in the record" in judged.notes[0]
    assert len(judged.notes) == 1
    now = measure.measure(made, None, progress=False)
    assert now == registry.find("untested")
    assert now.test_errors == judged.errors and now.test_set == mnist_standin.digest
    assert outcome(now).notes == []


def test_what_the_log_says_is_compared_with_the_record(entry):
    logged = {"network": "lenet300-100", "method": "epr", "warm_start": "", "teacher": "", "partitioning": "paper"}
    log = entry.folder / "train.log"
    log.write_text(f"recipe {json.dumps(logged)}\nversions\nseed 3, device cpu\n")
    assert outcome(entry, bytes_only=True).problems == [
        "method: the record says plain, train.log epr", "seed: the record says None, train.log 3"
    ]  # fmt: skip
    rewrite(entry, method="epr", seed=3)
    now = outcome(registry.find(entry.id), bytes_only=True)
    assert now.ok and "method" not in now.stated and {"license", "versions"} <= set(now.stated)
    log.unlink()
    assert {"method", "seed"} <= set(outcome(entry, bytes_only=True).stated)
    for text in ("recipe {", "recipe [1]", "recipe " + "[" * 100_000):
        log.write_text(text)
        (problem,) = outcome(entry, bytes_only=True).problems
        assert "train.log cannot be read" in problem


# ------------------------------------------------------------------------------------------ damage


@pytest.mark.parametrize("kind", ["wrong", "missing", "surplus"])
def test_a_damaged_byte_is_told(entry, kind):
    blob = entry.path.read_bytes()
    for offset in (2, 40, len(blob) // 2, len(blob) - 2):  # header, group, stream, checksum
        inside = {"wrong": bytes([blob[offset] ^ 16]) + blob[offset + 1 :], "missing": blob[offset + 1 :],
                  "surplus": bytes([blob[offset] ^ 5]) + blob[offset:]}  # fmt: skip
        entry.path.write_bytes(blob[:offset] + inside[kind])
        judged = outcome(entry, bytes_only=True)
        assert judged.status == "FAILED" and len(judged.problems) == 1
        if kind == "wrong":
            assert ("checksum" if offset > 8 else "magic number") in judged.problems[0]
        else:
            assert f"expected {len(blob):,} bytes, found" in judged.problems[0]


def test_more_damage_is_told(entry, lenet_blob):
    blob = bytearray(lenet_blob)
    blob[100] ^= 1
    blob[9000] ^= 1
    entry.path.write_bytes(blob)
    (problem,) = outcome(entry).problems
    assert "the file is damaged: the checksum" in problem
    entry.path.write_bytes(random_model(seed=4))
    assert "a whole model file, but another one" in outcome(entry).problems[0]
    entry.path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "Git-LFS" in outcome(entry).problems[0]


def test_sections_cover_the_file(lenet_blob):
    places = verify.sections(lenet_blob)
    assert places[0][1] == 0 and places[-1][2] == len(lenet_blob)
    assert all(a[2] == b[1] for a, b in zip(places, places[1:], strict=False))
    assert len(places) == 1 + 3 * 3 + 2
    _, groups = codec.anatomy(lenet_blob, partitionings.layout)
    stream = dict((name, end - start) for name, start, end in places)["the stream of symbols"]
    assert 0 <= stream - sum(group_bytes.coded_bits for group_bytes in groups) / 8 < 5


# ------------------------------------------------------------------------------------------ ImageNet

SYNSETS = (0, 1, 7)  # classes of the stand-in


@pytest.fixture
def pictures(tmp_path):
    """A folder of nine small pictures in three class folders named as ImageNet's."""
    root = tmp_path / "pictures"
    draw = np.random.default_rng(2)
    for k in SYNSETS:
        folder = root / datasets.synsets()[k]
        folder.mkdir(parents=True)
        for i in range(3):
            Image.fromarray(draw.integers(0, 256, (9 + i, 12, 3), np.uint8)).resize((260, 230)).save(folder / f"{i}.png")
    return root


@pytest.fixture
def imagenet_entry(artifacts, lenet_blob, monkeypatch):
    """Makes an entry that calls itself ImageNet's, but is a small network that sees small grey pictures."""
    grey = datasets.PREPROCESSINGS["mnist"]
    small = dataclasses.replace(datasets.get("imagenet"), preprocessings=(grey,), batch=4)
    monkeypatch.setitem(datasets.PREPROCESSINGS, "imagenet", grey)
    monkeypatch.setitem(datasets.DATASETS, "imagenet", small)
    return lambda **changes: make_entry(artifacts, "imagenet-standin", lenet_blob, dataset="imagenet",
                                        preprocessing="imagenet", **changes)  # fmt: skip


@pytest.mark.parametrize("harm", ["broken", "missing"])
def test_a_users_pictures_that_cannot_be_used_say_nothing_about_the_entry(imagenet_entry, pictures, tmp_path, harm):
    made, copy = imagenet_entry(), tmp_path / "copy"
    shutil.copytree(pictures, copy)
    first = next(copy.rglob("*.*"))
    if harm == "broken":
        first.write_bytes(first.read_bytes()[:40])
    else:
        shutil.rmtree(copy)
    verdict = outcome(made, data_root=copy)
    assert verdict.status == "INCOMPLETE" and (first.name if harm == "broken" else "there is no folder") in verdict.unavailable


def test_an_imagenet_entry_is_verified_offline_and_with_data(imagenet_entry, lenet_blob, pictures, monkeypatch, capsys):
    made = imagenet_entry()
    judged = outcome(made)
    assert judged.ok and judged.errors is None and "not yet measured; --data PATH" in judged.notes[0]

    with pytest.raises(WrongData, match="not written: the official validation set has 50,000 pictures, found 9"):
        measure.measure(made, pictures, progress=False)
    assert registry.find(made.id).test_errors is None
    judged = outcome(made, data_root=pictures)
    assert judged.ok and judged.examples == 9 and "not the official validation set" in judged.notes[-1]
    network, folder = zoo.from_bytes(lenet_blob), datasets.validation_set(pictures)
    with torch.inference_mode():
        answers = [int(network(zoo.transforms(made.id)(folder[i][0])).argmax()) for i in range(9)]
    assert judged.errors == sum(a != folder[i][1] for i, a in enumerate(answers))

    rewrite(made, weights_sha256="0" * 64)
    with pytest.raises(VerificationFailed, match="weights_sha256"):
        measure.measure(registry.find(made.id), pictures, progress=False)
    rewrite(made)
    monkeypatch.setattr(measure, "require_official", lambda *_: None)
    assert benchmark(["measure", made.id, "--data", str(pictures)]) == 0
    assert f"{judged.errors} of 9 wrong" in capsys.readouterr().out
    now = registry.find(made.id)
    with pytest.raises(ValueError, match="has test errors in its record"):
        measure.measure(now, pictures)
    assert (now.test_errors, now.test_examples, now.test_set) == (judged.errors, 9, folder.digest())
    assert evidence.read_predictions(now.folder).tolist() == answers
    assert outcome(now, data_root=pictures).ok
    assert "recorded: " in outcome(now).notes[0]


def test_a_sample_is_derived_again(imagenet_entry, lenet_blob, pictures):
    folder = datasets.image_folder(pictures)
    keep = [0, 2, 4, 8]  # part of the folder
    labels = folder.labels[keep]
    subset = datasets.ImageFolder(folder.root, [folder.paths[i] for i in keep], labels, folder.class_names)
    judged = measurement.measure(lenet_blob, subset, preprocess="imagenet", batch=3, progress=False)
    reference = judged.predictions.astype(np.int64)
    reference[1] += 1
    sample = evidence.Sample(tuple(subset.paths), labels, judged.predictions, reference)
    record = sample.record("four", "4 pictures", judged.test_set, "fp32", "from the training split")
    assert (record["examples"], record["errors"], record["agreement"]) == (4, judged.errors, 3)
    made = imagenet_entry(samples=[record], extra={"sample-four.json": sample.to_bytes()})
    assert evidence.read_sample(made.folder / "sample-four.json").paths == sample.paths

    now = outcome(made, sample_root=pictures)
    assert now.ok and "the answer of fp32 on 3 of 4" in now.notes[-1]
    assert len(outcome(made).notes) == 1

    rewrite(made, samples=[record | {"agreement": 4, "errors": judged.errors + 1}])
    first, second = outcome(made).problems  # without pictures, from the file of answers
    assert first == f"sample four, errors: the record says {judged.errors + 1}, sample-four.json {judged.errors}"
    assert second == "sample four, agreement: the record says 4, sample-four.json 3"
    problems = outcome(made, sample_root=pictures).problems
    assert problems[2:] == [
        f"sample four, errors: expected {judged.errors + 1}, found {judged.errors}", "sample four, agreement: expected 4, found 3"
    ]  # fmt: skip
    rewrite(made, samples=[record | {"digest": "0" * 64}])
    assert "sample four: expected images with digest 000" in outcome(made, sample_root=pictures).problems[0]
    (pictures / subset.paths[0]).unlink()
    judged = outcome(made, sample_root=pictures)
    assert judged.status == "INCOMPLETE" and subset.paths[0] in judged.unavailable


def test_a_sample_that_leaves_its_folder_is_refused(tmp_path):
    for path in ("../x.png", "/etc/passwd"):
        (tmp_path / "sample-a.json").write_text(json.dumps({"images": [[path, 0, 0, 0]]}))
        with pytest.raises(CorruptArtifact, match="outside"):
            evidence.read_sample(tmp_path / "sample-a.json")


def test_errors_of_a_sample_are_counted_where_the_class_is_known(tmp_path):
    labels, predictions, reference = np.array([3, -1, 5]), np.array([3, 4, 6]), np.array([2, 4, 5])
    sample = evidence.Sample(("a", "b", "c"), labels, predictions, reference)
    assert sample.counts == {"examples": 3, "labelled": 2, "errors": 1, "reference_errors": 1, "agreement": 1}
    files.write(tmp_path / "sample-a.json", sample.to_bytes())
    again = evidence.read_sample(tmp_path / "sample-a.json")
    assert again.labels.tolist() == [3, -1, 5] and again.counts == sample.counts


def test_each_sample_has_its_own_file_and_those_at_hand_are_derived(imagenet_entry, lenet_blob, pictures, tmp_path, capsys):
    made = imagenet_entry()
    folder = datasets.image_folder(pictures)
    first = benchmark_sample.add(made, folder, "one", "all", "made", made.id)
    assert first.samples[0].agreement == len(folder)  # the entry is its own reference here
    shard = tmp_path / "shards" / "pool.zip"
    shard.parent.mkdir()
    with zipfile.ZipFile(shard, "w") as archive:
        for path in folder.paths[:3]:
            archive.write(folder.root / path, f"x/{Path(path).name}")
    paths = [f"pool.zip/x/{Path(path).name}" for path in folder.paths[:3]]
    packed = datasets.ImageFolder(shard.parent, paths, np.array([-1, -1, -1]), folder.class_names)
    both = benchmark_sample.add(first, packed, "two", "packed", "made", made.id)
    assert [sample.key for sample in both.samples] == ["one", "two"]
    assert (both.samples[1].labelled, both.samples[1].errors) == (0, 0)
    for root, key in ((pictures, "one"), (shard.parent, "two")):
        checked = outcome(both, sample_root=root)
        assert checked.ok and f"sample {key}" in checked.notes[-1]
    assert outcome(both, sample_root=tmp_path / "nowhere").status == "INCOMPLETE"
    with pytest.raises(ValueError, match="was measured on one before"):
        benchmark_sample.add(both, folder, "one", "all", "made", made.id)


# ------------------------------------------------------------------------------------------ what is committed


@pytest.mark.verifies
@pytest.mark.parametrize("name", registry.ids())
def test_committed_entries_agree_with_their_files(name):
    judged = verify.check(registry.find(name), bytes_only=registry.find(name).dataset != "mnist", progress=False)
    judged.check()


@pytest.mark.parametrize("name", registry.ids())
def test_committed_sizes_under_the_papers_counting_are_counted_again(name):
    from benchmarks import evaluate

    entry = registry.find(name)
    assert (entry.paper_bytes, entry.paper_counting) == evaluate.paper_bytes(entry.method, registry.read(entry))


@pytest.mark.parametrize("name", ["lenet300-100-sq", "resnet20-4-dft", "resnet50-dft"])
def test_measuring_a_committed_entry_gives_its_golden_outputs(name):
    recorded = evidence.read_golden(registry.find(name).folder)
    judged = zoo.measure(name, None).golden
    assert np.abs(judged - recorded).max() <= verify.TOLERANCE * np.abs(recorded).max()
