"""Whole entries on the Hugging Face Hub: pushed, loaded, verified and indexed with the real client against a local server."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import make_entry, random_model

import zoo
from zoo import cli, files, hub, registry, verify
from zoo.errors import ArtifactUnavailable, CorruptArtifact, UnknownModel, ZooError

REPO = "someone/lenet"


@pytest.fixture
def pushed(server, entry) -> str:
    """The stand-in entry on the stand-in of the Hub, and no longer here."""
    reference = hub.push(entry.id, REPO, report=lambda text: None)
    for path in entry.folder.iterdir():
        path.unlink()
    server.asked.clear()
    return reference


def contents(server) -> dict[str, bytes]:
    return server.repositories[REPO][-1][1]


# ----------------------------------------------------------------------------------------------- push


def test_an_entry_is_pushed_in_one_commit_with_a_card(server, entry, capsys):
    assert cli.main(["push", entry.id, "--repo", REPO]) == 0
    ((revision, stored),) = server.repositories[REPO]
    assert f'zoo.load("hf:{REPO}@{revision}")' in capsys.readouterr().out
    assert set(stored) == {"README.md", "entry.json", "golden.json", "model.zoo", "predictions.npy"}
    assert all(stored[path.name] == path.read_bytes() for path in entry.folder.iterdir())
    head, text = stored["README.md"].decode().split("---\n", 2)[1:]
    data = yaml.safe_load(head)
    assert data["license"] == "apache-2.0" and data["library_name"] == "zoo" and data["datasets"] == ["mnist"]
    (result,) = data["model-index"][0]["results"]
    assert data["model-index"][0]["name"] == entry.id
    assert result["dataset"] == {"name": "MNIST", "type": "mnist", "split": "test"}
    metrics = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert metrics == {
        "accuracy": 1 - entry.test_errors / 200, "top1_error": entry.top1_error, "size_bytes": entry.size_bytes,
    }  # fmt: skip
    for word in (f'zoo.load("hf:{REPO}")', entry.sha256, f"{entry.test_errors} of 200", "## Licence\n\nApache-2.0"):
        assert word in text


def test_a_card_says_where_an_entry_comes_from():
    from zoo import card

    text = card.render(registry.find("resnet50-dft"), REPO)
    head = yaml.safe_load(text.split("---\n", 2)[1])
    assert head["license"] == "other" and head["license_name"] == "see-below" and "model-index" not in head
    assert "Compressed from the weights keras/resnet50" in text and "whose images are for non-commercial research" in text
    text = card.render(registry.find("lenet300-100-min"), REPO)
    assert "benchmarks/recipes/lenet300-100-min.toml" in text and "answers of lenet300-100-ref" in text and "8.56 KB" in text


def test_pushing_again_is_a_commit_and_another_entry_is_refused(server, entry, artifacts, capsys):
    first = hub.push(entry.id, REPO)
    assert hub.push(entry.id, REPO) != first and len(server.repositories[REPO]) == 2
    other = make_entry(artifacts, "lenet300-100-other", random_model(seed=6))
    with pytest.raises(ZooError, match="holds the entry lenet300-100-standin"):
        hub.push(other.id, REPO)
    files.write(entry.path, random_model(seed=7))
    with pytest.raises(CorruptArtifact, match="not the recorded one"):
        hub.push(entry.id, REPO)
    assert len(server.repositories[REPO]) == 2


def test_what_has_no_licence_or_no_record_is_not_published(server, entry, lenet_blob, tmp_path):
    registry.save(entry.changed(license=None))
    with pytest.raises(ZooError, match="states no license"):
        hub.push(entry.id, REPO)
    (tmp_path / "bare.zoo").write_bytes(lenet_blob)
    with pytest.raises(ZooError, match="has no record"):
        hub.push(tmp_path / "bare.zoo", REPO)
    assert server.asked == []


def test_a_hub_that_does_not_know_you_says_so(server, entry, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "another")
    assert cli.main(["push", entry.id, "--repo", REPO]) == 2
    error = capsys.readouterr().err
    assert "`hf auth login` says who you are" in error and error.count("\n") == 1


def test_a_large_file_moves_to_the_hub(server, entry):
    reference = hub.push(entry.id, REPO, move=True)
    assert not entry.path.exists()
    moved = registry.find(entry.id)
    assert (moved.hub.repo, moved.hub.revision) == (REPO, reference.partition("@")[2])
    assert zoo.load(entry.id).fc3.out_features == 10 and verify.check(moved, progress=False).ok


# ----------------------------------------------------------------------------------------------- load


def test_a_reference_stands_for_an_entry_everywhere_and_needs_the_network_once(server, pushed, capsys, mnist_standin):
    assert zoo.load(pushed).fc3.out_features == 10
    assert len([line for line in server.asked if line.startswith("GET") and line.endswith("/model.zoo")]) == 1
    server.close()
    server.asked.clear()
    assert zoo.load(pushed).fc3.out_features == 10 and server.asked == []
    actual = zoo.info(pushed)
    assert actual.id == "lenet300-100-standin" and zoo.classes(pushed)[7] == "7"
    assert zoo.transforms(pushed)(mnist_standin.pixels[:2]).shape == (2, 1, 28, 28)
    assert zoo.load_state_dict(pushed)["fc3.bias"].shape == (10,)
    assert zoo.measure(pushed, mnist_standin, progress=False).errors == actual.test_errors
    (outcome,) = verify.verify([pushed], progress=False)
    assert outcome.ok and outcome.errors == actual.test_errors
    capsys.readouterr()
    assert cli.main(["info", pushed]) == 0 and cli.main(["show", pushed]) == 0
    assert "lenet300-100" in capsys.readouterr().out


def test_a_branch_is_looked_up_and_falls_back_to_what_it_was(server, pushed):
    assert zoo.info(f"hf:{REPO}").folder.name == pushed.partition("@")[2]
    record = json.loads(contents(server)["entry.json"])
    later = server.commit(REPO, {"entry.json": json.dumps(record | {"method": "later"}).encode()})
    assert zoo.info(f"hf:{REPO}").method == "later" and zoo.info(f"hf:{REPO}@main").folder.name == later
    assert zoo.info(pushed).method == "plain"  # a commit stays what it is
    server.close()
    assert zoo.info(f"hf:{REPO}").method == "later"


def test_what_the_hub_gives_is_checked_by_the_record(server, pushed):
    good = contents(server)["model.zoo"]
    wrong = server.commit(REPO, {"model.zoo": random_model(seed=9)})
    with pytest.raises(CorruptArtifact, match="not the recorded one"):
        zoo.load(f"hf:{REPO}@{wrong}")
    assert zoo.load(pushed).fc3.out_features == 10
    cached = zoo.info(pushed).folder / "model.zoo"
    cached.resolve().write_bytes(good[:-1] + b"x")  # a cache that was damaged is mended
    assert zoo.load(pushed).fc3.out_features == 10 and cached.read_bytes() == good


def test_other_evidence_fails_verification(server, pushed, mnist_standin):
    content = io.BytesIO()
    np.save(content, np.zeros(200, np.uint8))
    changed = server.commit(REPO, {"predictions.npy": content.getvalue()})
    (outcome,) = verify.verify([f"hf:{REPO}@{changed}"], progress=False)
    assert outcome.status == "FAILED" and "predictions" in outcome.problems[0]


@pytest.mark.parametrize(
    "reference",
    ["hf:", "hf:lenet", "hf:a/b/c", "hf:a/b@", "hf:../b", "hf:a/b@../../c", "hf:a b/c", "hf:a/b@x y", "hf:-a/b", "hf:a/b.git"],
)
def test_what_is_no_reference_is_an_unknown_model(server, reference):
    with pytest.raises(UnknownModel):
        zoo.load(reference)
    assert [line for line in server.asked if "/resolve/" in line] == []


def test_what_the_hub_does_not_have_is_said_in_one_line(server, pushed):
    server.commit("someone/other", {"config.json": b"{}"})
    for reference, error, text in (
        ("hf:nobody/nothing", ArtifactUnavailable, "hf:nobody/nothing@main could not be fetched"),
        (f"hf:{REPO}@{'0' * 40}", ArtifactUnavailable, "could not be fetched"),
        ("hf:someone/other", UnknownModel, "holds no entry.json at main"),
    ):
        with pytest.raises(error, match=text) as caught:
            zoo.load(reference)
        assert "\n" not in str(caught.value)


def test_a_record_that_is_none_or_endless_is_refused(server, pushed, monkeypatch):
    broken = server.commit(REPO, {"entry.json": b"{}"})
    with pytest.raises(CorruptArtifact, match="is missing"):
        zoo.load(f"hf:{REPO}@{broken}")
    large = server.commit(REPO, {"golden.json": bytes(1000)})
    monkeypatch.setattr(hub, "LARGEST", 999)
    with pytest.raises(CorruptArtifact, match="golden.json has 1,000 bytes, expected at most 999"):
        zoo.load(f"hf:{REPO}@{large}")


def test_only_files_of_an_entry_are_fetched(server, pushed):
    more = server.commit(REPO, {"weights.pkl": b"\x80\x04", "sample-../../x.json": b"{}", "big.bin": b"x"})
    folder = zoo.info(f"hf:{REPO}@{more}").folder
    assert {path.name for path in folder.iterdir()} == {"entry.json", "golden.json", "predictions.npy"}


# ---------------------------------------------------------------------------------------------- index


def test_an_index_gives_ids_to_entries_on_the_hub(server, pushed, tmp_path, monkeypatch, capsys):
    zoos = tmp_path / "myzoo"
    assert cli.main(["index", str(zoos), f"hf:{REPO}"]) == 0
    assert registry.read_index(zoos / "index.json") == {"lenet300-100-standin": pushed}
    monkeypatch.setattr(registry, "roots", lambda: [zoos])
    assert zoo.list_models() == ["lenet300-100-standin"] and zoo.load("lenet300-100-standin").fc3.out_features == 10
    server.close()
    capsys.readouterr()
    assert cli.main(["list"]) == 0 and "lenet300-100-standin" in capsys.readouterr().out
    assert zoo.info("lenet300-100-standin").test_examples == 200
    with pytest.raises(UnknownModel, match="nearest: lenet300-100-standin"):
        zoo.load("lenet300-100-standing")


def test_an_index_is_made_of_a_collection_and_added_to(server, pushed, artifacts, tmp_path):
    make_entry(artifacts, "lenet300-100-other", random_model(seed=6))
    other = hub.push("lenet300-100-other", "someone/other")
    server.collections["someone/a-zoo-0123"] = [REPO]
    path = hub.make_index(tmp_path, ["https://huggingface.co/collections/someone/a-zoo-0123"])
    assert registry.read_index(path) == {"lenet300-100-standin": pushed}
    hub.make_index(tmp_path, ["hf:someone/other"])
    assert registry.read_index(path) == {"lenet300-100-other": other, "lenet300-100-standin": pushed}
    server.repositories["someone/copy"] = server.repositories[REPO]
    with pytest.raises(ZooError, match="both hold an entry"):
        hub.make_index(tmp_path, [f"hf:{REPO}", "hf:someone/copy"])
    with pytest.raises(ZooError, match="no collection someone/none"):
        hub.make_index(tmp_path, ["https://huggingface.co/collections/someone/none"])


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"entries": []}', '{"entries": {"a": 1}}', '{"entries": {"a": "hf:b/c"}}', '{"entries": {"a": "hf:b/c@"}}'],
)
def test_an_index_that_is_none_is_named(artifacts, content):
    (artifacts / "index.json").write_text(content, encoding="utf-8")
    with pytest.raises(CorruptArtifact, match="index.json"):
        zoo.list_models()


def test_an_index_that_calls_an_entry_otherwise_is_refused(server, pushed, artifacts):
    (artifacts / "index.json").write_text(json.dumps({"entries": {"resnet50-best": pushed}}), encoding="utf-8")
    with pytest.raises(CorruptArtifact, match="which holds lenet300-100-standin"):
        zoo.load("resnet50-best")


def test_the_command_line_loads_from_the_hub_in_a_fresh_process(server, pushed, tmp_path):
    """ZOO_ARTIFACTS and HF_ENDPOINT as a user sets them; `zoo list` imports no torch."""
    hub.make_index(tmp_path / "zoos", [f"hf:{REPO}"])
    settings = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home"), "ZOO_ARTIFACTS": str(tmp_path / "zoos")}
    code = (
        "import sys; from zoo import cli; assert cli.main(['list', 'lenet300-100-standin']) == 0; "
        "assert 'torch' not in sys.modules; assert cli.main(['show', 'lenet300-100-standin']) == 0"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, env=os.environ | settings, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("lenet300-100-standin") == 2, done.stderr
