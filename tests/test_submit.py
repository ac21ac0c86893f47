"""Results from elsewhere: model files that another program wrote, streams with a decoder of their own, quoted numbers."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from conftest import random_model, standin_images
from safetensors.torch import save_file

import zoo
from benchmarks import __main__ as commands
from benchmarks import quote
from benchmarks.report import figures, leaderboard, page, records, standing
from zoo import cli, measurement, networks, registry, verify

PAPER = "A. Author 2026: Small Networks (arXiv:2601.00001)"
ID = "lenet300-100-theirs"


def submit(artifacts, file, *more: str, id: str = ID) -> int:
    words = ["submit", str(file), "--id", id, "--method", "theirs", "--paper", PAPER, "--out", str(artifacts), *more]
    return commands.main([str(word) for word in words])


@pytest.fixture
def file(tmp_path, lenet_blob):
    path = tmp_path / "theirs.zoo"
    path.write_bytes(lenet_blob)
    return path


@pytest.fixture
def weights(tmp_path):
    """float32 weights that a program of theirs decoded, in the network's names."""
    torch.manual_seed(3)
    state = networks.build("lenet300-100").state_dict()
    save_file(state, tmp_path / "decoded.safetensors")
    return tmp_path / "decoded.safetensors"


@pytest.fixture
def stream(tmp_path):
    path = tmp_path / "theirs.bin"
    path.write_bytes(bytes(range(256)) * 5)
    return path


def closed(artifacts, stream, weights, *more: str, id: str = ID) -> int:
    how = ("--decoded", weights, "--decoder", "https://example.org/decoder", "--network", "lenet300-100")
    return submit(artifacts, stream, *how, *more, id=id)


# ------------------------------------------------------------------------------------------------- model files


def test_a_file_of_encode_becomes_an_entry_that_verifies(artifacts, file, mnist_standin, capsys):
    assert submit(artifacts, file, "--training", "60 epochs, Adam", "--quoted", "lenet300-100/epr-sq") == 0
    entry = registry.find(ID)
    assert entry.submission.paper == PAPER and entry.submission.training == "60 epochs, Adam"
    assert (entry.recipe, entry.seed, entry.seeds, entry.license) == (None, None, (), "Apache-2.0")
    assert (entry.method, entry.quoted, entry.partitioning) == ("theirs", "lenet300-100/epr-sq", "paper")
    assert entry.test_examples == len(mnist_standin) and (artifacts / ID / "model.zoo").read_bytes() == file.read_bytes()
    assert sorted(p.name for p in entry.folder.iterdir()) == ["entry.json", "golden.json", "model.zoo", "predictions.npy"]
    outcome = verify.check(entry, progress=False)
    assert outcome.ok and {"submission", "method", "license"} <= set(outcome.stated)
    assert f"zoo verify {ID}" in capsys.readouterr().out


@pytest.mark.data
def test_a_file_of_save_becomes_an_entry_on_the_real_test_set(artifacts, tmp_path):
    """MNIST's test set ships with the package."""
    good = zoo.load(registry.PACKAGE.parent / "artifacts" / "lenet300-100-sq")
    zoo.save(good, tmp_path / "saved.zoo", bits=3, name="lenet300-100")
    assert submit(artifacts, tmp_path / "saved.zoo") == 0
    entry = registry.find(ID)
    assert entry.partitioning == "" and entry.test_examples == 10_000 and entry.test_errors < 300
    assert entry.size_bytes == (tmp_path / "saved.zoo").stat().st_size and entry.paper_bytes is None
    assert verify.check(entry, progress=False).ok
    groups, overhead = page._anatomy(entry)
    assert sum(p["coded"] + p["side"] for p in groups) + overhead == pytest.approx(entry.size_bytes) and len(groups) >= 2


def test_the_method_of_the_zoo_does_not_count_a_file_that_describes_itself(artifacts, tmp_path, mnist_standin):
    zoo.save(networks.build("lenet300-100"), tmp_path / "saved.zoo", bits=2, name="lenet300-100")
    assert submit(artifacts, tmp_path / "saved.zoo", "--method", "epr") == 0
    entry = registry.find(ID)
    assert entry.paper_bytes is None and entry.partitioning == "" and verify.check(entry, progress=False).ok


@pytest.mark.parametrize(
    ("id", "more", "complaint"),
    [
        ("mine", (), "the id reads lenet300-100-<what it is>"),
        ("lenet300-100-Mine", (), "in small letters"),
        ("vgg16-mine", (), "the id reads lenet300-100-<what it is>"),
        (ID, ("--quoted", "nobody/nothing"), "no key of zoo/quoted.json"),
        (ID, ("--paper", " "), "--paper: nothing is said"),
        (ID, ("--preprocessing", "nothing"), "preprocessing 'nothing' is not known"),
        (ID, ("--decoder", "https://example.org"), "needs --decoded and --network, too"),
    ],
)
def test_what_no_entry_can_have_is_refused_and_nothing_written(artifacts, file, mnist_standin, id, more, complaint, capsys):
    assert submit(artifacts, file, *more, id=id) == 1
    assert complaint in capsys.readouterr().err and list(artifacts.iterdir()) == []


def test_a_network_on_another_data_set_is_measured_on_that(artifacts, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(measurement, "test_images", lambda dataset, root=None: asked.append(dataset) or standin_images())
    for network in ("lenet300-100:fashion-mnist", "lenet300-100:7"):
        (tmp_path / "theirs.zoo").write_bytes(random_model(network))
        submit(artifacts, tmp_path / "theirs.zoo", id="lenet300-100-fashion-mnist-theirs")
    assert asked == ["fashion-mnist"] and registry.find("lenet300-100-fashion-mnist-theirs").dataset == "fashion-mnist"
    assert "with the classes of their data set, not of lenet300-100:7" in capsys.readouterr().err


def test_files_that_are_no_entries_are_refused(artifacts, tmp_path, mnist_standin, capsys):
    nameless = tmp_path / "nameless.zoo"
    zoo.save(networks.build("lenet300-100"), nameless, bits=2)
    other, broken = tmp_path / "other.bin", tmp_path / "broken.zoo"
    other.write_bytes(b"something else entirely")
    broken.write_bytes(random_model()[:-40])
    for path, complaint in ((nameless, "names no network"), (other, "needs --decoded"), (broken, "")):
        assert submit(artifacts, path) == 1
        assert complaint in capsys.readouterr().err and list(artifacts.iterdir()) == []


def test_an_id_keeps_its_bytes(artifacts, file, mnist_standin, capsys):
    assert submit(artifacts, file) == 0 and submit(artifacts, file) == 0
    file.write_bytes(random_model(seed=5))
    assert submit(artifacts, file) == 1
    assert "bytes under an id never change" in capsys.readouterr().err


# ------------------------------------------------------------------------------------- decoders of their authors


def test_a_closed_stream_is_measured_on_the_weights_of_its_own_decoder(artifacts, stream, weights, mnist_standin, capsys):
    assert closed(artifacts, stream, weights) == 0
    assert "measured by its authors' decoder" in capsys.readouterr().out
    entry = registry.find(ID)
    assert entry.size_bytes == 1280 == (entry.folder / "stream.bin").stat().st_size
    assert entry.ratio == pytest.approx(4 * 266_610 / 1280)
    assert entry.model_bytes == entry.path.stat().st_size and entry.decoded.decoder == "https://example.org/decoder"
    wanted = networks.build("lenet300-100")
    wanted.load_state_dict(zoo.load_state_dict(ID))
    torch.manual_seed(3)
    for name, tensor in networks.build("lenet300-100").state_dict().items():
        assert torch.equal(zoo.load(ID).state_dict()[name], tensor)
    outcome = verify.check(entry, progress=False)
    assert outcome.ok and outcome.size_bytes == 1280 and "their word" in outcome.notes[0]
    assert cli.main(["list"]) == 0
    out = capsys.readouterr().out
    assert "1,280*" in out and "only its authors' decoder reads" in out


def test_another_stream_or_other_weights_fail_verification(artifacts, stream, weights, mnist_standin):
    assert closed(artifacts, stream, weights) == 0
    entry = registry.find(ID)
    path = entry.folder / "stream.bin"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"x")
    assert "stream.bin is not the recorded one" in verify.check(entry, progress=False).problems[0]
    path.write_bytes(content + b"x")
    assert "expected at most 1,280" in verify.check(entry, progress=False).problems[0]
    path.unlink()
    assert verify.check(entry, progress=False).status == "FAILED"
    path.write_bytes(content)
    entry.path.write_bytes(random_model(seed=4))
    assert "model.zoo: expected" in verify.check(entry, progress=False).problems[0]


def test_a_stream_keeps_its_bytes_and_a_model_file_needs_no_decoder(artifacts, stream, weights, file, mnist_standin, capsys):
    assert closed(artifacts, stream, weights) == 0
    stream.write_bytes(b"shorter")
    assert closed(artifacts, stream, weights) == 1
    assert "holds another stream" in capsys.readouterr().err
    assert closed(artifacts, file, weights, id="lenet300-100-other") == 1
    assert "without --decoded" in capsys.readouterr().err


def test_weights_of_another_network_or_no_numbers_are_refused(artifacts, stream, tmp_path, mnist_standin, capsys):
    state = networks.build("lenet300-100").state_dict()
    wrong = {
        "renamed": {f"net.{name}": tensor for name, tensor in state.items()},
        "endless": {name: tensor / 0 for name, tensor in state.items()},
    }
    for name, complaint in (("renamed", "not the tensors of lenet300-100"), ("endless", "not finite")):
        save_file(wrong[name], tmp_path / name)
        assert closed(artifacts, stream, tmp_path / name) == 1
        assert complaint in capsys.readouterr().err
    (tmp_path / "pickled").write_bytes(b"\x80\x04}q\x00.")
    assert closed(artifacts, stream, tmp_path / "pickled") == 1
    assert "no whole safetensors file" in capsys.readouterr().err and list(artifacts.iterdir()) == []


# --------------------------------------------------------------------------------------- leaderboard and page


@pytest.fixture
def shelf(artifacts, file, stream, weights, mnist_standin):
    """A submitted file, and a stream that is smaller and no more wrong: it must beat nobody."""
    assert submit(artifacts, file, "--training", "an evening | on a laptop") == 0
    assert closed(artifacts, stream, weights, id="lenet300-100-closed") == 0
    return records.read_entries(artifacts)


def test_the_leaderboard_keeps_authors_decoders_apart(shelf):
    closed, opened = sorted(shelf, key=lambda e: e.decoded is None)
    assert [p.name for p in records.points(shelf)] == [opened.id]
    text = leaderboard.render(shelf, [])
    measured, decoded = text.split(leaderboard.DECODED)
    assert f"[{opened.id}]" in measured and f"[{closed.id}]" not in measured
    assert f"[{closed.id}]" in decoded and "https://example.org/decoder" in decoded
    assert "stated by its authors: an evening \\| on a laptop" in measured and "not stated by its authors" in decoded
    assert "[arXiv:2601.00001](https://arxiv.org/abs/2601.00001)" in measured
    assert standing.against_smaller(closed, shelf) is None and standing.against_smaller(opened, shelf) is None
    assert "authors' decoders" in figures.specification("lenet300-100", shelf, [])["title"]["subtitle"]
    assert "●" in measured and closed.id not in leaderboard.readme_table(shelf, [])
    (row,) = [row for row in figures.rows("lenet300-100", shelf, []) if row["name"] == closed.id]
    assert row["kind"] == "decoded" and row["bytes"] == 1280


def test_the_page_shows_both(shelf, tmp_path, monkeypatch):
    import vl_convert

    monkeypatch.setattr(vl_convert, "javascript_bundle", lambda *_, **__: "")
    monkeypatch.setattr(page, "_pictures", lambda *_: None)
    page.build(tmp_path / "site", shelf, [])
    network = (tmp_path / "site/networks/lenet300-100.html").read_text(encoding="utf-8")
    assert "Measured by their authors&#39; decoder" in network or "Measured by their authors' decoder" in network
    assert network.index('id="entries"') < network.index(ID) < network.index('id="decoded"')
    entry = (tmp_path / "site/entries/lenet300-100-closed.html").read_text(encoding="utf-8")
    assert "bytes of the stream" in entry and "Against the best" not in entry
    assert "stream.bin" in entry and "only https://example.org/decoder reads" in entry and "Where the bytes go" not in entry
    entry = (tmp_path / f"site/entries/{ID}.html").read_text(encoding="utf-8")
    assert "From elsewhere: A. Author 2026" in entry and "an evening | on a laptop" in entry


# --------------------------------------------------------------------------------------------- quoted numbers

ANSWERS = {
    "network": "lenet5-caffe", "method": "Soft Weight Sharing", "size": "10.6 KB", "error": "0.97",
    "source": "Ullrich, Meeds, Welling 2017 (arXiv:1702.04008), table 1", "year": "2017", "counting": "integers and codebook",
}  # fmt: skip


@pytest.fixture
def list_file(tmp_path):
    return shutil.copy(quote.FILE, tmp_path / "quoted.json")


def quoting(path, *more: str, **changed) -> int:
    answers = ANSWERS | changed
    words = [word for name, answer in answers.items() if answer is not None for word in (f"--{name}", answer)]
    return commands.main(["quote", "--file", str(path), *words, *more])


def test_the_committed_list_is_as_the_command_writes_it():
    assert quote.to_bytes(quote.read()) == quote.FILE.read_bytes()


def test_a_quoted_number_goes_into_the_list_beside_its_network(list_file, monkeypatch):
    before = registry.quoted()
    assert quoting(list_file) == 0
    content = json.loads(list_file.read_text(encoding="utf-8"))
    keys = [row["key"] for row in content["results"]]
    at = keys.index("lenet5-caffe/soft-weight-sharing")
    assert keys[:at] + keys[at + 1 :] == list(before) and keys[at - 1].startswith("lenet5-caffe/")
    monkeypatch.setattr(registry, "PACKAGE", list_file.parent)
    registry.quoted.cache_clear()
    try:
        row = registry.quoted()["lenet5-caffe/soft-weight-sharing"]
    finally:
        registry.quoted.cache_clear()
    assert (row.size_bytes, row.error, row.year, row.counting) == (10_600, 0.97, 2017, "integers and codebook")
    assert row.source == ANSWERS["source"] and row.note == "quoted"
    (cells,) = leaderboard.quoted_rows([row])
    assert cells["counting"] == "integers and codebook" and cells["size, as printed"] == "10.6 KB"


def test_a_source_stands_there_once(list_file):
    assert quoting(list_file) == 0 and quoting(list_file, "--key", "lenet5-caffe/soft-weight-sharing-2", "--second-hand") == 0
    content = json.loads(list_file.read_text(encoding="utf-8"))
    assert sum(source["text"] == ANSWERS["source"] for source in content["sources"].values()) == 1
    assert content["results"][-1]["key"] == list(registry.quoted())[-1]


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"source": None, "year": None}, "a quoted result needs --source"),
        ({"counting": " "}, "--counting (what the size counts"),
        ({"network": "lenet9"}, "no network is called"),
        ({"size": "10 parsecs"}, "is no number with one of the units"),
        ({"size": "0 B"}, "size_bytes is 0"),
        ({"error": "about one"}, "error is 'about one'"),
        ({"error": "101"}, "error is 101"),
        ({"year": "17"}, "year is 17"),
        ({"network": "vgg16", "method": "EPR (DFT)", "size": "1 B"}, "is quoted already"),
    ],
)
def test_a_number_without_its_source_year_and_counting_is_not_quoted(list_file, changed, complaint, capsys):
    before = list_file.read_bytes()
    assert quoting(list_file, **changed) == 1
    assert complaint in capsys.readouterr().err and list_file.read_bytes() == before


def test_what_is_left_out_is_asked_for_on_a_terminal(list_file, monkeypatch):
    asked = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or "2017")
    assert quoting(list_file, year=None) == 0
    assert asked == ["year of the publication: "]


def test_not_stated_is_no_counting(list_file):
    assert quoting(list_file, counting="not stated", size="1,234 B") == 0
    row = next(r for r in quote.read(list_file).results if r.method == "Soft Weight Sharing")
    assert row.counting is None and row.size_bytes == 1234
