"""The model card of an entry, from its record: how to load it, what was measured, licence and origin.

The head is the Hub's own metadata: licence, data set, and the measured numbers as a model index.
"""

from __future__ import annotations

import re

from zoo import datasets, registry
from zoo.records import Entry

HOME = "entropy-coded-zoo"


def render(entry: Entry, repo: str) -> str:
    """Text of README.md in the repository `repo` of the Hub."""
    from huggingface_hub import EvalResult, ModelCardData

    dataset = datasets.get(entry.dataset)
    facts = {"license": entry.license.lower()}
    if not re.fullmatch(r"[a-z0-9.-]+", facts["license"]):
        facts = {"license": "other", "license_name": "see-below"}
    results = None
    if entry.top1_error is not None:
        common = {"task_type": "image-classification", "dataset_type": entry.dataset, "dataset_name": dataset.title,
                  "dataset_split": "test", "task_name": "Image classification"}  # fmt: skip
        numbers = (
            ("accuracy", "Accuracy", 1 - entry.test_errors / entry.test_examples),
            ("top1_error", "Top-1 error, %", entry.top1_error),
            ("size_bytes", "Bytes of the whole file", entry.size_bytes),
        )
        results = [EvalResult(metric_type=kind, metric_name=name, metric_value=value, **common) for kind, name, value in numbers]
    data = ModelCardData(
        library_name="zoo", pipeline_tag="image-classification", datasets=[entry.dataset], model_name=entry.id,
        tags=["model-compression", "entropy-coding", entry.network, entry.method.replace(" ", "-")], eval_results=results,
        **facts,
    )  # fmt: skip
    return f"---\n{data.to_yaml()}\n---\n{_text(entry, repo, dataset.title)}"


def _text(entry: Entry, repo: str, dataset: str) -> str:
    """What people read."""
    rows = [("network", f"{entry.network}, {entry.parameters:,} parameters"), ("method", entry.method)]
    rows += [("bytes of the whole file", f"{entry.size_bytes:,} (1/{entry.ratio:,.1f} of 4 bytes a parameter)")]
    if entry.top1_error is not None:
        errors = f"{entry.test_errors:,} of {entry.test_examples:,} ({entry.top1_error:.2f} %)"
        rows += [(f"wrong on the test set of {dataset}", errors)]
    rows += [("SHA-256 of the file", f"`{entry.sha256}`"), ("SHA-256 of the decoded weights", f"`{entry.weights_sha256}`")]
    table = "\n".join(f"| {name} | {_cell(value)} |" for name, value in rows)
    decoded = ""
    if entry.decoded is not None:
        decoded = (f"\nThe bytes are those of `stream.bin`, which only {entry.decoded.decoder} reads; `model.zoo` holds the "
                   "weights that its authors say it gives, and the errors are those of these weights.\n")  # fmt: skip
    return f"""
# {entry.id}

One file, `model.zoo`, holds all that inference needs, entropy-coded.

```python
import zoo  # pip install {HOME}

network = zoo.load("hf:{repo}")  # hf:{repo}@REVISION for one commit, which is then found without a network
logits = network(zoo.transforms("hf:{repo}")(picture))
```

| | |
|:---|:---|
{table}
{decoded}
`zoo verify hf:{repo}` derives these numbers again from the file.

## Where it comes from

{_origin(entry)}

## Licence

{entry.license}
"""


def _origin(entry: Entry) -> str:
    """Recipe, source of the weights or authors, as the record has them."""
    sentences = []
    if entry.recipe is not None:
        digest = f"(SHA-256 `{entry.recipe_sha256}`)"
        sentences.append(f"Trained by the recipe `{entry.recipe}` of {HOME} {digest}, seed {entry.seed}.")
    if entry.warm_start:
        sentences.append(f"Training began with the weights of {entry.warm_start}.")
    if entry.teacher:
        sentences.append(f"It learned from the answers of {entry.teacher}, too.")
    if entry.selection:
        sentences.append(f"Choice of what ships: {entry.selection}.")
    if entry.weights_source is not None:
        source = entry.weights_source
        sentences.append(f"Compressed from the weights {source.source} (SHA-256 `{source.digest}`). "
                         f"Their licence: {source.license}.")  # fmt: skip
    if entry.submission is not None:
        sentences.append(f"Made by the authors of: {entry.submission.paper}. Training, as they state it: "
                         f"{entry.submission.training or 'not stated'}.")  # fmt: skip
    if entry.quoted in registry.quoted():
        row = registry.quoted()[entry.quoted]
        sentences.append(f"It stands beside a published result: {row.method}, {row.size}, {row.error:g} % ({row.source}).")
    versions = ", ".join(f"{name} {version}" for name, version in entry.versions.items())
    return "\n".join([*sentences, f"Measured with {versions}."] if versions else sentences) or "The record does not say."


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
