"""The price of a bit at which the file has the requested size."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

from zoo.compress import tensors
from zoo.compress.network import Job
from zoo.files import write

ATTEMPTS = 12  # prices tried until the bytes are met
NEAR = 0.03  # closer to the goal than this share, steps stay as they are, and one more sweep at another price is enough


def compress(job: Job, target: int, folder: Path, epochs: float = 0.0) -> bytes:
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
            network = job.compressed(rounded)
            size = len(job.encode(job.groups(network, rounded, lam)))
            state["tried"].append([lam, new_steps, size])
            error = sum(layer.error for layer in rounded.values())
            print(f"{lam:.4g} nats a bit: {size:,} bytes of {target:,}, expected divergence {error:.4f}", flush=True)
            state["lam"], state["full"] = _next_price(state["tried"], 0.9965 * target)
            write(path, json.dumps(state).encode())
        if 0.9905 * target <= state["tried"][attempt][2] <= 0.9985 * target:
            break
    else:
        raise ValueError(f"no price of a bit gives {target:,} bytes; tried (price, new steps, bytes): {state['tried']}")
    network = job.compressed(rounded)
    path = folder / f"tuned-{epochs:g}.safetensors"
    if path.is_file():
        network.load_state_dict(tensors.load(path), strict=False)
    elif epochs:
        job.tune(network, epochs)
        vectors = {name: t for name, t in network.state_dict().items() if t.dim() == 1 and t.is_floating_point()}
        tensors.save(path, vectors)
    for coarser in (1.0, 1.3, 1.7, 2.5, 4.0):
        blob = job.encode(job.groups(network, rounded, lam * coarser))
        if len(blob) <= target:
            return blob
    raise ValueError(f"BN's scales and biases take more than what was kept for them: {len(blob):,} bytes of {target:,}")


def _next_price(tried: list[list], goal: float) -> tuple[float, bool]:
    """The next price, and whether to round anew at it; near the goal one more sweep with the present steps is enough.

    Log bytes are taken as linear in log price. The line goes through the attempts nearest to the goal on both sides, else
    through the last two of the same kind, with bounds on its slope: one more sweep changes the bytes far less than new steps.
    """
    lam, _, size = tried[-1]
    new_steps = abs(math.log(size / goal)) > NEAR
    above = min((t for t in tried if t[1] and t[2] >= goal), key=lambda t: t[2], default=None)
    below = max((t for t in tried if t[1] and t[2] < goal), key=lambda t: t[2], default=None)
    if new_steps and above and below:
        share = math.log(goal / above[2]) / math.log(below[2] / above[2])
        return above[0] * math.exp(share * math.log(below[0] / above[0])), True
    slope, steepest, flattest = (-0.35, -1.0, -0.15) if new_steps else (-0.06, -0.5, -0.02)
    alike = [t for t in tried[:-1] if t[0] != lam and t[2] != size]
    if alike and (new_steps or not tried[-1][1]):
        slope = min(max(math.log(alike[-1][2] / size) / math.log(alike[-1][0] / lam), steepest), flattest)
    return lam * math.exp(math.log(goal / size) / slope), new_steps


def parse_bytes(text: str) -> int:
    """"5.4MB", "400 kB", "123456": decimal units. Raises ValueError."""
    parsed = re.fullmatch(r"\s*([0-9.]+)\s*([kKM]?)B?\s*", text)
    if not parsed:
        raise ValueError(f"{text!r} is no size; write 5.4MB, 400kB or a number of bytes")
    return round(float(parsed[1]) * {"": 1, "k": 1e3, "K": 1e3, "M": 1e6}[parsed[2]])
