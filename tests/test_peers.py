"""`python -m benchmarks peers`: rows by hand, an environment that does not install, and the table."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from benchmarks import others, peers
from benchmarks.__main__ import main
from benchmarks.peers import peer
from benchmarks.report import curve


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def test_int8_keeps_each_row_within_half_a_step():
    rng = np.random.default_rng(0)
    arrays = {"w": rng.standard_normal((5, 3, 3, 3)).astype(np.float32), "b": np.float32([0.5, -0.25])}
    arrays["zero"] = np.zeros((2, 4), np.float32)
    size, decode = peer.int8(arrays, "")
    back = decode()
    step = np.abs(arrays["w"]).reshape(5, -1).max(1) / 127
    assert (np.abs(back["w"] - arrays["w"]).reshape(5, -1).max(1) <= 0.501 * step).all()
    assert set(back) == set(arrays) and (back["b"] == arrays["b"]).all() and not back["zero"].any()
    assert size < 1000 < peer.half({"w": np.ones((40, 40), np.float32)}, "")[0] < 4000


def test_the_script_of_a_peer_runs_alone(tmp_path):
    np.savez(tmp_path / "weights.npz", w=np.float32([[1.0, 2.0]]), scalar=np.float32(3))
    script = [sys.executable, peer.__file__, "half", "-", "weights.npz", "decoded.npz"]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["bytes"] > 10
    with np.load(tmp_path / "decoded.npz") as decoded:
        assert decoded["w"].tolist() == [[1, 2]] and decoded["scalar"] == 3


@pytest.mark.slow
def test_a_table_of_formats_and_of_this_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(peers, "PEERS", (*peers.PEERS[:2], ("missing", "half", "", "a codec that nobody can install")))
    monkeypatch.setitem(peers.ENVIRONMENTS, "missing", ("./no-such-package",))
    monkeypatch.setattr(peers, "OURS", ((None, False), (4.0, False)))
    monkeypatch.setattr(peers, "CALIBRATION", 20)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "peers.csv"
    command = f"peers lenet300-100-ref --pictures mnist --images 100 --out {out}".split()
    assert main(command) == 0
    assert "a codec that nobody can install: skipped, ./no-such-package does not install" in capsys.readouterr().out
    rows = {row["codec"]: row for row in curve.read(out)}
    assert list(rows) == ["safetensors, float16", "safetensors, int8 a row", "zoo, exact", "zoo, 4 bits"]
    assert rows["zoo, exact"]["agreement"] == "100" and int(rows["zoo, 4 bits"]["bytes"]) <= 266_610 // 2
    assert int(rows["safetensors, float16"]["bytes"]) == pytest.approx(2 * 266_610, rel=0.01)
    assert out.with_suffix(".md").read_text().count("\n|") == 6
    text = out.read_text()
    assert main(command) == 0 and out.read_text() == text  # nothing is measured twice


@pytest.mark.slow
def test_networks_of_others_before_and_after(tmp_path, monkeypatch):
    case = others.Case("characters", 64, 3e-3)
    monkeypatch.setattr(others, "TEXT", 20_000)
    monkeypatch.setattr(others, "PIECES", 4)
    monkeypatch.setattr(others, "CALIBRATION", 20)
    others.measure(case, tmp_path, tmp_path / "others.csv", [4.0])
    rows = curve.read(tmp_path / "others.csv")
    assert [row["rounding"] for row in rows] == ["plain", "second order"]
    assert all(row["held_out"] == str(4 * others.LENGTH) and int(row["agreement"]) > 0 for row in rows)
    assert (tmp_path / "others.md").read_text().count("`characters`") == 2
