"""Distillation: a pool of pictures as batches, and a teacher whose answers and stages are learned."""

import io
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.training import answers, distill, loop, pool, recipe
from benchmarks.training.pool import UNKNOWN
from zoo import datasets, networks, preprocessing
from zoo.errors import DataUnavailable, WrongData

SIZES = ((200, 160), (64, 80), (84, 84), (300, 170))  # width, height


def picture(number: int) -> Image.Image:
    draw = np.random.default_rng(number)
    width, height = SIZES[number % len(SIZES)]
    coarse = draw.integers(0, 256, (height // 20, width // 20, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)


def encoded(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "WEBP", lossless=True)
    return out.getvalue()


@pytest.fixture(scope="module")
def encoded_once(tmp_path_factory):
    """40 pictures in two zip files; the class of every third one is not known."""
    root = tmp_path_factory.mktemp("pictures")
    for shard in range(2):
        with zipfile.ZipFile(root / f"pool-0{shard}.zip", "w") as out:
            for n in range(20 * shard, 20 * shard + 20):
                out.writestr(f"{'x' if n % 3 == 0 else f'{n % 10:03d}'}/made-{n:06d}.webp", encoded(picture(n)))
    return root


@pytest.fixture
def folder(encoded_once, tmp_path, monkeypatch):
    """A copy of the pictures, and a cache, for each test."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    return shutil.copytree(encoded_once, tmp_path / "pictures")


def small(folder, **changes) -> recipe.Recipe:
    content = {
        "id": "small", "network": "resnet20", "method": "plain", "steps": 6, "batch": 4, "data": f"pool:{folder}",
        "preprocessing": "imagenet-caffe", "teacher": "keras/resnet50", "distill": 0.5, "features": 0.5,
        "stages": ["layer1", "layer3"], "inherit": ["conv1"], "precision": "auto", "channels_last": True,
        "evaluate_every": 3, "checkpoint_every": 2, "augment": {"size": 16, "mixup": 0.5},
        "optimizer": {"name": "sgd", "lr": 0.01}, "finish": {"images": 8, "heldout": 8},
    }  # fmt: skip
    return recipe.from_dict(content | changes)


@pytest.fixture
def teacher(monkeypatch):
    """A network of random weights in the place of ResNet-50, with that one's preprocessing."""
    torch.manual_seed(7)
    network = networks.build("resnet20").eval()
    monkeypatch.setattr(distill, "load", lambda name: (network, "imagenet-caffe"))
    return network


# --- pictures -----------------------------------------------------------------------------------------------


def test_pictures_are_decoded_once_and_whole(folder, monkeypatch):
    pictures = pool.read(folder)
    assert len(pictures) == 40
    for n in (0, 1, 2, 3, 39):
        assert np.array_equal(np.asarray(pictures.image(n)), np.asarray(picture(n).convert("RGB"))) or n % 4 == 3
        assert pictures.labels[n] == (UNKNOWN if n % 3 == 0 else n % 10)
    monkeypatch.setattr(pool, "_decode", lambda *_: pytest.fail("decoded again"))
    assert pool.read(folder).digest == pictures.digest


def test_folders_of_pictures_are_a_pool_too(folder, tmp_path):
    root = tmp_path / "folders"
    for name, n in (("005", 1), ("n01440764", 2), ("somewhere", 3)):
        (root / name).mkdir(parents=True)
        (root / name / "one.webp").write_bytes(encoded(picture(n)))
    pictures = pool.read(root)
    assert pictures.labels.tolist() == [5, 0, UNKNOWN]
    assert pictures.digest != pool.read(folder).digest


def test_what_is_no_pool_is_refused(tmp_path, folder, monkeypatch):
    monkeypatch.delenv("ZOO_DATA", raising=False)
    with pytest.raises(DataUnavailable, match="set ZOO_DATA to the folder that holds 'nowhere'"):
        pool.locate("nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WrongData, match="neither zip files nor pictures"):
        pool.read(tmp_path / "empty")
    (tmp_path / "empty" / "a.webp").write_bytes(b"RIFF")
    with pytest.raises(WrongData, match="a.webp is no readable picture"):
        pool.read(tmp_path / "empty")
    assert not list((tmp_path / "cache").glob("*.part"))
    pool.read(folder)
    (cached,) = (tmp_path / "cache").glob("*.u8")
    cached.write_bytes(cached.read_bytes()[:-3])
    with pytest.raises(WrongData, match="was cut short"):
        pool.read(folder)


def test_held_out_pictures_are_large_and_never_trained_on(folder):
    pictures = pool.read(folder)
    chosen, measured, index = (set(picked.tolist()) for picked in pool.split(pictures))
    assert len(chosen) == len(measured) == 5 and len(index) == 30  # a quarter of the 20 large ones each
    assert not (chosen & measured or chosen & index or measured & index)
    assert all(min(SIZES[n % 4]) >= pool.LARGE for n in chosen | measured)


# --- crops --------------------------------------------------------------------------------------------------


def cut_one(image: np.ndarray, box, size: int) -> np.ndarray:
    """(size, size, 3) of one picture, which is stored twice: as it is and at half the size."""
    half = np.asarray(Image.fromarray(image).reduce(2))
    pixels = torch.from_numpy(np.concatenate([image.reshape(-1, 3), half.reshape(-1, 3)]))
    height, width = ([image.shape[i], half.shape[i]] for i in (0, 1))
    start = [0, image.shape[0] * image.shape[1]]
    tables = (torch.tensor([row]) for row in (start, height, width))
    return pool.cut(pixels, *tables, torch.tensor(box, dtype=torch.float32)[:, None], size)[0].permute(1, 2, 0).numpy()


def test_a_box_of_the_size_asked_for_gives_its_pixels():
    image = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    assert np.array_equal(cut_one(image, (3, 1, 8, 8, 0), 8), image[1:9, 3:11])
    assert np.array_equal(cut_one(image, (3, 1, 8, 8, 1), 8), image[1:9, 3:11][:, ::-1])


def test_between_pixels_values_are_linear():
    ramp = (10 * np.arange(16)[None, :, None] + np.arange(12)[:, None, None]).repeat(3, 2).astype(np.uint8)
    picked = cut_one(ramp, (2, 3, 6, 4, 0), 12)  # columns at 2 + (j + 0.5) / 2 - 0.5, rows at 3 + (i + 0.5) / 3 - 0.5
    columns, rows = 2 + (np.arange(12) + 0.5) / 2 - 0.5, 3 + (np.arange(12) + 0.5) / 3 - 0.5
    assert np.allclose(picked[..., 0], 10 * columns + rows[:, None], atol=1e-4)


def test_a_box_that_shrinks_is_read_from_the_smaller_copy():
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2] = 200  # at half the size: 100 everywhere
    assert np.array_equal(cut_one(stripes, (0, 0, 32, 32, 0), 16), np.full((16, 16, 3), 100))


def test_boxes_lie_in_their_pictures():
    sizes = torch.tensor([[60, 500, 64], [600, 40, 64]]).repeat(1, 100)  # (height, width)
    augment = {"area": [0.25, 1.0], "ratio": [3 / 4, 4 / 3], "flip": True}
    draw = torch.Generator().manual_seed(0)
    left, top, w, h, mirrored = pool.random_boxes(sizes, augment, draw)
    assert (left >= 0).all() and (top >= 0).all() and (w > 0).all() and (h > 0).all()
    assert (left + w <= sizes[1] + 1e-3).all() and (top + h <= sizes[0] + 1e-3).all()
    assert 0.3 < mirrored.mean() < 0.7
    square = (w * h / 64**2)[2::3]
    assert 0.2 < square.min() and square.max() <= 1


# --- batches ------------------------------------------------------------------------------------------------


def test_labels_are_given_where_the_class_is_known_the_picture_small_and_nothing_mixed_in(folder):
    whole = pool.Pool(small(folder, augment={"size": 16}), 0, torch.device("cpu"))
    mixed = pool.Pool(small(folder, augment={"size": 16, "mixup": 1.0}), 0, torch.device("cpu"))
    for step in range(4):
        numbers, (_, labels) = whole._numbers(step), whole.train(step, 0, 1)
        for number, label in zip(numbers.tolist(), labels.tolist(), strict=True):
            labelled = number % 3 != 0 and min(SIZES[number % 4]) < pool.SMALL
            assert label == (number % 10 if labelled else UNKNOWN)
        assert (mixed.train(step, 0, 1)[1] == UNKNOWN).all()


def test_a_batch_is_a_function_of_seed_and_step_and_is_cut_among_processes(folder):
    pictures = pool.Pool(small(folder), 0, torch.device("cpu"))
    images, labels = pictures.train(3, 0, 1)
    assert torch.equal(images, pool.Pool(small(folder), 0, torch.device("cpu")).train(3, 0, 1)[0])
    assert not torch.equal(images, pool.Pool(small(folder), 1, torch.device("cpu")).train(3, 0, 1)[0])
    halves = [pictures.train(3, rank, 2) for rank in range(2)]
    assert torch.equal(torch.cat([half[0] for half in halves]), images)
    assert torch.equal(torch.cat([half[1] for half in halves]), labels)


# --- the teacher --------------------------------------------------------------------------------------------


def test_a_distilled_run_that_stopped_ends_with_the_bytes_of_one_that_did_not(folder, teacher, tmp_path):
    whole = loop.run(small(folder), 0, tmp_path / "whole")
    loop.run(small(folder), 0, tmp_path / "stopped", stop_after=3)
    stopped = loop.run(small(folder), 0, tmp_path / "stopped")
    assert whole.read_bytes() == stopped.read_bytes()
    log = (tmp_path / "stopped" / "train.log").read_text()
    assert "continued at step 3: device cpu" in log and f"pool {pool.read(folder).digest}, 40 pictures" in log


VIEWS = {"features": 0.0, "stages": [], "augment": {"size": 16, "views": 2}, "shrink": [[4, 8]]}


def test_kept_answers_are_the_teachers_to_the_whole_part(folder, teacher):
    run = loop.Run(small(folder, **VIEWS), 0)
    images, _ = run.batches.train(0, 0, 1)
    wanted = run.teacher.logits(images)
    assert torch.equal(run._remembered(images), wanted.half().float())
    run.teacher.logits = None  # what is kept needs no teacher
    assert torch.equal(run._remembered(images), wanted.half().float())


def test_views_come_again_and_differ(folder, teacher):
    batches = pool.Pool(small(folder, **VIEWS), 0, torch.device("cpu"))
    epoch = len(batches.index) // 4
    shown = [{} for _ in range(3)]
    for step in range(3 * epoch):
        for row, image in zip(batches.rows(step, 0, 1).tolist(), batches.train(step, 0, 1)[0], strict=True):
            shown[step // epoch][row] = image
    assert not shown[0].keys() & shown[1].keys()  # two views have rows of their own
    again = shown[0].keys() & shown[2].keys()
    assert again and all(torch.equal(shown[0][row], shown[2][row]) for row in again)
    number = len(batches.pictures)
    both = [row for row in shown[0] if row + number in shown[1]]
    assert both and not any(torch.equal(shown[0][row], shown[1][row + number]) for row in both)


def test_a_run_with_kept_answers_that_stopped_ends_with_the_bytes_of_one_that_did_not(folder, teacher, tmp_path, monkeypatch):
    plan = small(folder, **VIEWS)
    whole = loop.run(plan, 0, tmp_path / "whole").read_bytes()
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "another cache"))
    for stop in (3, 5, None):
        path = loop.run(plan, 0, tmp_path / "parts", stop_after=stop)
    assert path.read_bytes() == whole


def test_answers_of_another_shape_are_refused(tmp_path):
    table = answers.Answers(tmp_path / "answers.f16", 3, 2)
    rows = torch.tensor([2, 0])
    assert table.of(rows, lambda: torch.tensor([[1.0, 2.0], [3.0, 4.0]])).tolist() == [[1, 2], [3, 4]]
    assert answers.Answers(tmp_path / "answers.f16", 3, 2).of(torch.tensor([0]), None).tolist() == [[3, 4]]
    with pytest.raises(ValueError, match="answers.f16 has 12 bytes, expected 16"):
        answers.Answers(tmp_path / "answers.f16", 4, 2)


def test_the_student_begins_with_the_layers_it_inherits(folder, teacher):
    run = loop.Run(small(folder), 0)
    assert torch.equal(run.method.weights()["conv1.weight"], teacher.conv1.weight)
    with pytest.raises(ValueError, match="layer 'fc7' of the teacher does not fit"):
        loop.Run(small(folder, inherit=["fc7"]), 0)
    with pytest.raises(ValueError, match="stages names 'layer9'"):
        loop.Run(small(folder, stages=["layer9"]), 0)


def test_held_out_answers_are_the_teachers(folder, teacher):
    run = loop.Run(small(folder), 0)
    images, labels = next(run.batches.heldout())
    with torch.no_grad():
        assert torch.equal(labels, teacher(images).argmax(1))


def test_the_loss_by_hand(folder, teacher):
    trial = small(folder, features=0.0, stages=[], temperature=2.0, distill=0.25)
    student = networks.build("resnet20").eval()
    lesson = distill.Teacher(trial, student)
    images = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        answers = teacher(images)
    assert float(lesson.loss(answers, images, torch.full((3,), UNKNOWN), 0.0)) == pytest.approx(0, abs=1e-5)
    logits, labels = torch.randn(3, 10), torch.tensor([4, UNKNOWN, 9])
    p, q = (answers / 2).double().softmax(1), (logits / 2).double().log_softmax(1)
    soft = 4 * (p * (p.log() - q)).sum(1)
    hard = -logits.double().log_softmax(1)
    wanted = (0.25 * soft[0] + 0.75 * hard[0, 4] + soft[1] + 0.25 * soft[2] + 0.75 * hard[2, 9]) / 3
    assert float(lesson.loss(logits, images, labels, 0.0)) == pytest.approx(float(wanted), rel=1e-4)


def test_features_cost_what_the_projections_miss(folder, teacher):
    student = networks.build("resnet20").train()
    lesson = distill.Teacher(small(folder, stages=["layer3"], features=3.0), student)
    torch.nn.init.zeros_(lesson.projections["layer3"].weight)
    torch.nn.init.zeros_(lesson.projections["layer3"].bias)
    images = torch.randn(4, 3, 16, 16)
    student(images)
    with torch.no_grad():
        loss = lesson.loss(teacher(images), images, torch.full((4,), UNKNOWN), 0.0)
    # A projection to zero misses the whole variance of standardised outputs, which is 1 in each channel that is not constant.
    assert float(loss) == pytest.approx(3.0, rel=0.05)


@pytest.mark.parametrize(("student", "wanted"), [("imagenet", "imagenet-caffe"), ("imagenet-caffe", "imagenet")])
def test_the_teacher_gets_the_pixels_in_its_own_scale(student, wanted):
    specs = [datasets.PREPROCESSINGS[name] for name in (student, wanted)]
    pixels = torch.randint(0, 256, (2, 3, 5, 5), dtype=torch.uint8)
    ours, of_teacher = (preprocessing.normalise(replace(spec, size=5), pixels) for spec in specs)
    factor, offset = distill._affine(*specs)
    assert torch.allclose(ours * factor + offset, of_teacher, atol=2e-4 * float(of_teacher.abs().max()))
    assert distill._affine(specs[0], specs[0]) is None


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"teacher": "", "features": 0.0, "stages": [], "inherit": []}, "a pool of pictures need a teacher"),
        ({"augment": {"size": 16, "views": 2, "mixup": 0.5}, "features": 0.0, "stages": []}, "features and mixup must be 0"),
        ({"stages": []}, "expected both or neither"),
    ],
)
def test_recipes_that_cannot_be_distilled(folder, changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        small(folder, **changes)
