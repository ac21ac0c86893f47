"""python -m tests.fuzz --cases N: changed model files by the million, in parts that can be stopped and gone on with.

Case i is the same whenever and wherever it runs. A part of 1,000 cases ends in one JSON file of the state folder; parts that
are there are not run again. A case that breaks a promise is kept beside them as case-I.zoo, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import sys
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from . import mutation
from .check import check

PART = 1000


def main() -> int:
    """Runs the parts that are missing, then prints what all of them found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000, help="how many, rounded up to thousands (default: 10,000)")
    parser.add_argument("--state", type=Path, default=Path("runs/fuzz"), help="folder of the parts (default: runs/fuzz)")
    parser.add_argument("--share", default="1/1", help="which parts this process runs: 1/2 and 2/2 share them (default: 1/1)")
    parser.add_argument("--case", type=int, help="run this one case alone and print its outcome")
    options = parser.parse_args()
    if options.case is not None:
        outcome = check(mutation.run(program(options.case)))
        print(f"{outcome.kind}\n{dict(outcome.counts)}, {outcome.steps:,} of {outcome.allowed:,} steps, {outcome.seconds:.3f} s")
        return 0
    options.state.mkdir(parents=True, exist_ok=True)
    paths = [options.state / f"part-{i:06}.json" for i in range(-(-options.cases // PART))]
    number, shares = map(int, options.share.split("/"))
    for i in tqdm(range(number - 1, len(paths), shares), unit="part", disable=None):
        path = paths[i]
        if not path.exists():
            result = run_part(range(i * PART, (i + 1) * PART), options.state)
            partial = path.with_suffix(f".{os.getpid()}.part")
            partial.write_text(json.dumps(result))
            partial.replace(path)
    return report([json.loads(path.read_text()) for path in paths if path.exists()])


def program(case: int) -> mutation.Program:
    """The changes of case number `case`."""
    return mutation.draw(random.Random(f"case {case}"))


def run_part(cases, folder: Path) -> dict:
    """Outcome classes of some cases, the slowest and the one with most steps for what it may take, and the memory so far."""
    kinds, failures, slowest, busiest = Counter(), [], (0.0, -1), (0.0, -1)
    for case in cases:
        blob = mutation.run(program(case))
        try:
            outcome = check(blob)
        except AssertionError as error:
            (folder / f"case-{case}.zoo").write_bytes(blob)
            failures.append([case, str(error)[:300]])
            continue
        kinds[outcome.kind] += 1
        slowest = max(slowest, (outcome.seconds, case))
        busiest = max(busiest, (outcome.steps / max(outcome.allowed, 1), case))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return {"kinds": kinds, "failures": failures, "slowest": slowest, "busiest": busiest, "megabytes": memory}


def report(results: list[dict]) -> int:
    """Prints the sum of the parts; 1 where a promise was broken."""
    kinds = sum((Counter(counts["kinds"]) for counts in results), Counter())
    failures = [failure for counts in results for failure in counts["failures"]]
    for kind, count in kinds.most_common():
        print(f"{count:>9,}  {kind}")
    slowest, busiest = (max(counts[what] for counts in results) for what in ("slowest", "busiest"))
    print(f"{sum(kinds.values()) + len(failures):,} cases, {len(failures)} broken promises")
    print(f"slowest: case {slowest[1]}, {slowest[0]:.2f} s of processor time; most work: case {busiest[1]}, {busiest[0]:.0%} of "
          f"what it may take; highest memory of a process: {max(counts['megabytes'] for counts in results):,.0f} MB")  # fmt: skip
    for case, error in failures[:50]:
        print(f"case {case}: {error}")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
