"""leaderboard.md, its figures and README's table: rendered from the records, and up to date in the repository."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from conftest import make_entry
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import __main__ as commands
from benchmarks.report import cost, curve, figures, leaderboard, paired, plot, records, standing
from zoo import evidence, networks, registry
from zoo import records as zoo_records
from zoo.records import Entry


def entry(id: str, size: int, errors: int | None, network="lenet300-100", method="epr", folder=None, **more) -> Entry:
    spec = networks.spec(network)
    tested = {} if errors is None else {"test_set": "0" * 64, "test_errors": errors, "test_examples": 10_000}
    record = {
        "schema": 1, "id": id, "network": network, "method": method, "dataset": spec.dataset, "preprocessing": spec.dataset,
        "parameters": spec.parameters, "size_bytes": size, "sha256": "1" * 64, "weights_sha256": "2" * 64,
    }  # fmt: skip
    return zoo_records.entry(record | tested | more, folder)


ENTRIES = [
    entry("lenet300-100-small", 4_400, 187, paper_bytes=4_333, quoted="lenet300-100/epr-sq", seed=0,
          seeds=({"seed": 0, "size_bytes": 4_400, "test_errors": 187}, {"seed": 1, "size_bytes": 4_510, "test_errors": 180})),
    entry("lenet300-100-worse", 4_500, 190, method="lc"),
    entry("lenet300-100-good", 30_000, 150, method="hemp"),
    entry("lenet300-100-far", 20_000, 3_000, method="direct"),
    entry("resnet50-dft", 5_400_000, None, "resnet50", samples=[{
        "key": "val", "name": "validation pictures", "digest": "3" * 64, "examples": 100, "labelled": 100, "errors": 11,
        "reference_errors": 9, "agreement": 95, "reference": "fp32", "note": "a stand-in"}, {
        "key": "pool", "name": "others", "digest": "4" * 64, "examples": 10, "labelled": 0, "errors": 0,
        "reference_errors": 0, "agreement": 8, "reference": "fp32", "note": "a stand-in"}]),
]  # fmt: skip
QUOTED = list(registry.quoted().values())
RIVALS = [  # of which the tests know what follows; the list grows
    registry.quoted()[key]
    for key in ("lenet300-100/epr-sq", "lenet300-100/sparse-vd", "lenet300-100/bayesian-ghs", "lenet300-100/uncompressed",
                "vgg16/lilnetx-129", "vgg16/lilnetx-76", "vgg16/miracle-417", "resnet20-4/lilnetx", "resnet20-4/epr-dft",
                "resnet50/epr-dft", "resnet50/dkm", "resnet50/presto")
]  # fmt: skip
COMMITTED = records.by_network(records.read_entries(), QUOTED)
DRAWN = [network for network, group in COMMITTED.items() if figures.is_drawn(*group)]


# ------------------------------------------------------------------------------------------ the committed files


def test_the_committed_files_are_what_the_records_render():
    committed = (leaderboard.ROOT / "leaderboard.md").read_text(encoding="utf-8")
    assert committed == leaderboard.render(leaderboard.read_entries(), QUOTED), "run `make leaderboard`"
    assert commands.main(["leaderboard", "--check"]) == 0


def test_links_and_figures_of_the_committed_leaderboard_exist():
    text = (leaderboard.ROOT / "leaderboard.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert [x for x in links if not x.startswith("https://arxiv.org/abs/") and not (leaderboard.ROOT / x).is_file()] == []


# --------------------------------------------------------------------------------------------------- the table


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), min_size=1, max_size=12))
def test_pareto_marks_what_no_other_beats(points):
    entries = [entry(f"e{i}", size, errors) for i, (size, errors) in enumerate(points)]
    measured = records.points(entries)
    marked = {p.name for p in records.front(measured)}
    for point in measured:
        winner = records.beaten_by(point, measured)
        assert (winner is None) == (point.name in marked) and (winner is None or winner.beats(point))
    for e in entries:
        beaten = any(
            o.size_bytes <= e.size_bytes and o.test_errors <= e.test_errors
            and (o.size_bytes < e.size_bytes or o.test_errors < e.test_errors) for o in entries
        )  # fmt: skip
        assert (e.id in marked) == (not beaten)


def test_rows_say_what_was_measured():
    rows = {row["entry"].split("]")[0][1:]: row for row in leaderboard.measured_rows(ENTRIES[:4])}
    small = rows["lenet300-100-small"]
    assert (small["bytes"], small["errors"], small["error ± standard error"]) == (
        "4,400", "187 of 10,000", "1.87 ± 0.14 %")  # 100 sqrt(0.0187 x 0.9813 / 10,000)
    assert small["ratio"] == f"{4 * 266_610 / 4_400:.0f}x" and small["bytes, the paper's counting"] == "4,333"
    assert small["all seeds"] == "2: 4,400–4,510 bytes, 180–187 errors"
    assert [rows[e.id]["Pareto"] for e in ENTRIES[:4]] == [
        "●", "beaten by lenet300-100-small", "●", "beaten by lenet300-100-small"]  # fmt: skip


def test_an_entry_without_test_errors_says_so_and_keeps_its_sample_apart():
    (row,) = leaderboard.measured_rows(ENTRIES[4:])
    assert row["errors"] == "bytes verified, error on ImageNet-val not yet measured"
    assert row["val: same answer as the uncompressed network"] == "95 of 100 (95.0 %)"
    assert row["error on val"] == "11.0 % (6.3 to 18.6), uncompressed 9.0 %"  # Wilson 1927: (11 + 1.92) / 103.84 -+ ..
    assert row["pool: same answer as the uncompressed network"] == "8 of 10 (80.0 %)" and "error on pool" not in row
    assert "error ± standard error" not in row and "Pareto" not in row  # columns that would be empty


def test_measured_and_quoted_never_share_a_table():
    text = leaderboard.render(ENTRIES, QUOTED)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        measured, quoted = "artifacts/" in table, "as printed" in table
        assert measured != quoted
    assert text.index("## lenet300-100") < text.index("## vgg16") < text.index("## resnet50")
    for q in QUOTED:
        assert q.method in text and leaderboard._linked(q.source) in text


def test_every_network_has_its_own_heading_and_both_resnet50_share_one():
    groups = leaderboard.by_network([*ENTRIES, entry("x", 1, None, "resnet50-v1.5")], QUOTED)
    assert [e.id for e in groups["resnet50"][0]] == ["resnet50-dft", "x"] and "resnet50-v1.5" not in groups


def test_a_network_on_another_data_set_has_a_table_and_a_figure_of_its_own():
    other = entry("lenet300-100-fashion-mnist-a", 900, 1_300, "lenet300-100:fashion-mnist")
    groups = leaderboard.by_network([*ENTRIES, other], QUOTED)
    assert list(groups)[:3] == ["lenet300-100", "lenet300-100:fashion-mnist", "lenet5-caffe"]
    assert groups["lenet300-100:fashion-mnist"] == ([other], []) and other not in groups["lenet300-100"][0]
    text = leaderboard.render([*ENTRIES, other], QUOTED).partition("## lenet300-100:fashion-mnist\n")[2].partition("\n## ")[0]
    assert "Fashion-MNIST, 266,610 parameters" in text and "](figures/lenet300-100-fashion-mnist.svg)" in text
    assert "strongest published" not in text
    assert figures.rows("lenet300-100:fashion-mnist", [other], [])[0]["label"] == "a"


def test_the_files_of_a_network_are_not_those_of_one_with_a_longer_name(tmp_path):
    for name in ("resnet20-sq-lambda", "resnet20-4-sq-lambda", "lenet300-100-sq-k", "lenet300-100-fashion-mnist-sq-k"):
        (tmp_path / f"{name}.csv").touch()

    def stems(network: str) -> list[str]:
        return [path.stem for path in curve.files_of(network, ".csv", tmp_path)]

    assert (stems("resnet20"), stems("resnet20-4")) == (["resnet20-sq-lambda"], ["resnet20-4-sq-lambda"])
    assert stems("lenet300-100") == ["lenet300-100-sq-k"]
    assert stems("lenet300-100:fashion-mnist") == ["lenet300-100-fashion-mnist-sq-k"]


@pytest.mark.parametrize(
    ("network", "size", "errors", "claim", "text"),
    [
        ("lenet300-100", 4_400, 187, "bytes = 5000\nerror_percent = 1.9", "5,000 bytes and 1.9 %: reached by the whole file"),
        ("lenet300-100", 4_400, 187, "bytes = 4399", "4,399 bytes: missed"),
        ("lenet300-100", 4_400, 187, "error_percent = 1.86", "1.86 %: missed"),
        ("lenet300-100", 4_400, 187, "", ""),
        ("resnet50", 5_400_000, None, "bytes = 6000000\nerror_percent = 26", "6,000,000 bytes and 26 %: error not yet measured"),
        ("resnet50", 5_400_000, None, "bytes = 5000000\nerror_percent = 26.0", "5,000,000 bytes and 26 %: missed"),
        ("resnet50", 5_400_000, None, "bytes = 6000000", "6,000,000 bytes: reached by the whole file"),
    ],
)
def test_the_claim_stands_beside_the_measurement(network, size, errors, claim, text, tmp_path, monkeypatch):
    monkeypatch.setattr(standing, "ROOT", tmp_path)
    recipe = f'id = "r"\nnetwork = "{network}"\nmethod = "epr"\nsteps = 1\nbatch = 1\n[claim]\n{claim}\n'
    (tmp_path / "r.toml").write_text(recipe)
    (row,) = leaderboard.measured_rows([entry(f"{network}-small", size, errors, network, recipe="r.toml")])
    assert row.get("aimed at", "") == text


@pytest.mark.parametrize(
    ("paper", "text"),
    [
        (4_000, "reached by the whole file and by the paper's counting"),
        (5_001, "reached by the whole file, missed by the paper's counting"),
    ],
)
def test_a_claim_says_under_which_counting_it_is_reached(paper, text, tmp_path, monkeypatch):
    monkeypatch.setattr(standing, "ROOT", tmp_path)
    recipe = 'id = "r"\nnetwork = "lenet300-100"\nmethod = "epr"\nsteps = 1\nbatch = 1\n[claim]\nbytes = 5000\n'
    (tmp_path / "r.toml").write_text(recipe)
    assert standing.claim(entry("a", 4_400, 187, paper_bytes=paper, recipe="r.toml")) == f"5,000 bytes: {text}"
    other = standing.claim(entry("a", 5_600, 187, paper_bytes=4_000, recipe="r.toml"))
    assert other == "5,000 bytes: reached by the paper's counting, missed by the whole file"


@pytest.mark.parametrize(
    ("network", "errors", "size", "rival"),
    [
        ("lenet300-100", 187, 3_571, "EPR (SQ): 8.56 KB, 1.9 %"),  # 1.87 % is no less than a printed 1.9 %
        ("lenet300-100", 184, 10_000, "Sparse Variational Dropout: 9.38 KB, 1.8 %, **smaller**"),
        ("lenet300-100", 144, 10_000, "none"),
        ("vgg16", 911, 91_451, "LilNetX: 129 KB, 7.4 % (second-hand)"),
        ("vgg16", 664, 91_451, "Minimal Random Code Learning: 417 KB, 6.6 %"),
        ("resnet20-4", 866, 96_424, "LilNetX: 66 KB, 8.5 % (second-hand), **smaller**"),
    ],
)
def test_the_strongest_published_result_at_no_larger_error(network, errors, size, rival):
    assert leaderboard._strongest(entry("a", size, errors, network), RIVALS) == rival


def test_an_entry_that_was_not_measured_stands_for_the_error_that_it_aims_at():
    aimed = entry("a", 5_400_000, None, "resnet50", quoted="resnet50/epr-dft")
    assert leaderboard._strongest(aimed, RIVALS) == "DKM: 3.3 MB, 25.5 %, **smaller**"
    assert leaderboard._strongest(entry("a", 1, None, "resnet50"), RIVALS) == "none"


def test_points_of_published_sweeps_count_for_the_front(tmp_path):
    one = entry("resnet20-4-a", 200, 900, "resnet20-4")
    header = "setting,value,seed,size_bytes,test_errors,test_examples,sha256\n"
    rows = f"options.lambda,1e-7,0,150,890,10000,{'5' * 64}\noptions.lambda,2e-7,0,200,900,10000,{one.sha256}\n"
    (tmp_path / "resnet20-4-a-options-lambda.csv").write_text(header + rows)
    (tmp_path / "resnet20-4-b-options-k.csv").write_text("setting,value,seed,size_bytes\noptions.k,1,0,1\n")
    measured = records.points([one], tmp_path)
    assert [p.name for p in measured] == ["resnet20-4-a", "resnet20-4-a at lambda = 1e-7 (a sweep)"]
    assert records.beaten_by(measured[0], measured) is measured[1]


# ------------------------------------------------------------------------------------------------ paired tests


def test_the_file_of_outcomes_knows_every_tested_entry_and_agrees_with_its_record():
    for e in records.read_entries():
        wrong = paired.outcomes(e)
        assert (wrong is None) == (e.test_errors is None), f"{e.id}: run `make leaderboard`"
        assert wrong is None or wrong.sum() == e.test_errors


def test_outcomes_are_worked_out_from_predictions_and_labels(artifacts, lenet_blob, mnist_standin, tmp_path):
    one, path = make_entry(artifacts, "one", lenet_blob, mnist_standin), tmp_path / "outcomes.csv"
    path.write_bytes(paired.update([one], path))
    wrong = paired.outcomes(one, path)
    assert np.array_equal(wrong, evidence.read_predictions(one.folder) != np.asarray(mnist_standin.labels))
    path.write_bytes(path.read_bytes().replace(paired.pack(wrong).encode(), paired.pack(~wrong).encode()))
    with pytest.raises(ValueError, match="is wrong on"):
        paired.outcomes(one, path)


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_outcomes_survive_packing(wrong):
    assert paired.unpack(paired.pack(np.array(wrong)), len(wrong)).tolist() == wrong


def test_an_entry_is_compared_with_the_most_accurate_smaller_one(monkeypatch):
    wrong = {"a": [1] * 40 + [0] * 60, "b": [0] * 5 + [1] * 30 + [0] * 65, "c": [0] * 70 + [1] * 25 + [0] * 5}
    outcomes = {name: np.array(bits, bool) for name, bits in wrong.items()}
    monkeypatch.setattr(paired, "outcomes", lambda e: outcomes[e.id])
    a, b, c = (entry(name, size, int(outcomes[name].sum())) for name, size in (("a", 1), ("b", 2), ("c", 3)))
    assert standing.against_smaller(a, [a, b, c]) is None
    assert leaderboard._against(b, [a, b, c]) == "better than a (p = 0.002)"  # 10 against 0 images: 2 / 2^10
    other, test = standing.against_smaller(c, [a, b, c])
    assert other is b and (test.both_wrong, test.only_a_wrong, test.only_b_wrong) == (0, 30, 25)
    assert leaderboard._against(c, [a, b, c]).startswith("≈ b (p = 0.")


# ------------------------------------------------------------------------------------------------------- costs


@pytest.mark.parametrize("precision", ["", ", float32"])  # logs of earlier versions do not say it
def test_the_cost_of_training_is_read_from_the_log(tmp_path, precision):
    folder = tmp_path / "a"
    folder.mkdir()
    log = 'recipe {"steps": 8775, "batch": 128}\nversions x\n' + f"seed 0, device cpu, processes 1, threads 2{precision}\n"
    (folder / "train.log").write_text(log + "step 100, loss 1, 60 s\nstep 8775, loss 0.6, data 0%, 3860 s\nfinished: 1 bytes\n")
    spent = cost.of(entry("a", 1, 1, folder=folder, warm_start=f"b@{'0' * 64}"))
    assert (spent.images, spent.start) == (8775 * 128, "b") and spent.core_minutes == pytest.approx(2 * 3860 / 60)
    assert str(spent) == "1.12 M images, 129 core-minutes"
    (folder / "train.log").write_text(log.replace("8775", "0") + "finished: 1 bytes\n")
    assert str(cost.of(entry("a", 1, 1, folder=folder))) == "no training"
    (folder / "train.log").write_text("python -m benchmarks compress resnet50 --epochs 2 --images 300 --calibration DIR\n")
    assert str(cost.of(entry("a", 1, 1, folder=folder))) == "600 images"
    (folder / "train.log").unlink()
    assert str(cost.of(entry("a", 1, 1, folder=folder))) == ""


# ------------------------------------------------------------------------------------------------ README's table


def test_readme_shows_the_front_beside_the_strongest_published_result():
    other = entry("vgg16-small", 50_000, 1_000, "vgg16")
    table = leaderboard.readme_table([*ENTRIES[:4], other, ENTRIES[4]], RIVALS)
    assert "strongest published at no larger error (quoted)" in table and "not yet measured" in table
    assert "| `lenet300-100-small` |" in table and "| EPR (SQ): 8.56 KB, 1.9 % |" in table
    assert "| LilNetX: 76 KB, 10 % (second-hand) |" in table
    assert "lenet300-100-worse" not in table
    assert "| 11.0 % of 100 (9.0 %) |" in table  # beside "not yet measured": a sample is no test set


def test_readme_shows_the_most_accurate_entry_of_a_long_front():
    front = [entry(f"lenet300-100-{n}", 1_000 + n, 900 - n) for n in range(6)]
    table = leaderboard.readme_table(front, [])
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
    assert figures.digest(figures.specification("lenet300-100", ENTRIES[:4], quoted)) in text
    assert figures.digest(figures.specification("lenet300-100", ENTRIES[:3], quoted)) not in text
    words = [" ".join(element.itertext()) for element in ElementTree.fromstring(text).iter("{http://www.w3.org/2000/svg}text")]
    for label in ("small", "good", "far ↑ 30.0 %", "Bayesian Compression (GHS)", "lenet300-100"):
        assert label in words
    assert not re.search(r"\d{4}-\d{2}-\d{2}T", text)  # no date


def test_the_first_entry_of_a_network_is_drawn():
    assert b"<svg" in figures.figure("lenet300-100", ENTRIES[:1], [])


def test_a_stale_figure_is_noticed(tmp_path):
    path = tmp_path / "f.svg"
    assert figures.digest_in(path) is None
    path.write_bytes(figures.figure("lenet300-100", ENTRIES[:2], []))
    assert figures.digest_in(path) == figures.digest(figures.specification("lenet300-100", ENTRIES[:2], []))
    assert figures.digest_in(path) != figures.digest(figures.specification("lenet300-100", ENTRIES[:3], []))


def test_a_figure_has_no_ground_and_turns_light_where_the_screen_is_dark():
    text = figures.figure("lenet300-100", ENTRIES[:4], []).decode()
    assert "prefers-color-scheme:dark" in text and not re.search(r'fill="(white|#fff)', text)
    used = set(re.findall(r'(?:fill|stroke)="(#[0-9a-f]{6})"', text))
    assert plot.INK in used and plot.MUTED in used and used <= set(plot.DARK)  # nothing stays as it is on white


def boxes(spec: dict) -> list[tuple[str, tuple]]:
    words = next(layer for layer in spec["layer"] if layer.get("name") == "names")["data"]["values"]
    width = {w["label"]: 5.6 * len(w["label"]) for w in words}
    before = {"left": 0.0, "center": 0.5, "right": 1.0}  # share of the text to the left of its x
    left = [w["px"] - before[w["side"]] * width[w["label"]] for w in words]
    return [(w["label"], (x, w["py"] - 9, x + width[w["label"]], w["py"] + 3)) for w, x in zip(words, left, strict=True)]


@pytest.mark.parametrize("network", DRAWN)
def test_labels_of_the_committed_figures_lie_apart(network):
    spec = figures.specification(network, *COMMITTED[network])
    names = boxes(spec)
    drawn = [row for layer in spec["layer"][1:4] for row in layer["data"]["values"] if row["kind"] in ("entry", "quoted")]
    assert len(names) == len(drawn)
    for (a, box), (b, other) in itertools.combinations(names, 2):
        sides = [min(box[i + 2], other[i + 2]) - max(box[i], other[i]) for i in (0, 1)]
        assert max(0, sides[0]) * max(0, sides[1]) < 8, f"{a} lies on {b}"
    assert all(0 <= left and right <= plot.WIDTH + 1 for _, (left, _, right, _) in names)


def test_points_beyond_the_axis_stand_apart_at_its_edge():
    rows = [{"label": name, "error": error, "kind": "entry"} for name, error in (("a", 1.0), ("b", 77.0), ("c", 15.0))]
    shown = {row["label"]: row["shown"] for row in plot.placed(rows, 2.0)}
    assert shown == {"a": 1.0, "b ↑ 77.0 %": 2.0, "c ↑ 15.0 %": pytest.approx(1.95)}


def test_a_network_without_measured_errors_has_no_figure():
    assert not figures.is_drawn(ENTRIES[4:], QUOTED) and figures.is_drawn(ENTRIES[:1], [])
