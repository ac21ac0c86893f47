"""Checkpoints as people have them, read without running code: files, shards, wrappers, and what is none."""

import collections
import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from zoo.compress import checkpoints
from zoo.compress.checkpoints import read
from zoo.errors import DataUnavailable, UnknownName, WrongData


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).state_dict()


def equal(a, b) -> bool:
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in b)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt", ".safetensors", ""])
def test_one_file(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(state(), path)
    else:
        torch.save(state(), path)
    result = read(path)
    assert set(result.state) == set(state()) and all(torch.equal(result.state[n], t) for n, t in state().items())
    assert not result.notes


WRAPPED = {
    "state_dict": lambda s: {"state_dict": s, "epoch": 3, "optimizer": {"state": {0: {"m": torch.ones(2)}}}},
    "model": lambda s: {"model": s, "args": {"lr": 0.1}},
    "ema": lambda s: {"ema": s, "step": torch.tensor(1.0), "epoch": 1, "name": "x"},
    "twice": lambda s: {"state_dict": {"model": s, "note": "x"}},
    "a model called by name": lambda s: {"model": "resnet18", "state_dict": s},
    "module.": lambda s: {f"module.{k}": v for k, v in s.items()},
    "compiled": lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
    "both": lambda s: {"state_dict": {f"module._orig_mod.{k}": v for k, v in s.items()}},
    "compiled inside": lambda s: {k.replace(".", "._orig_mod.", 1): v for k, v in s.items()},
    "averaged": lambda s: {"n_averaged": torch.tensor(5), **{f"module.{k}": v for k, v in s.items()}},
    "profiled": lambda s: {"total_ops": torch.zeros(1), "0.total_ops": torch.zeros(1), "0.total_params": torch.zeros(1), **s},
    "numbers beside": lambda s: {"epoch": 4, "_extra_state": None, **s},
    "parameters": lambda s: {k: nn.Parameter(v, requires_grad=False) for k, v in s.items()},
    "an ordered dict": lambda s: collections.OrderedDict(s),
}


@pytest.mark.parametrize("how", WRAPPED)
def test_weights_are_unwrapped(how, tmp_path):
    path = tmp_path / "a.pth"
    torch.save(WRAPPED[how](state()), path)
    assert equal(read(path).state, state())


def test_notes_say_what_was_chosen_and_left_out(tmp_path):
    path = tmp_path / "a.pth"
    other = {name: tensor + 1 for name, tensor in state().items()}
    torch.save({"state_dict": {f"module.{k}": v for k, v in state().items()}, "ema": other, "epoch": 1}, path)
    result = read(path)
    assert result.notes == ["taken from 'state_dict'; there is ema, too (--key)", "prefix 'module.' removed"]
    assert equal(read(path, "ema").state, other)
    with pytest.raises(WrongData, match="has no 'teacher'; there are state_dict, ema, epoch"):
        read(path, "teacher")


def test_a_module_called_module_stays_where_others_stand_beside_it(tmp_path):
    both = {"module.a": torch.ones(2), "head": torch.ones(2)}
    torch.save(both, tmp_path / "a.pth")
    assert equal(read(tmp_path / "a.pth").state, both)


def test_shards_and_folders(tmp_path):
    first, second = dict(list(state().items())[:2]), dict(list(state().items())[2:])
    save_file(first, tmp_path / "model-1.safetensors")
    index = {"weight_map": {name: "model-1.safetensors" for name in first} | {name: "model-2.safetensors" for name in second}}
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    with pytest.raises(DataUnavailable, match="lacks 1 of 2 shards: model-2"):
        read(tmp_path)
    save_file(second, tmp_path / "model-2.safetensors")
    for place in (tmp_path, path):
        assert {n: t.tolist() for n, t in read(place).state.items()} == {n: t.tolist() for n, t in state().items()}
    path.write_text(json.dumps({"weight_map": {"a": "../x.safetensors"}}))
    with pytest.raises(WrongData, match="outside its folder"):
        read(path)


class Surprise:
    def __reduce__(self):
        return print, ("code in a pickle ran",)


REFUSED = {
    "a pickle with code": (lambda p: torch.save({"a": Surprise()}, p), "can run any code; save its tensors alone"),
    "a whole module": (lambda p: torch.save(nn.Linear(2, 2), p), "torch.save\\(model.state_dict"),
    "a Git-LFS pointer": (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid x\n"), "git lfs pull"),
    "a web page": (lambda p: p.write_text("<!DOCTYPE html><html>log in</html>"), "HTML page"),
    "nothing": (lambda p: p.write_bytes(b""), "an empty file"),
    "something else": (lambda p: p.write_bytes(b"PK\3\4" + bytes(100)), "no checkpoint"),
    "noise": (lambda p: p.write_bytes(bytes(range(256))), "no checkpoint|Python objects"),
    "a list": (lambda p: torch.save([torch.ones(2)], p), "type list"),
    "a tensor": (lambda p: torch.save(torch.ones(2), p), "a single tensor"),
    "no tensors": (lambda p: torch.save({"epoch": 3}, p), "holds no tensors"),
    "TorchScript": (lambda p: torch.jit.save(torch.jit.script(nn.Linear(2, 2)), p), "TorchScript"),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_what_is_no_checkpoint_is_called_by_name(what, tmp_path, capsys):
    make, message = REFUSED[what]
    path = tmp_path / "a.pth"
    make(path)
    with pytest.raises(WrongData, match=message):
        read(path)
    assert "ran" not in capsys.readouterr().out


def test_a_cut_safetensors_file_and_a_missing_one(tmp_path):
    save_file(state(), tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:-3])
    with pytest.raises(WrongData, match="no whole safetensors"):
        read(tmp_path / "b.safetensors")
    with pytest.raises(DataUnavailable, match="no file"):
        read(tmp_path / "c.pth")
    with pytest.raises(DataUnavailable, match="has none of"):
        (tmp_path / "empty").mkdir()
        read(tmp_path / "empty")


def test_names_are_looked_up_before_anything_is_fetched(tmp_path, monkeypatch):
    with pytest.raises(UnknownName, match="nearest: .*resnet18"):
        checkpoints.find("torchvision/resnet18x")
    with pytest.raises(DataUnavailable, match="no file, and no name"):
        checkpoints.find("weights/of/mine.pth")
    save_file(state(), tmp_path / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repo, name: str(tmp_path / name))
    result, name = checkpoints.find("timm/resnet18.tv_in1k")
    assert name == "timm/resnet18.tv_in1k" and set(result.state) == set(state())
    assert checkpoints.find("somebody/network")[1] == ""
