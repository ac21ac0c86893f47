"""ImageNet's validation pictures in the layouts in which people keep them."""

import io

import numpy as np
import pytest
from PIL import Image

from zoo import datasets
from zoo.datasets import validation
from zoo.datasets.validation import not_official, validation_set
from zoo.errors import DataUnavailable, WrongData

SYNSETS = datasets.synsets()
CLASSES = {1: 5, 2: 999, 3: 10, 4: 5, 347: 472}  # official number -> class; the last one is known


def name(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}.JPEG"


def picture(number: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, 0, 0)).save(out, "JPEG")
    return out.getvalue()


def put(folder, *numbers: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers or CLASSES:
        (folder / name(number)).write_bytes(picture(number))


def result(root) -> dict[str, int]:
    images = validation_set(root)
    assert images.class_names == datasets.classes("imagenet")
    assert [label for _, label in images] == images.labels.tolist()
    return {path.rpartition("/")[2]: int(label) for path, label in zip(images.paths, images.labels, strict=True)}


WANTED = {name(number): label for number, label in CLASSES.items()}


@pytest.mark.parametrize("place", ["", "val", "validation", "imagenet/val", "ILSVRC/Data/CLS-LOC/val"])
@pytest.mark.parametrize("folder", ["synset", "number", "padded"])
def test_class_folders_wherever_they_lie(tmp_path, place, folder):
    for number, label in CLASSES.items():
        put(tmp_path / place / {"synset": SYNSETS[label], "number": str(label), "padded": f"{label:03d}"}[folder], number)
    (tmp_path / place / ".cache").mkdir()
    (tmp_path / place / "5" if folder == "number" else tmp_path / place).joinpath("._x.JPEG").write_bytes(b"")
    assert result(tmp_path) == WANTED


def test_folders_named_by_numbers_are_sorted_as_numbers(tmp_path):
    for label in (0, 1, 2, 9, 10, 11, 100, 999):
        put(tmp_path / str(label), label + 1)
    assert set(result(tmp_path).values()) == {0, 1, 2, 9, 10, 11, 100, 999}
    put(tmp_path / "1000", 7)
    with pytest.raises(WrongData, match="go from 0 to 999, found 1000"):
        validation_set(tmp_path)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("val.txt", lambda n, c: f"{name(n)} {c}"),
        ("labels.tsv", lambda n, c: f"{name(n)}\t{SYNSETS[c]}"),
        ("labels.csv", lambda n, c: f"{name(n)},{c}"),
        ("LOC_val_solution.csv", lambda n, c: f"{name(n).removesuffix('.JPEG')},{SYNSETS[c]} 1 2 3 4 {SYNSETS[0]} 5 6 7 8"),
    ],
)
@pytest.mark.parametrize("place", ["val", "."])
def test_a_flat_folder_with_a_file_of_labels(tmp_path, file, line, place):
    put(tmp_path / "val")
    (tmp_path / "val" / "._ILSVRC2012_val_00000001.JPEG").write_bytes(b"")
    header = ["ImageId,PredictionString"] if file.startswith("LOC") else []
    (tmp_path / place / file).write_text("\n".join(header + [line(n, c) for n, c in CLASSES.items()]) + "\n")
    assert result(tmp_path) == WANTED


@pytest.fixture
def five(monkeypatch):
    """An official set of five pictures."""
    monkeypatch.setattr(validation, "EXAMPLES", 5)
    monkeypatch.setattr(validation, "OFFICIAL_CLASSES", {5: 472})
    return {1: 5, 2: 999, 3: 10, 4: 5, 5: 472}


def test_a_synset_a_line_in_the_order_of_the_pictures(tmp_path, five):
    put(tmp_path, *five)
    path = tmp_path / "imagenet_2012_validation_synset_labels.txt"
    path.write_text("\n".join(SYNSETS[label] for label in five.values()))
    assert list(result(tmp_path).values()) == list(five.values())
    path.write_text("\n".join(SYNSETS[label] for label in list(five.values())[:4]))
    with pytest.raises(WrongData, match="has 4 labels without names"):
        validation_set(tmp_path)
    path.write_text("\n".join(["n0"] * 5))
    with pytest.raises(WrongData, match="line 1 names no class"):
        validation_set(tmp_path)


def test_the_devkits_numbers_need_the_devkits_table(tmp_path, five):
    savemat = pytest.importorskip("scipy.io", reason="the devkit's table is a Matlab file, which scipy reads").savemat
    put(tmp_path / "val", *five)
    folder = tmp_path / "devkit" / "data"
    folder.mkdir(parents=True)
    order = {label: 1000 - label for label in range(1000)}  # the devkit's own number of each class
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(str(order[label]) for label in five.values()))
    with pytest.raises(DataUnavailable, match="meta.mat must lie beside it"):
        validation_set(tmp_path)
    table = np.array([(order[i], SYNSETS[i]) for i in range(1000)], dtype=[("ILSVRC2012_ID", "i4"), ("WNID", "U9")])
    savemat(folder / "meta.mat", {"synsets": table})
    assert list(result(tmp_path).values()) == list(five.values())


def test_labels_in_another_order_are_noticed(tmp_path):
    put(tmp_path)
    (tmp_path / "val.txt").write_text("\n".join(f"{name(n)} {(c + 1) % 1000}" for n, c in CLASSES.items()))
    with pytest.raises(WrongData, match="ILSVRC2012_val_00000347.JPEG is of class 472 .*, its label is 473 .*another order"):
        validation_set(tmp_path)


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    monkeypatch.delenv("ZOO_DATA", raising=False)
    with pytest.raises(DataUnavailable, match="set ZOO_DATA"):
        validation_set()
    with pytest.raises(DataUnavailable, match="there is no folder"):
        validation_set(tmp_path / "nowhere")
    with pytest.raises(DataUnavailable, match="expected class folders"):
        validation_set(tmp_path)
    put(tmp_path)
    with pytest.raises(DataUnavailable, match="holds 5 pictures and no labels; expected beside them"):
        validation_set(tmp_path)
    (tmp_path / "val.txt").write_text(f"{name(1)} 5\n")
    with pytest.raises(DataUnavailable, match="no label for 4 of the 5 pictures, ILSVRC2012_val_00000002.JPEG for one"):
        validation_set(tmp_path)


def test_the_hubs_parquet_files(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="parquet files are read with pyarrow")
    from pyarrow import parquet

    (tmp_path / "data").mkdir()
    numbers = list(CLASSES)
    for shard, rows in enumerate((numbers[:2], numbers[2:])):
        images = [{"bytes": picture(n), "path": f"ILSVRC2012_val_{n:08d}_{SYNSETS[CLASSES[n]]}.JPEG"} for n in rows]
        table = pyarrow.table({"image": images, "label": [CLASSES[n] for n in rows]})
        parquet.write_table(table, tmp_path / "data" / f"validation-0000{shard}-of-00002.parquet")
    images = validation_set(tmp_path)
    assert images.labels.tolist() == list(CLASSES.values()) and len(images.digest()) == 64
    assert np.asarray(images[4][0])[0, 0, 0] == pytest.approx(347 % 256, abs=3)
    (tmp_path / "data" / "validation-00001-of-00002.parquet").write_bytes(b"PAR1")
    with pytest.raises(WrongData, match="is no parquet file of pictures"):
        validation_set(tmp_path)


def test_what_is_official(tmp_path):
    class Images:
        labels = np.arange(50_000) % 1000
        paths = [name(n) for n in range(1, 50_001)]

        def __len__(self):
            return len(self.paths)

    images = Images()
    assert not_official(images) is None
    images.paths = [*images.paths[:-1], name(1)]
    assert "are called ILSVRC2012_val_00000001 to ILSVRC2012_val_00050000" in not_official(images)
    images.paths, images.labels = Images.paths, np.append(Images.labels[:-1], 0)
    assert "50 pictures of each class, found 51 of class 0" in not_official(images)
    images.paths = images.paths[:-1]
    assert "has 50,000 pictures, found 49,999" in not_official(images)
