"""Model files on the Hugging Face Hub: a pinned revision, asked for only when it has to be, and checked."""

from __future__ import annotations

import json

import pytest
from conftest import random_model

import zoo
from zoo import files, registry, verify
from zoo.errors import ArtifactUnavailable, CorruptArtifact

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(entry, tmp_path, monkeypatch):
    """The entry's model file moved to a stand-in of the Hub; calls are recorded."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    class Hub:
        def __init__(self):
            self.remote, self.cache, self.calls, self.offline = tmp_path / "remote.zoo", tmp_path / "cache.zoo", [], False

        def download(self, repo_id, filename, *, revision, local_files_only=False):
            self.calls.append((repo_id, filename, revision, local_files_only))
            if self.cache.exists():
                return str(self.cache)
            if local_files_only:
                raise LocalEntryNotFoundError("not in the cache")
            if self.offline:
                raise ConnectionError("no route to host\nand a long tail")
            self.cache.write_bytes(self.remote.read_bytes())
            return str(self.cache)

    stand_in = Hub()
    stand_in.entry = entry.changed(hub={"repo": "someone/zoo", "revision": REVISION, "file": "a/model.zoo"})
    registry.save(stand_in.entry)
    entry.path.rename(stand_in.remote)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", stand_in.download)
    return stand_in


def test_the_hub_is_asked_once_and_says_so(hub, capsys):
    assert zoo.load(hub.entry.id).fc3.out_features == 10
    assert hub.calls == [("someone/zoo", "a/model.zoo", REVISION, True), ("someone/zoo", "a/model.zoo", REVISION, False)]
    assert "someone/zoo" in capsys.readouterr().err
    zoo.load(hub.entry.id)
    assert len(hub.calls) == 3 and hub.calls[-1][-1] is True
    assert capsys.readouterr().err == ""


def test_the_hub_is_never_asked_for_a_local_file(hub):
    hub.entry.path.write_bytes(hub.remote.read_bytes())
    zoo.load(hub.entry.id)
    assert hub.calls == []


def test_what_the_hub_gives_is_checked(hub):
    hub.remote.write_bytes(random_model(seed=9))
    with pytest.raises(CorruptArtifact, match="not the recorded one"):
        zoo.load(hub.entry.id)


def test_without_a_network_the_error_says_what_to_do(hub):
    hub.offline = True
    with pytest.raises(ArtifactUnavailable, match="no route to host. Put the file at") as caught:
        zoo.load(hub.entry.id)
    assert "\n" not in str(caught.value) and str(hub.entry.path) in str(caught.value)


@pytest.mark.parametrize("revision", ["main", REVISION[:12], None])
def test_a_revision_that_is_not_pinned_is_refused(hub, revision):
    record = hub.entry.record()
    record["hub"]["revision"] = revision
    (hub.entry.folder / "entry.json").write_text(json.dumps(record))
    with pytest.raises(CorruptArtifact, match="revision of 40 hex digits"):
        zoo.load(hub.entry.id)
    assert hub.calls == []


def test_verification_tells_a_missing_network_from_a_wrong_file(hub):
    hub.offline = True
    assert verify.check(hub.entry).status == "INCOMPLETE"
    hub.offline = False
    assert verify.check(hub.entry).ok
    hub.cache.write_bytes(random_model(seed=9))
    assert verify.check(hub.entry).status == "FAILED"


def test_the_real_client_finds_a_file_in_its_cache_without_a_network(entry, tmp_path, monkeypatch):
    """No stand-in: huggingface_hub itself, its cache filled by hand, as the Hub's layout has it."""
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    there = entry.changed(hub={"repo": "someone/zoo", "revision": REVISION, "file": "model.zoo"})
    blob = entry.path.read_bytes()
    entry.path.unlink()
    with pytest.raises(ArtifactUnavailable, match="could not be fetched"):
        registry.read(there)
    files.write(cache / "models--someone--zoo" / "snapshots" / REVISION / "model.zoo", blob)
    assert registry.read(there) == blob


@pytest.mark.parametrize("repo", ["no/such/repo", "a b/zoo", "someone/zoo.git"])
def test_a_repo_that_cannot_be_is_the_records_fault(entry, repo):
    there = entry.changed(hub={"repo": repo, "revision": REVISION, "file": "model.zoo"})
    entry.path.unlink()
    with pytest.raises(CorruptArtifact, match="names no file of the Hugging Face Hub"):
        registry.read(there)
    assert verify.check(there).status == "FAILED"
