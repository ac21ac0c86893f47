"""The zoo command: what it prints, what it returns, and what it does not import."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import make_entry, random_model
from PIL import Image

import zoo
from zoo import cli, datasets, measurement, registry
from zoo.errors import DataUnavailable

COMMANDS = ("list", "info", "show", "verify", "predict", "decode", "data")


def run(capsys, *argv):
    """(status, lines of stdout, stderr)"""
    status = cli.main([str(a) for a in argv])
    out, err = capsys.readouterr()
    return status, out.splitlines(), err


@pytest.mark.parametrize("argv", [["list"], ["info", "x"], ["--help"], ["verify", "--help"], ["verify", "x"], ["data"]])
def test_light_commands_do_not_import_torch(argv, tmp_path):
    code = (
        "import sys\nfrom zoo.cli import main\n"
        f"try: main({argv})\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'torchvision', 'timm', 'huggingface_hub') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_list_and_info_of_a_real_entry_do_not_import_torch(entry):
    code = (
        "import sys\nfrom pathlib import Path\nfrom zoo import registry\nfrom zoo.cli import main\n"
        f"registry.roots = lambda: [Path({str(entry.folder.parent)!r})]\n"
        f"assert main(['list']) == 0 and main(['info', {entry.id!r}]) == 0\n"
        "print([m for m in ('torch', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert entry.id in done.stdout and done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", [*COMMANDS, "data fetch", ""])
def test_every_command_explains_itself_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([*command.split(), "--help"])
    out = capsys.readouterr().out
    assert caught.value.code == 0 and f"example: zoo {command}" in " ".join(out.split())


def test_without_a_command_there_is_help(capsys):
    status, lines, _ = run(capsys)
    assert status == 2 and all(any(line.strip().startswith(c) for line in lines) for c in COMMANDS)


def test_the_module_runs_as_the_command():
    done = subprocess.run([sys.executable, "-m", "zoo", "info", "nobody"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("zoo: no entry is called 'nobody'")
    assert "Traceback" not in done.stderr and done.stdout == ""


def test_list(entry, artifacts, lenet_blob, capsys):
    make_entry(artifacts, "another", lenet_blob)
    status, lines, _ = run(capsys, "list")
    assert status == 0 and lines[0].split() == ["id", "network", "bytes", "ratio", "error"]
    assert lines[1].split() == ["another", "lenet300-100", f"{len(lenet_blob):,}", f"{entry.ratio:,.1f}x", "not", "measured"]
    assert lines[2].split()[-2:] == [f"{entry.top1_error:.2f}", "%"]
    assert [line.split()[0] for line in run(capsys, "list", "lenet*")[1][1:]] == [entry.id]
    status, lines, err = run(capsys, "list", "zzz*")
    assert status == 2 and lines == [] and err == f"zoo: no entry matches 'zzz*'; known: another, {entry.id}\n"
    (artifacts / "another" / "entry.json").write_text("{")
    status, lines, err = run(capsys, "list")
    assert status == 2 and lines[-1].startswith(entry.id) and "another" in err


def test_list_without_entries(artifacts, capsys):
    status, _, err = run(capsys, "list")
    assert status == 2 and str(artifacts) in err


def test_info(entry, capsys):
    status, lines, _ = run(capsys, "info", entry.id, "--json")
    assert status == 0 and json.loads("\n".join(lines)) == entry.record()
    registry.save(entry.changed(quoted="lenet300-100/epr-sq", seeds=({"seed": 0, "size_bytes": 5}, {"seed": 1}),
                                      versions={"torch": "2.13"}))  # fmt: skip
    text = "\n".join(run(capsys, "info", entry.id)[1])
    for words in (f"{entry.test_errors:,} of 200", "8.56 KB, 1.9 % (quoted", "torch 2.13", "seed 0, size_bytes 5\n", "266,610"):
        assert words in text
    assert "paper_bytes" not in text and "None" not in text


@pytest.mark.parametrize("network", ["lenet300-100", "lenet5-caffe"])
def test_show_accounts_for_every_byte(artifacts, network, capsys, tmp_path):
    path = tmp_path / "some.zoo"
    path.write_bytes(random_model(network))
    status, lines, _ = run(capsys, "show", path)
    assert status == 0 and f"in {path.stat().st_size:,} bytes" in lines[1]
    table = [line for line in lines[3 : lines.index("", 3)]]
    last = [float(line.split()[-1].replace(",", "")) for line in table[1:]]
    assert last[-1] == path.stat().st_size
    assert sum(last[:-1]) == pytest.approx(last[-1], abs=0.06 * len(last))
    _, groups = zoo.decode(path.read_bytes())
    assert [line.split()[0] for line in table[1 : 1 + len(groups)]] == list(groups)


def test_show_adds_the_counting_of_the_paper_where_the_record_has_it(capsys):
    record = registry.find("lenet5-caffe-lc-k2")
    status, lines, _ = run(capsys, "show", record.folder)
    assert status == 0 and f"{record.paper_bytes:,} bytes ({record.paper_counting})" in lines[-1]


def test_verify_prints_one_line_an_entry(entry, artifacts, lenet_blob, capsys):
    make_entry(artifacts, "another", lenet_blob)
    status, lines, _ = run(capsys, "verify", entry.id)
    assert status == 0 and len(lines) == 3
    assert re.fullmatch(
        rf"{entry.id} +{entry.size_bytes:,} bytes +{entry.test_errors} of 200 wrong \([\d.]+ %\) +[\d.]+ s  OK", lines[0]
    )
    assert lines[1] == "stated in records, not checked here: license, method, versions"
    assert lines[2] == "1 of 1 entries agree with their records"
    status, lines, _ = run(capsys, "verify", "--bytes-only", "--threads", torch.get_num_threads())
    assert status == 0 and len(lines) == 4 and "wrong" not in lines[0] and lines[1].endswith("OK")


def test_verify_fails_with_the_exact_difference(entry, capsys):
    blob = entry.path.read_bytes()
    entry.path.write_bytes(blob[:500] + blob[501:])
    status, lines, _ = run(capsys, "verify")
    assert status == 1 and lines[0].endswith("FAILED")
    assert f"expected {len(blob):,} bytes, found {len(blob) - 1:,}" in lines[1] and "that it declares" in lines[1]
    assert lines[-1] == "0 of 1 entries agree with their records"


def test_verify_goes_on_after_a_record_that_cannot_be_read(entry, artifacts, capsys):
    (artifacts / "broken").mkdir()
    (artifacts / "broken" / "entry.json").write_text("{")
    for names in ((), ("broken", entry.id)):
        status, lines, err = run(capsys, "verify", "--bytes-only", *names)
        assert status == 1 and err == "" and len(lines) == 5
        assert lines[0].startswith("broken") and "FAILED" in lines[0] and "cannot be read" in lines[1]
        assert lines[2].startswith(entry.id) and lines[2].endswith("OK")


def test_verify_without_data_or_entries_is_an_error(entry, monkeypatch, capsys):
    def refuse(*_):
        raise DataUnavailable("nothing there:\n  1. cache")

    monkeypatch.setattr(measurement, "test_images", refuse)
    status, lines, _ = run(capsys, "verify")
    assert status == 2 and lines[0].endswith("INCOMPLETE") and "--bytes-only" in lines[3]
    assert run(capsys, "verify", "--bytes-only")[0] == 0
    status, lines, err = run(capsys, "verify", "nobody")
    assert status == 2 and lines == [] and "nobody" in err
    status, _, err = run(capsys, "verify", "--device", "abacus")
    assert status == 2 and err.startswith("zoo: --device abacus: ") and err.count("\n") == 1
    monkeypatch.setattr(registry, "roots", lambda: [])
    status, _, err = run(capsys, "verify")
    assert status == 2 and "nothing to verify" in err


@pytest.mark.parametrize("threads", ["0", "-1", "two"])
def test_threads_are_a_positive_number(threads, capsys):
    with pytest.raises(SystemExit):
        cli.main(["verify", "--threads", threads])
    assert "positive" in capsys.readouterr().err


def test_predict(entry, tmp_path, capsys):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for i, path in enumerate(paths):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (28, 28), np.uint8)).save(path)
    status, lines, _ = run(capsys, "predict", entry.id, *paths)
    assert status == 0 and len(lines) == 12 and str(paths[1]) in lines[6]
    with torch.inference_mode():
        chances = zoo.load(entry.id)(zoo.transforms(entry.id)(Image.open(paths[0])))[0].softmax(0)
    assert lines[1].split() == [f"{100 * chances.max():.2f}", "%", str(int(chances.argmax()))]
    shares = [float(line.split()[0]) for line in lines[1:6]]
    assert shares == sorted(shares, reverse=True)
    assert len(run(capsys, "predict", entry.id, paths[0], "--top", 99)[1]) == 11


def test_predict_names_what_is_no_picture(entry, tmp_path, capsys):
    path = tmp_path / "text.png"
    path.write_text("no picture")
    assert "is no readable picture" in run(capsys, "predict", entry.id, path)[2]
    Image.new("RGB", (20, 10)).save(path)
    blob = bytearray(path.read_bytes())
    blob[blob.index(b"IDAT") - 1] = 5  # the length of the chunk
    path.write_bytes(blob)
    status, _, err = run(capsys, "predict", entry.id, path)
    assert status == 2 and err.startswith(f"zoo: {path} is no readable picture (broken PNG file")
    status, _, err = run(capsys, "predict", entry.id, path, tmp_path / "gone.png")
    assert status == 2 and err == f"zoo: no such file: {tmp_path / 'gone.png'}\n"


@pytest.mark.parametrize("change", [{"preprocessing": "fog"}, {"dataset": "fog"}])
def test_predict_with_a_wrong_record_says_so(entry, tmp_path, capsys, change):
    registry.save(entry.changed(**change))
    Image.new("L", (28, 28)).save(tmp_path / "a.png")
    status, _, err = run(capsys, "predict", entry.id, tmp_path / "a.png")
    assert status == 2 and err.startswith(f"zoo: the record of {entry.id} is wrong: no ") and "'fog'; there are" in err


def test_decode_writes_what_load_gives(entry, tmp_path, capsys):
    from safetensors import safe_open
    from safetensors.torch import load_file

    out = tmp_path / "deep" / "weights.safetensors"
    status, lines, _ = run(capsys, "decode", entry.id, out)
    assert status == 0 and f"{out.stat().st_size:,} bytes" in lines[0]
    expected = zoo.load(entry.id).state_dict()
    result = load_file(out)
    assert set(result) == set(expected) and all(torch.equal(result[k], v) for k, v in expected.items())
    with safe_open(out, "pt") as file:
        assert file.metadata()["network"] == "lenet300-100"
    entry.path.write_bytes(b"")
    status, _, err = run(capsys, "decode", entry.id, out)
    assert status == 2 and "empty" in err and len(load_file(out)) == len(expected)


def test_data(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    monkeypatch.delenv("ZOO_DATA", raising=False)
    status, lines, _ = run(capsys, "data")
    assert status == 0 and str(tmp_path) in lines[1]
    assert "not there yet" in lines[2] and "comes with the package" in lines[3]
    images = datasets.Images(np.zeros((3, 28, 28), np.uint8), np.zeros(3, np.uint8), "abc")
    monkeypatch.setattr(datasets, "load", lambda dataset, split: images)
    status, lines, _ = run(capsys, "data", "fetch", "mnist")
    assert status == 0 and lines == ["mnist train: 3 images, digest abc", "mnist test: 3 images, digest abc"]


def test_a_closed_pipe_and_files_that_cannot_be_written_are_no_tracebacks(entry, tmp_path, capsys):
    (tmp_path / "file").touch()
    status, _, err = run(capsys, "decode", entry.id, tmp_path / "file" / "x.safetensors")
    assert status == 2 and err.startswith("zoo: ") and err.count("\n") == 1
    code = "from zoo.cli import main\nraise SystemExit(main(['data']))"
    done = subprocess.run(f'"{sys.executable}" -c "{code}" | true', shell=True, capture_output=True, text=True, check=False)
    assert done.stderr == ""
