"""How files are had and opened: downloads that resume, npm packages, gzip, xz and tar, each with a bound on its size.

Nothing here decides whether the data is right: `Dataset.checked` does, by the digest of what was decoded.
Everything raises WrongData for a file that is not what it should be, OSError for one that cannot be had.
"""

from __future__ import annotations

import functools
import gzip
import http.client
import io
import lzma
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

from zoo.errors import WrongData

CONNECT_SECONDS = 5.0  # until the first byte of an answer, name lookup included
STALL_SECONDS = 30.0  # npm gets this long on each try of its own
SLOWEST = 20_000  # bytes a second, over all that a download has taken: after STALL_SECONDS a slower one is given up
MOST_ANSWERS = 50  # connections that one download may take
LARGEST_FILE = 400_000_000  # bytes, decompressed or not; the CIFAR-10 archive has 170 MB, MNIST 47 MB
MOST_MEMBERS = 5_000  # of an archive, headers of long names included
LARGEST_HEADER = 1 << 16  # bytes of such a header


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


# ---------------------------------------------------------------------------------------------- reading


def gunzip(blob: bytes, name: str, largest: int = LARGEST_FILE) -> bytes:
    """Decompress if it is gzip, else return it as it is: servers and people do both under either name.

    At most `largest` bytes are decompressed.
    """
    if blob[:2] != b"\x1f\x8b":
        return blob
    try:
        with gzip.open(io.BytesIO(blob)) as stream:
            plain = stream.read(largest + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise WrongData(f"{name}: damaged or truncated gzip file ({error})") from error
    if len(plain) > largest:
        raise WrongData(f"{name}: decompresses to more than {largest} bytes")
    return plain


def tar_reader(archive: Path, names: tuple[str, ...], largest: int) -> Callable[[str], bytes]:
    """Read the members called `names` (in whatever folder) of a tar.gz or tar.xz; nothing is unpacked to disk.

    At most as much is decompressed as that many members of `largest` bytes need, and a tenth more for others.
    """
    contents: dict[str, bytes] = {}
    limit = len(names) * largest * 11 // 10 + (1 << 24)
    with open(archive, "rb") as stream:
        head = stream.read(512)
    unpack = gzip.open if head[:2] == b"\x1f\x8b" else lzma.open if head[:6] == b"\xfd7zXZ\x00" else None
    if unpack is None:
        raise WrongData(f"{archive.name}: expected a tar.gz or tar.xz archive, found {describe(head)}")
    try:
        with unpack(archive) as plain, tarfile.open(
            fileobj=_Bounded(plain, limit, archive.name), mode="r|", bufsize=1 << 18, tarinfo=_members(archive.name)
        ) as tar:
            for member in tar:
                if tar.offset > limit:  # where the next one stands: a stream is read to there, also beyond its end
                    raise WrongData(f"{archive.name}: decompresses to more than {limit} bytes ({member.name[:80]!r} is long)")
                name = member.name.rsplit("/", 1)[-1]
                if name in names and member.isfile():
                    if member.size > largest:
                        raise WrongData(f"{archive.name}: {name} has {member.size} bytes, at most {largest} "
                                        "expected")
                    contents[name] = tar.extractfile(member).read()
    except WrongData:
        raise
    except Exception as error:  # tarfile raises what its conversions do at a broken header
        raise WrongData(f"{archive.name}: damaged or truncated archive ({error})") from error
    missing = [name for name in names if name not in contents]
    if missing:
        raise WrongData(f"{archive.name}: no {', '.join(missing)} in this archive")
    return contents.__getitem__


class _Bounded:
    """A stream of which no more than `limit` bytes are read: a small file may decompress to any number."""

    def __init__(self, stream, limit: int, name: str):
        self.stream, self.left, self.limit, self.name = stream, limit, limit, name

    def read(self, size: int) -> bytes:
        content = self.stream.read(size)
        self.left -= len(content)
        if self.left < 0:
            raise WrongData(f"{self.name}: decompresses to more than {self.limit} bytes")
        return content


def _members(archive: str) -> type[tarfile.TarInfo]:
    """How the headers of one archive are read: no more than MOST_MEMBERS of them, none longer than LARGEST_HEADER."""

    class Member(tarfile.TarInfo):
        count = 0

        @classmethod
        def frombuf(cls, buf, encoding, errors):
            member = super().frombuf(buf, encoding, errors)
            Member.count += 1
            if Member.count > MOST_MEMBERS:
                raise WrongData(f"{archive}: more than {MOST_MEMBERS} members")
            if not (member.isreg() or member.isdir() or member.issym() or member.islnk()) and member.size > LARGEST_HEADER:
                raise WrongData(f"{archive}: a header of {member.size} bytes, at most {LARGEST_HEADER} expected")
            return member

    return Member


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
    connection cut on the way is taken up again as long as each try brings something, MOST_ANSWERS times at most.
    After STALL_SECONDS a download slower than SLOWEST is given up, so one of LARGEST_FILE ends within six hours.

    Raises WrongData when a web page comes instead of a file, OSError when nothing or only a part can be had.
    """
    from tqdm import tqdm

    path.parent.mkdir(parents=True, exist_ok=True)
    partial, tag = path.with_name(path.name + ".part"), path.with_name(path.name + ".part.tag")
    started, received, answers, announced = time.monotonic(), 0, 0, None
    while True:
        answers += 1
        if answers > MOST_ANSWERS:
            raise OSError(f"{url}: broke off {MOST_ANSWERS} times")
        have = had = partial.stat().st_size if partial.exists() and tag.exists() else 0
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
                partial.unlink()
                continue
            raise OSError(f"{url}: HTTP {error.code} {error.reason}") from error
        except urllib.error.URLError as error:
            raise OSError(f"{url}: {error.reason}") from error
        except (http.client.HTTPException, ValueError) as error:  # ValueError: a redirect to what is no address
            raise OSError(f"{url}: no answer in HTTP ({error!r})") from error
        with answer:
            if "html" in answer.headers.get("Content-Type", ""):
                raise WrongData(f"{url}: a web page came instead of the file (a log-in or error page?)")
            span = re.fullmatch(r"bytes (\d{1,15})-\d{1,15}/(\d{1,15})", answer.headers.get("Content-Range", ""), re.ASCII)
            if answer.status == 206 and span and int(span[1]) == have:
                total = int(span[2])
                if announced is not None and total != announced:
                    raise OSError(f"{url}: a file of {announced} bytes that became one of {total}")
            else:
                have = 0
                total = _length(url, answer.headers.get("Content-Length"))
                validator = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
                tag.unlink(missing_ok=True)
                partial.write_bytes(b"")
                if validator and not validator.startswith("W/"):
                    tag.write_text(validator)
            announced = total
            if total is not None and total > LARGEST_FILE:
                raise WrongData(f"{url}: announces {total} bytes, more than {LARGEST_FILE} bytes")
            length = have
            try:
                with open(partial, "ab") as out, tqdm(
                    total=total, initial=have, unit="B", unit_scale=True, desc=path.name, disable=None
                ) as bar:
                    while chunk := answer.read1(1 << 18):
                        length += len(chunk)
                        if length > (LARGEST_FILE if total is None else total):
                            raise WrongData(f"{url}: sends more than {LARGEST_FILE if total is None else total} bytes")
                        received += len(chunk)
                        _fast_enough(url, received, time.monotonic() - started)
                        out.write(chunk)
                        bar.update(len(chunk))
            except _TooSlow:
                raise
            except (OSError, EOFError, http.client.HTTPException) as error:  # timeouts, resets, cut chunks on the way
                cut: Exception | None = error
            else:
                cut = None
        if cut is None and (total is None or length == total):
            break
        if length <= had or not tag.exists():  # a host that ignores Range begins anew each time
            raise OSError(f"{url}: broke off after {length} of {total} bytes" + (f" ({cut})" if cut else ""))
    os.replace(partial, path)
    tag.unlink(missing_ok=True)


class _TooSlow(OSError):
    """Another source is asked; what came stays for the next call."""


def _fast_enough(url: str, received: int, seconds: float) -> None:
    if seconds > STALL_SECONDS and received < SLOWEST * seconds:
        raise _TooSlow(f"{url}: {received} bytes in {seconds:.0f} s, which is slower than {SLOWEST} bytes a second")


def _length(url: str, text: str | None) -> int | None:
    """Content-Length, None where there is none."""
    if not text:
        return None
    if not re.fullmatch(r"\d{1,15}", text.strip(), re.ASCII):
        raise OSError(f"{url}: Content-Length {text[:20]!r} is no number of bytes")
    return int(text)


@contextmanager
def discarded(*paths: Path) -> Iterator[None]:
    """Remove downloads once they were read, or found to be wrong; keep them when reading was interrupted."""
    try:
        yield
    except WrongData:
        for path in paths:
            path.unlink(missing_ok=True)
        raise
    for path in paths:
        path.unlink(missing_ok=True)


def clean_packages(folder: Path) -> None:
    """Removes what `npm_pack` leaves in `folder` when it is killed. No other process may be at work there."""
    for place in folder.glob("npm-*"):
        shutil.rmtree(place, ignore_errors=True)


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
