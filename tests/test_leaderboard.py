"""leaderboard.md, its figures and README's table: rendered from the records, and up to date in the repository."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import __main__ as commands
from benchmarks.report import figures, leaderboard
from zoo import networks, records, registry
from zoo.records import Entry


def entry(id: str, size: int, errors: int | None, network: str = "lenet300-100", method: str = "epr", **more) -> Entry:
    spec = networks.spec(network)
    tested = {} if errors is None else {"test_set": "0" * 64, "test_errors": errors, "test_examples": 10_000}
    record = {
        "schema": 1, "id": id, "network": network, "method": method, "dataset": spec.dataset, "preprocessing": spec.dataset,
        "parameters": spec.parameters, "size_bytes": size, "sha256": "1" * 64, "weights_sha256": "2" * 64,
    }  # fmt: skip
    return records.entry(record | tested | more)


ENTRIES = [
    entry("lenet300-100-small", 4_400, 187, paper_bytes=4_333, quoted="lenet300-100/epr-sq", seed=0,
          seeds=({"seed": 0, "size_bytes": 4_400, "test_errors": 187}, {"seed": 1, "size_bytes": 4_510, "test_errors": 180})),
    entry("lenet300-100-worse", 4_500, 190, method="lc"),
    entry("lenet300-100-good", 30_000, 150, method="hemp"),
    entry("lenet300-100-far", 20_000, 3_000, method="direct"),
    entry("resnet50-dft", 5_400_000, None, "resnet50", sample={
        "name": "training sample", "digest": "3" * 64, "examples": 100, "errors": 11, "agreement": 95,
        "reference": "fp32", "note": "a stand-in"}),
]  # fmt: skip
QUOTED = list(registry.quoted().values())


# ------------------------------------------------------------------------------------------ the committed files


def test_the_committed_files_are_what_the_records_render():
    committed = (leaderboard.ROOT / "leaderboard.md").read_text(encoding="utf-8")
    assert committed == leaderboard.render(leaderboard.read_entries(), QUOTED), "run `make leaderboard`"
    assert commands.main(["leaderboard", "--check"]) == 0


def test_links_and_figures_of_the_committed_leaderboard_exist():
    text = (leaderboard.ROOT / "leaderboard.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert [link for link in links if not (leaderboard.ROOT / link).is_file()] == []


# --------------------------------------------------------------------------------------------------- the table


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), min_size=1, max_size=12))
def test_pareto_marks_what_no_other_beats(points):
    entries = [entry(f"e{i}", size, errors) for i, (size, errors) in enumerate(points)]
    marked = leaderboard.pareto(entries)
    for e in entries:
        beaten = any(
            o.size_bytes <= e.size_bytes and o.test_errors <= e.test_errors
            and (o.size_bytes < e.size_bytes or o.test_errors < e.test_errors) for o in entries
        )  # fmt: skip
        assert (e.id in marked) == (not beaten)


def test_rows_say_what_was_measured():
    rows = {row["entry"].split("]")[0][1:]: row for row in leaderboard.measured_rows(ENTRIES[:4])}
    small = rows["lenet300-100-small"]
    assert (small["bytes"], small["errors"], small["error"]) == ("4,400", "187 of 10,000", "1.87 %")
    assert small["ratio"] == f"{4 * 266_610 / 4_400:.0f}x" and small["bytes, the paper's counting"] == "4,333"
    assert small["all seeds"] == "2: 4,400–4,510 bytes, 180–187 errors"
    assert [rows[e.id]["Pareto"] for e in ENTRIES[:4]] == ["●", "", "●", ""]


def test_an_entry_without_test_errors_says_so_and_keeps_its_sample_apart():
    (row,) = leaderboard.measured_rows(ENTRIES[4:])
    assert row["errors"] == "bytes verified, error on ImageNet-val not yet measured"
    assert row["sample: same answer as the uncompressed network"] == "95 of 100 (95.0 %)"
    assert "error" not in row and "Pareto" not in row  # columns that would be empty


def test_measured_and_quoted_never_share_a_table():
    text = leaderboard.render(ENTRIES, QUOTED)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        measured, quoted = "artifacts/" in table, "as printed" in table
        assert measured != quoted
    assert text.index("## lenet300-100") < text.index("## vgg16") < text.index("## resnet50")
    for q in QUOTED:
        assert q.method in text and q.source in text


def test_every_network_has_its_own_heading_and_both_resnet50_share_one():
    groups = leaderboard.by_network([*ENTRIES, entry("x", 1, None, "resnet50-v1.5")], QUOTED)
    assert [e.id for e in groups["resnet50"][0]] == ["resnet50-dft", "x"] and "resnet50-v1.5" not in groups


@pytest.mark.parametrize(
    ("network", "size", "errors", "claim", "text"),
    [
        ("lenet300-100", 4_400, 187, "bytes = 5000\nerror_percent = 1.9", "5,000 bytes and 1.9 %: reached"),
        ("lenet300-100", 4_400, 187, "bytes = 4399", "4,399 bytes: missed"),
        ("lenet300-100", 4_400, 187, "error_percent = 1.86", "1.86 %: missed"),
        ("lenet300-100", 4_400, 187, "", ""),
        ("resnet50", 5_400_000, None, "bytes = 6000000\nerror_percent = 26.0", "6,000,000 bytes and 26 %: not yet measured"),
        ("resnet50", 5_400_000, None, "bytes = 5000000\nerror_percent = 26.0", "5,000,000 bytes and 26 %: missed"),
        ("resnet50", 5_400_000, None, "bytes = 6000000", "6,000,000 bytes: reached"),
    ],
)
def test_the_claim_stands_beside_the_measurement(network, size, errors, claim, text, tmp_path, monkeypatch):
    monkeypatch.setattr(leaderboard, "ROOT", tmp_path)
    recipe = f'id = "r"\nnetwork = "{network}"\nmethod = "epr"\nsteps = 1\nbatch = 1\n[claim]\n{claim}\n'
    (tmp_path / "r.toml").write_text(recipe)
    (row,) = leaderboard.measured_rows([entry(f"{network}-small", size, errors, network, recipe="r.toml")])
    assert row.get("aimed at", "") == text


def test_readme_shows_the_front_beside_the_published_result_that_the_entry_names():
    other = entry("vgg16-small", 50_000, 900, "vgg16", quoted="vgg16/lilnetx-76")
    table = leaderboard.readme_table([*ENTRIES[:4], other, ENTRIES[4]])
    assert "published result beside it (quoted)" in table and "not yet measured" in table
    assert "| `lenet300-100-small` |" in table and "| EPR (SQ): 8.56 KB, 1.9 % |" in table
    assert "| LilNetX: 76 KB, 10 % (second-hand) |" in table
    assert "lenet300-100-worse" not in table


def test_readme_shows_the_most_accurate_entry_of_a_long_front():
    front = [entry(f"lenet300-100-{n}", 1_000 + n, 900 - n) for n in range(6)]
    table = leaderboard.readme_table(front)
    assert [n for n in range(6) if f"`lenet300-100-{n}`" in table] == [0, 1, 2, 5]


def test_the_table_goes_between_the_marks_and_nothing_else_changes():
    begin, end = leaderboard.README_MARKS
    assert leaderboard.insert(f"a\n{begin}\nold\n{end}\nz", "new\n") == f"a\n{begin}\nnew\n{end}\nz"
    for text in ("no marks", f"{end}\n{begin}", f"{begin}\n{begin}\n{end}"):
        with pytest.raises(ValueError, match="once each"):
            leaderboard.insert(text, "new\n")


# -------------------------------------------------------------------------------------------------- the figure


def test_a_figure_is_the_same_every_time_and_names_its_points():
    quoted = [q for q in QUOTED if q.network == "lenet300-100"]
    drawn = figures.figure("lenet300-100", ENTRIES[:4], quoted)
    assert drawn == figures.figure("lenet300-100", ENTRIES[:4], quoted)
    text = drawn.decode()
    assert figures.points_digest(ENTRIES[:4], quoted) in text
    assert ENTRIES and figures.points_digest(ENTRIES[:3], quoted) not in text
    words = "\n".join(ElementTree.fromstring(text).itertext())
    for label in ("small", "good", "far ↑ 30.0 %", "Bayesian Compression (GHS)", "measured Pareto front", "lenet300-100"):
        assert label in words
    assert "quoted" in words and not re.search(r"\d{4}-\d{2}-\d{2}T", text)  # no date


def test_a_stale_figure_is_noticed(tmp_path):
    path = tmp_path / "f.svg"
    assert figures.figure_digest(path) is None
    path.write_bytes(figures.figure("lenet300-100", ENTRIES[:2], []))
    assert figures.figure_digest(path) == figures.points_digest(ENTRIES[:2], [])
    assert figures.figure_digest(path) != figures.points_digest(ENTRIES[:3], [])


def test_a_network_without_measured_errors_has_no_figure():
    assert not figures.is_drawn(ENTRIES[4:], QUOTED) and figures.is_drawn(ENTRIES[:1], [])
