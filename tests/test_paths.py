"""A path works wherever an id works; what is printed can be read by programs; a bad picture stops nothing."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo import cli, networks


@pytest.fixture
def file(tmp_path):
    """A file that describes itself: LeNet300-100 of four classes."""
    torch.manual_seed(0)
    path = tmp_path / "mine.zoo"
    network = networks.build("lenet300-100:4")
    zoo.save(network, path, name="lenet300-100:4", preprocessing="mnist", classes=["a", "b", "c", "d"], step=0.1)
    return path


def out_of(capsys, *command: object):
    status = cli.main([str(word) for word in command])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_a_file_without_a_record(file, capsys):
    status, said, _ = out_of(capsys, "info", file)
    assert status == 0 and "lenet300-100:4" in said and "a, b, c, d" in said and "Preprocessing(name='mnist'" in said
    content = json.loads(out_of(capsys, "info", file, "--json")[1])
    assert content["classes"] == ["a", "b", "c", "d"] and content["size_bytes"] == file.stat().st_size
    status, said, _ = out_of(capsys, "show", file)
    assert status == 0 and "fc1.weight and 2 more" in said and "exact" in said
    (total,) = [line.split()[-1] for line in said.splitlines() if line.startswith("the whole file")]
    assert float(total.replace(",", "")) == file.stat().st_size
    content = json.loads(out_of(capsys, "show", file, "--json")[1])
    side_bytes = sum(g["psi_bytes"] + g["table_bytes"] for g in content["groups"])
    assert content["header_bytes"] + side_bytes + content["stream_bytes"] + 4 == file.stat().st_size
    status, said, _ = out_of(capsys, "verify", file)
    assert status == 0 and "has no record to compare with" in said
    file.write_bytes(file.read_bytes()[:-1])
    status, said, _ = out_of(capsys, "verify", file)
    assert status == 1 and "FAILED" in said


def test_an_entry_by_its_folder_and_by_its_file(entry, capsys):
    for place in (entry.id, entry.folder, entry.folder / "model.zoo"):
        assert zoo.info(place) == entry and zoo.classes(place) == tuple("0123456789")
        assert zoo.transforms(place) == zoo.transforms(entry.id)
        status, said, _ = out_of(capsys, "verify", place, "--bytes-only", "--json")
        assert status == 0 and json.loads(said)[0]["status"] == "OK"
    assert [row["id"] for row in json.loads(out_of(capsys, "list", "--json")[1])] == [entry.id]


def test_pictures_after_a_bad_one_are_classified(file, tmp_path, capsys):
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    Image.fromarray(np.zeros((30, 30), np.uint8)).save(good)
    bad.write_text("<html>")
    status, said, error = out_of(capsys, "predict", file, bad, good, "--top", 2)
    assert status == 2 and "bad.png is no readable picture" in error
    assert "good.png" in said and said.count("%") == 2
    status, said, _ = out_of(capsys, "predict", file, bad, good, "--json", "--device", "cpu")
    first, second = json.loads(said)
    assert "error" in first and len(second["classes"]) == 4 and {c["name"] for c in second["classes"]} == set("abcd")
    assert sum(c["probability"] for c in second["classes"]) == pytest.approx(1)
    assert out_of(capsys, "predict", file, good, "--device", "nonsense")[0] == 2


def test_the_version(capsys):
    assert out_of(capsys, "--version")[1] == f"zoo {zoo.__version__}\n"


def test_where_and_as_what_a_network_is_loaded(file):
    network = zoo.load(file, device="meta", dtype=torch.bfloat16)
    assert network.fc1.weight.is_meta and network.fc1.weight.dtype == torch.bfloat16
    assert (network.num_classes, network.input_size) == (4, (1, 28, 28))
