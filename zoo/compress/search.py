"""The price of a bit at which the file has the requested size."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from zoo.compress.layer import Rounded
from zoo.files import write

ATTEMPTS = 12  # prices tried until the bytes are met
FULL = 0.97  # of the requested bytes, at least
NEAR = 0.03  # closer to the goal than this share, steps stay as they are, and one more sweep at another price is enough


class Job(Protocol):
    """A network whose layers are rounded at any price: this zoo's (network.py) or any (modules.py)."""

    def statistics(self) -> None: ...

    def price(self, target_bits: float) -> float: ...

    def round(self, lam: float, folder: Path, previous: Mapping[str, Rounded] | None) -> Mapping[str, Rounded]: ...

    def compressed(self, rounded: Mapping[str, Rounded]) -> Any: ...

    def finish(self, adapted: Any, rounded: Mapping[str, Rounded], epochs: float, path: Path) -> Any: ...

    def groups(self, adapted: Any, rounded: Mapping[str, Rounded], lam: float) -> Any: ...

    def encode(self, groups: Any) -> bytes: ...


def search(job: Job, target: int, folder: Path, epochs: float = 0.0, tell: Callable[[str], None] = print) -> bytes:
    """A file of at most `target` bytes, and at least 99 % of them. `folder` keeps every attempt: a stopped search goes on.

    Raises ValueError where no price gives that.
    """
    job.statistics()
    path = folder / "search.json"
    state = json.loads(path.read_text()) if path.is_file() else {}
    if not state:
        state = {"lam": job.price(8 * target), "full": True, "tried": []}
        write(path, json.dumps(state).encode())
    rounded = None
    for attempt in range(ATTEMPTS):
        recorded = attempt < len(state["tried"])
        lam, new_steps = state["tried"][attempt][:2] if recorded else (state["lam"], state["full"])
        rounded = job.round(lam, folder / f"attempt-{attempt}", None if new_steps else rounded)
        if not recorded:
            size = len(job.encode(job.groups(job.compressed(rounded), rounded, lam)))
            state["tried"].append([lam, new_steps, size])
            error = sum(layer.error for layer in rounded.values())
            tell(f"{lam:.4g} nats a bit: {size:,} bytes of {target:,}, expected divergence {error:.4f}")
            state["lam"], state["full"] = _next_price(state["tried"], 0.9965 * target)
            write(path, json.dumps(state).encode())
        if 0.9905 * target <= state["tried"][attempt][2] <= 0.9985 * target:
            break
    else:
        attempt = _best(state["tried"], target)
        if attempt is not None:
            lam, rounded = state["tried"][attempt][0], job.round(state["tried"][attempt][0], folder / f"attempt-{attempt}", None)
    if attempt is None:
        raise ValueError(f"no price of a bit gives {target:,} bytes; tried (price, new steps, bytes): {state['tried']}")
    adapted = job.finish(job.compressed(rounded), rounded, epochs, folder / f"tuned-{epochs:g}.safetensors")
    for coarser in (1.0, 1.3, 1.7, 2.5, 4.0):
        blob = job.encode(job.groups(adapted, rounded, lam * coarser))
        if len(blob) <= target:
            return blob
    raise ValueError(f"BN's scales and biases take more than what was kept for them: {len(blob):,} bytes of {target:,}")


def _best(tried: list[list], target: int) -> int | None:
    """The attempt that fills the bound most, where sizes jump past it: of at least FULL of it."""
    fitting = [(size, number) for number, (_, _, size) in enumerate(tried) if FULL * target <= size <= 0.9985 * target]
    return max(fitting)[1] if fitting else None


def _next_price(tried: list[list], goal: float) -> tuple[float, bool]:
    """The next price, and whether to round anew at it; near the goal one more sweep with the present steps is enough.

    Log bytes are taken as linear in log price. The line goes through the attempts nearest to the goal on both sides, else
    through the last two of the same kind, with bounds on its slope: one more sweep changes the bytes far less than new steps.
    """
    lam, _, size = tried[-1]
    stuck = len(tried) > 2 and not tried[-1][1] and not tried[-2][1] and abs(size - goal) > abs(tried[-2][2] - goal) / 2
    new_steps = abs(math.log(size / goal)) > NEAR or stuck
    if stuck:
        lam, _, size = next(t for t in tried[::-1] if t[1])
    above = min((t for t in tried if t[1] and t[2] >= goal), key=lambda t: t[2], default=None)
    below = max((t for t in tried if t[1] and t[2] < goal), key=lambda t: t[2], default=None)
    if new_steps and above and below:
        share = math.log(goal / above[2]) / math.log(below[2] / above[2])
        return above[0] * math.exp(share * math.log(below[0] / above[0])), True
    slope, steepest, flattest = (-0.35, -1.0, -0.15) if new_steps else (-0.06, -0.5, -0.02)
    alike = [t for t in tried[:-1] if t[0] != lam and t[2] != size]
    if stuck:
        alike = [t for t in alike if t[1]]
    if alike and (new_steps or not tried[-1][1]):
        slope = min(max(math.log(alike[-1][2] / size) / math.log(alike[-1][0] / lam), steepest), flattest)
    return lam * math.exp(math.log(goal / size) / slope), new_steps


def parse_bytes(text: str) -> int:
    """"5.4MB", "400 kB", "123456": decimal units. Raises ValueError."""
    parsed = re.fullmatch(r"\s*([0-9.]+)\s*([kKM]?)B?\s*", text)
    if not parsed:
        raise ValueError(f"{text!r} is no size; write 5.4MB, 400kB or a number of bytes")
    return round(float(parsed[1]) * {"": 1, "k": 1e3, "K": 1e3, "M": 1e6}[parsed[2]])
