"""Checkpoints: nested states come back, damage is named, and training goes on from the checkpoint before."""

import numpy as np
import pytest
import torch
import training_process
from safetensors.torch import save_file

from benchmarks.training import checkpoint, loop
from benchmarks.training.checkpoint import DamagedCheckpoint
from zoo import datasets

STATE = {
    "step": 3, "loss": 0.5, "log": ["a", "b"], "none": None, "kept": {"stage1": torch.tensor([1, 5])},
    "half": torch.randn(3, 4).to(torch.bfloat16), "scalar": torch.tensor(2.5), "empty": torch.empty(0, 3),
    "optimizers": [{"state": {0: {"exp_avg": torch.randn(5, 7).T}}}], "flag": torch.tensor([True, False]),
}  # fmt: skip


@pytest.fixture
def standin(monkeypatch):
    """Small pictures instead of MNIST."""
    monkeypatch.setattr(datasets, "load", datasets.load)
    monkeypatch.setattr(datasets, "HOLDOUT", datasets.HOLDOUT)
    training_process.use_standin()


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_a_state_comes_back(tmp_path):
    path = tmp_path / "deep" / "x.safetensors"
    checkpoint.save(path, STATE)
    assert same(STATE, checkpoint.load(path))
    assert [file.name for file in path.parent.iterdir()] == ["x.safetensors"]
    with pytest.raises(FileNotFoundError):
        checkpoint.load(tmp_path / "none.safetensors")
    assert checkpoint.latest(tmp_path / "none.safetensors") is None


def test_the_one_before_is_kept(tmp_path):
    path = tmp_path / "x.safetensors"
    for step in (1, 2, 3):
        checkpoint.save(path, STATE | {"step": step})
    assert checkpoint.load(path)["step"] == 3 and checkpoint.load(checkpoint.previous(path))["step"] == 2
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.previous.safetensors", "x.safetensors"]
    checkpoint.delete(path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("file_system", ["links", "none"])
def test_a_checkpoint_is_there_at_every_moment(tmp_path, monkeypatch, file_system):
    path, moments = tmp_path / "x.safetensors", []
    checkpoint.save(path, STATE | {"step": 1})
    if file_system == "none":
        monkeypatch.setattr(checkpoint.os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links")))
    replace = checkpoint.os.replace

    def watched(old, new):
        replace(old, new)
        moments.append(checkpoint.load(path)["step"])

    monkeypatch.setattr(checkpoint.os, "replace", watched)
    checkpoint.save(path, STATE | {"step": 2})
    assert moments == [1, 2]


def test_every_damaged_byte_is_found(tmp_path):
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, STATE)
    blob = path.read_bytes()
    draw = np.random.default_rng(0)
    for offset in {0, 8, 20, len(blob) - 1, *draw.integers(0, len(blob), 200).tolist()}:
        path.write_bytes(blob[:offset] + bytes([blob[offset] ^ 1 << int(draw.integers(8))]) + blob[offset + 1 :])
        try:
            state = checkpoint.load(path)
        except DamagedCheckpoint as error:
            assert str(path) in str(error)
        else:  # a byte that says nothing, such as a space between two fields
            assert same(STATE, state), offset
    for damaged in (blob[:-1], blob[:100], blob[:3], b"", blob + b"x", b"<html>not found</html>", bytes(1000)):
        path.write_bytes(damaged)
        with pytest.raises(DamagedCheckpoint, match="is damaged, or no checkpoint"):
            checkpoint.load(path)
    save_file({"a": torch.zeros(3)}, path)
    with pytest.raises(DamagedCheckpoint, match="no checkpoint"):
        checkpoint.load(path)


def zeros_in_a_tensor(path) -> None:
    """4,000 zeros where the first layer's numbers are."""
    blob = bytearray(path.read_bytes())
    start = len(blob) // 2
    assert any(blob[start : start + 4000])
    blob[start : start + 4000] = bytes(4000)
    path.write_bytes(blob)


@pytest.mark.parametrize("damage", [zeros_in_a_tensor, lambda path: path.write_bytes(path.read_bytes()[:9999])])
def test_training_goes_on_from_the_one_before_and_ends_alike(tmp_path, standin, capfd, damage):
    recipe = training_process.small(steps=60)
    whole = loop.run(recipe, 3, tmp_path / "whole").read_bytes()
    out = tmp_path / "damaged"
    loop.run(recipe, 3, out, stop_after=40)
    path = out / "checkpoint.safetensors"
    damage(path)
    capfd.readouterr()
    assert loop.run(recipe, 3, out).read_bytes() == whole
    said = capfd.readouterr().err
    assert f"{path} is damaged" in said and "training goes on from checkpoint.previous.safetensors" in said
    damage(path)
    damage(checkpoint.previous(path))
    with pytest.raises(DamagedCheckpoint, match="--restart begins anew"):
        loop.run(recipe, 3, out)
    assert loop.run(recipe, 3, out, resume=False).read_bytes() == whole
