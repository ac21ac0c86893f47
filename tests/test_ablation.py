"""Bytes at equal error by hand, and the table that sweeps give."""

import math

import pytest

from benchmarks import __main__ as commands
from benchmarks.report.ablation import at_error

LINE = [(1000.0, 2.0), (2000.0, 1.0), (3000.0, 1.5), (4000.0, 0.5)]  # 3000 bytes are beaten by 2000


@pytest.mark.parametrize(
    ("error", "size"),
    [(2.0, 1000), (1.0, 2000), (1.5, math.sqrt(1000 * 2000)), (0.75, math.sqrt(2000 * 4000)), (2.1, None), (0.4, None)],
)
def test_bytes_at_equal_error_by_hand(error, size):
    assert at_error(LINE, error) == (size and pytest.approx(size))


def test_the_table_lists_the_method_and_what_lacks_an_ingredient(tmp_path, capsys):
    head = "setting,value,seed,size_bytes,heldout_errors,heldout_examples,test_errors,test_examples\n"
    stem = "lenet300-100-min-options-lambda,steps=9"
    points = "options.lambda,1,0,1000,9,5000,20,1000\noptions.lambda,2,0,4000,9,5000,10,1000\n"
    (tmp_path / f"{stem}.csv").write_text(head + points)
    command = ["ablation", "lenet300-100-min", "--set", "steps=9", "--out", str(tmp_path)]
    assert commands.main(command) == 1
    assert "found 0 of those" in capsys.readouterr().err
    untested = "options.lambda,3,0,1,1,5000,,\n"
    (tmp_path / f"{stem},keep={{}}.csv").write_text(f"{head}options.lambda,1,0,3000,9,5000,15,1000\n{untested}")
    assert commands.main(command) == 0
    table = (tmp_path / "lenet300-100-ablation.md").read_text().splitlines()
    assert table[0].startswith("What the ingredients of `lenet300-100-min` with `steps=9` are worth")
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in table[4:]] == [
        ["nothing", "1,000", "2.00 %", "", ""],
        ["nothing", "4,000", "1.00 %", "", ""],
        ["`keep={}`", "3,000", "1.50 %", "2,000", "+50 %"],
    ]
