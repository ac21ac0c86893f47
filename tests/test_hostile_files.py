"""Files beside a model that lie, explode or hang: each is a clear error about its entry, and the others go on."""

from __future__ import annotations

import io
import json
import os
import resource
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
from conftest import make_entry
from PIL import Image

import zoo
from zoo import cli, datasets, evidence, files, preprocessing, records, registry, verify
from zoo.datasets import pictures
from zoo.errors import CorruptArtifact, UnknownModel, WrongData, ZooError

DEEP = b"[" * 100_000 + b"]" * 100_000


def npy(header: bytes, rest: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + rest


def npz() -> bytes:
    out = io.BytesIO()
    np.savez(out, np.zeros(200, np.uint8))
    return out.getvalue()


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("a", b"junk")
    return out.getvalue()


def golden(value: str) -> bytes:
    rows = [["0.0"] * 10 for _ in range(4)]
    rows[0][0] = value
    table = ", ".join("[" + ", ".join(row) + "]" for row in rows)
    return f'{{"logits": [{table}]}}'.encode()


SIDE_FILES = {
    "infinite": ("golden.json", golden("Infinity")),
    "no number": ("golden.json", golden("NaN")),
    "absurd": ("golden.json", golden("1e39")),
    "more absurd": ("golden.json", golden("1e400")),
    "a long integer": ("golden.json", golden("1" + "0" * 400)),
    "a longer integer": ("golden.json", golden("1" + "0" * 5000)),
    "large": ("golden.json", golden("1e30")),
    "deep": ("golden.json", DEEP),
    "deep inside": ("golden.json", b'{"logits": ' + DEEP + b"}"),
    "ragged": ("golden.json", b'{"logits": [[1.0], [1.0, 2.0]]}'),
    "empty": ("golden.json", b'{"logits": []}'),
    "long": ("golden.json", b" " * (evidence.LARGEST + 1)),
    "npz": ("predictions.npy", npz()),
    "zip": ("predictions.npy", zipped()),
    "zip junk": ("predictions.npy", b"PK\x03\x04" + bytes(100)),
    "no header": ("predictions.npy", npy(b"nonsense")),
    "code": ("predictions.npy", npy(b"__import__('os').system('true')")),
    "many": ("predictions.npy", npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000,)}\n", bytes(200))),
    "long header": ("predictions.npy", npy(b"{" + b" " * 60_000 + b"}")),
    "objects": ("predictions.npy", npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (200,)}\n", bytes(1600))),
    "cut": ("predictions.npy", npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (200,)}\n", bytes(199))),
    "record deep": ("entry.json", DEEP),
    "record long": ("entry.json", b" " * (records.LARGEST + 1)),
}


@pytest.mark.parametrize("kind", SIDE_FILES)
def test_a_hostile_side_file_is_an_error_of_its_entry_alone(entry, artifacts, lenet_blob, mnist_standin, kind):
    make_entry(artifacts, "another", lenet_blob, mnist_standin)
    name, content = SIDE_FILES[kind]
    (artifacts / "another" / name).write_bytes(content)
    tracemalloc.start()
    began = time.process_time()
    bad, good = verify.verify(progress=False)
    spent, peak = time.process_time() - began, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert bad.id == "another" and bad.status == "FAILED" and len(bad.problems) == 1
    assert name in bad.problems[0] or "golden outputs" in bad.problems[0]
    assert len(bad.problems[0]) < 2000 and good.id == entry.id and good.ok
    assert peak < 1e8 and spent < 20


@pytest.mark.parametrize("kind", ["deep", "long integer", "outside", "ragged", "label"])
def test_a_hostile_sample_is_refused(tmp_path, kind):
    rows = {"long integer": '[["a", 0, 0, 1' + "0" * 400 + "]]", "outside": '[["~root/x", 0, 0, 0]]', "ragged": '[["a", 0, 0]]',
            "label": '[["a", 0, "0", 0]]', "deep": DEEP.decode()}  # fmt: skip
    (tmp_path / "sample-a.json").write_text(f'{{"images": {rows[kind]}}}')
    with pytest.raises(CorruptArtifact, match=r"sample-a\.json"):
        evidence.read_sample(tmp_path / "sample-a.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": "../../etc/passwd"}, "inside the repository"),
        ({"recipe": "/etc/passwd"}, "inside the repository"),
        ({"recipe": "~root/x"}, "inside the repository"),
        ({"recipe": "a\\..\\b"}, "inside the repository"),
        ({"id": "../../x"}, "id is '../../x'"),
        ({"id": "x" * 300}, "id is"),
        ({"size_bytes": 10**400}, "size_bytes is"),
        ({"network": "n" * 300}, "network is"),
        ({"parameters": 1e300}, "parameters is"),
        ({"samples": [{"name": 1}]}, r"samples\[0\].name is 1.*samples\[0\].digest is missing"),
        ({"versions": {"torch": 2}}, "versions.torch is 2"),
        ({"schema": True}, "it has schema True, this version reads schema 1"),
        ({"schema": 2}, "it has schema 2, this version reads schema 1"),
    ],
)
def test_a_record_that_lies_is_refused_with_every_fault(entry, change, message):
    (entry.folder / "entry.json").write_text(json.dumps(entry.record() | change))
    with pytest.raises(CorruptArtifact, match=message):
        registry.find(entry.id)
    (outcome,) = verify.verify()
    assert outcome.status == "FAILED" and len(outcome.problems[0]) < 2000


@pytest.mark.parametrize("name", ["x" * 300, "~nosuchuser/x", "~nosuchuser/x.zoo", "a/" + "x" * 300, "a\0b", "\0.zoo"])
def test_names_that_cannot_be_are_unknown(entry, name, capsys):
    with pytest.raises(UnknownModel):
        zoo.load(name)
    assert cli.main(["info", name]) == 2 and capsys.readouterr().err.startswith("zoo: ")


def test_a_home_that_nobody_has_is_a_folder_that_is_not_there(monkeypatch):
    monkeypatch.setenv("ZOO_ARTIFACTS", "~nosuchuser/x")
    with pytest.raises(ZooError, match="ZOO_ARTIFACTS=~nosuchuser/x: no such folder"):
        zoo.list_models()


@pytest.mark.parametrize("bare", [False, True])
def test_of_a_file_that_is_too_long_only_one_byte_more_is_read(entry, tmp_path, bare):
    path = tmp_path / "bare.zoo" if bare else entry.path
    blob = entry.path.read_bytes()
    path.write_bytes(blob)
    os.truncate(path, 3 << 30)  # sparse
    tracemalloc.start()
    with pytest.raises(CorruptArtifact, match="3,221,225,472"):
        zoo.load(path if bare else entry.id)
    if not bare:
        (outcome,) = verify.verify()
        assert outcome.status == "FAILED" and f"expected {len(blob):,} bytes, found 3,221,225,472" in outcome.problems[0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6


def test_pipes_are_no_files(entry, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CorruptArtifact, match="no regular file"):
        files.read(tmp_path / "pipe", 10)
    (entry.folder / "golden.json").unlink()
    os.mkfifo(entry.folder / "golden.json")
    (outcome,) = verify.verify(bytes_only=True)
    assert "golden.json is no regular file" in outcome.problems[0]


# ------------------------------------------------------------------------------------------ pictures


def test_a_thread_of_pixels_is_refused_before_it_is_enlarged(tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for size in ((1, 20_000), (20_000, 1), (4, 401)):
        Image.new("L", size).save(tmp_path / "thin.png")
        with pytest.raises(WrongData, match="100 times as long as wide"):
            preprocessing.preprocess("imagenet")(pictures.read(tmp_path / "thin.png"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
    assert preprocessing.preprocess("imagenet")(Image.new("RGB", (4, 400))).shape == (3, 224, 224)
    with pytest.raises(WrongData, match="100 times as long as wide"):
        preprocessing.preprocess("mnist")(Image.new("L", (1, 20_000)))


def test_a_large_picture_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    Image.new("L", (400, 300)).save(tmp_path / "large.png")
    monkeypatch.setattr(pictures, "LARGEST", 400 * 300 - 1)
    with pytest.raises(WrongData, match=r"large\.png has 400 x 300 pixels"):
        pictures.read(tmp_path / "large.png")


ERRORS = (RuntimeError, NotImplementedError, AttributeError, KeyError, IndexError, TypeError, MemoryError)


@pytest.mark.parametrize("error", ERRORS)
def test_whatever_a_format_raises_is_told_with_the_pictures_name(tmp_path, monkeypatch, error):
    Image.new("RGB", (20, 10)).save(tmp_path / "1.png")

    def broken(self):
        raise error("inside of the format")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", broken)
    with pytest.raises(WrongData, match=r"1\.png is no readable picture"):
        pictures.read(tmp_path / "1.png")


def dds() -> bytes:
    """A texture in a pixel format that nobody has."""
    head = b"DDS " + (124).to_bytes(4, "little") + (0x1007).to_bytes(4, "little") + (8).to_bytes(4, "little") * 2
    return head.ljust(76, b"\0") + (32).to_bytes(4, "little") + (4).to_bytes(4, "little") + b"????" + bytes(200)


def spider() -> bytes:
    """A picture of electron microscopy whose header is whole, and nothing else."""
    header = np.zeros(256, ">f4")
    header[[0, 1, 4, 11, 12, 21, 22]] = 1, 16, 1, 16, 1, 1024, 1024
    return header.tobytes()


def test_postscript_is_never_run(tmp_path, monkeypatch, capsys, entry):
    path = tmp_path / "picture.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n%%EOF\n")
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("it was run"))
    with pytest.raises(WrongData, match=r"picture\.png is PostScript"):
        pictures.read(path)
    assert cli.main(["predict", entry.id, str(path)]) == 2 and "is PostScript" in capsys.readouterr().err


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 1e9])
def test_numbers_that_are_no_brightness_are_an_error_of_their_picture(entry, tmp_path, value, capsys):
    pixels = np.zeros((28, 28), np.float32)
    pixels[3, 4] = value
    Image.fromarray(pixels).save(tmp_path / "numbers.tif")
    Image.new("L", (28, 28)).save(tmp_path / "good.png")
    assert cli.main(["predict", entry.id, str(tmp_path / "numbers.tif"), str(tmp_path / "good.png")]) == 2
    out, err = capsys.readouterr()
    assert "numbers.tif" in err and "expected 0 to" in err and "good.png" in out


@pytest.mark.parametrize("content", [dds(), spider(), b"\0\0\0 ftypavif" + bytes(300), b"", b"GIF89a"])
def test_broken_files_of_rare_formats_are_named(entry, tmp_path, content, capsys):
    path = tmp_path / "picture.bin"
    path.write_bytes(content)
    assert cli.main(["predict", entry.id, str(path)]) == 2
    assert "picture.bin is no readable picture" in capsys.readouterr().err
    folder = tmp_path / "pictures"
    (folder / "cat").mkdir(parents=True)
    (folder / "cat" / "1.jpg").write_bytes(content)
    with pytest.raises(WrongData, match=r"cat/1\.jpg"):
        datasets.image_folder(folder, None)[0]
