"""The page of the leaderboard: built from the committed records, read by a parser and by headless Chromium."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import browser
import numpy as np
import pytest

from benchmarks import __main__ as commands
from benchmarks.report import curve, figures, page, paired, records
from zoo import codec, partitionings, registry

ENTRIES = records.read_entries()
QUOTED = list(registry.quoted().values())
DRAWN = [name for name, group in records.by_network(ENTRIES, QUOTED).items() if figures.is_drawn(*group)]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The whole page; files above 20 kB are not taken apart, which takes seconds each."""
    out = tmp_path_factory.mktemp("page") / "site"
    anatomy = page._anatomy
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "_anatomy", lambda e: anatomy(e) if e.size_bytes < 2e4 else ([], e.size_bytes))
        page.build(out, ENTRIES, QUOTED)
    return out


class Links(HTMLParser):
    """What a page links to or loads, and the ids that it has."""

    def __init__(self, text: str):
        super().__init__()
        self.links, self.ids = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.links += [values[key] for key in ("href", "src") if values.get(key) and tag != "use"]
        self.ids |= {values["id"]} if values.get("id") else set()


def test_every_link_leads_to_a_file_and_nothing_is_loaded_from_elsewhere(site):
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        for link in Links(text).links:
            pieces = urlsplit(link)
            if pieces.scheme:
                assert link.startswith(("https://arxiv.org/abs/", "data:")), f"{path.name}: {link}"
                continue
            target = path if not pieces.path else (path.parent / unquote(pieces.path)).resolve()
            assert target.is_file() and target.is_relative_to(site), f"{path.name} links to {link}"
            if pieces.fragment:
                assert pieces.fragment in Links(target.read_text(encoding="utf-8")).ids, f"{path.name}: {link}"
        loaded = re.findall(r'<(?:script|img|link|iframe)[^>]*(?:src|href)="(https?:[^"]+)', text)
        assert loaded == [] and "fetch(" not in text


def test_the_page_is_small_and_has_every_entry(site):
    files = [path for path in site.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 8e6
    assert {path.stem for path in (site / "entries").iterdir()} == {e.id for e in ENTRIES}
    text = (site / "entries" / "lenet300-100-sq.html").read_text(encoding="utf-8")
    entry = registry.find("lenet300-100-sq")
    for word in (entry.sha256, 'zoo.load("lenet300-100-sq")', "zoo verify lenet300-100-sq", "lambda = 2.5e-6", "3,571"):
        assert word in text


def test_the_bytes_of_an_entry_add_up():
    entry = registry.find("lenet300-100-sq")
    pieces, overhead = page._anatomy(entry)
    assert sum(p["coded"] + p["side"] for p in pieces) + overhead == pytest.approx(entry.size_bytes)
    assert {p["group"] for p in pieces} == {g.name for g in partitionings.get("lenet300-100").groups} and 0 < overhead < 100
    assert sum(p["symbols"] for p in pieces) == sum(
        coded.phi.size for coded in codec.decode(registry.read(entry), partitionings.layout)[1].values()
    )


def test_a_folder_of_others_is_not_replaced(tmp_path, capsys):
    (tmp_path / "precious").write_text("data")
    assert commands.main(["page", "--out", str(tmp_path)]) == 1
    assert "no page that this command wrote" in capsys.readouterr().err and (tmp_path / "precious").is_file()


def test_json_cannot_end_its_script():
    assert "</script>" not in page._json({"a": "</script>"}) and json.loads(page._json({"a": "<"})) == {"a": "<"}


# ---------------------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    if browser.PROGRAM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    tab = browser.Browser(tmp_path_factory.mktemp("profile"))
    yield tab
    tab.close()


@pytest.fixture
def tab(chromium):
    """The browser; a test in which a page complains fails."""
    chromium.complaints.clear()
    chromium.size(*browser.WIDE)
    yield chromium
    assert chromium.complaints == []


def marks(name: str) -> str:
    return f"document.querySelectorAll('#plot g.mark-symbol.{name}_marks path').length"


def test_no_page_complains_or_asks_the_network(site, tab):
    pages = [site / name for name in ("index.html", "compare.html", "measuring.html")]
    for path in (*pages, *sorted((site / "networks").iterdir()), site / "entries" / "lenet300-100-sq.html"):
        tab.open(path)
        assert tab.ask("document.title") and tab.complaints == [], path.name


@pytest.mark.parametrize("network", DRAWN)
def test_the_plot_has_a_point_for_every_record(site, tab, network):
    entries, quoted = records.by_network(ENTRIES, QUOTED)[network]
    tab.open(site / "networks" / f"{curve.stem(network)}.html")
    measured = [e for e in records.readable(entries) if e.test_errors is not None]
    assert tab.ask(marks("entries")) == len(measured)
    assert tab.ask(marks("quoted")) == len(quoted)
    seeds = sum(max(0, len(e.seeds) - 1) for e in measured)
    sweeps = sum(p.entry is None for p in records.points(entries))
    assert tab.ask(marks("runs")) == seeds + sweeps + sum(e.decoded is not None for e in entries)
    assert tab.ask("document.querySelectorAll('#entries tbody tr').length") == len(records.readable(entries))


def test_boxes_switch_points_off_and_on(site, tab):
    entries, quoted = records.by_network(ENTRIES, QUOTED)["lenet300-100"]
    tab.open(site / "networks" / "lenet300-100.html")
    others = sum(e.method != "lc" for e in records.readable(entries))

    def click(selector: str) -> None:
        tab.ask(f"document.querySelector('#toggles {selector}').click()")

    click("[data-method=lc]")
    tab.wait(f"{marks('entries')} === {others}")
    click("[data-kind=quoted]")
    tab.wait(f"{marks('quoted')} === 0")
    click("[data-kind=quoted]")
    tab.wait(f"{marks('quoted')} === {len(quoted)}")


def test_a_point_leads_to_its_entry_by_keyboard(site, tab):
    tab.open(site / "networks" / "lenet300-100.html")
    point = "document.querySelector('#plot g.entries_marks path[aria-label^=\"lenet300-100-sq \"]')"
    assert "3,571 bytes, 1.87 % error, 187 of 10,000 wrong" in tab.ask(f"{point}.getAttribute('aria-label')")
    tab.ask(f"{point}.focus()")
    tab.loaded = False
    tab.key("Enter")
    tab.wait("location.pathname.endsWith('/entries/lenet300-100-sq.html')")


def test_sorting_sorts_and_filtering_filters(site, tab):
    entries = records.readable(records.by_network(ENTRIES, QUOTED)["lenet300-100"][0])
    tab.open(site / "networks" / "lenet300-100.html")
    order = "[...document.querySelectorAll('#entries tbody tr')].filter(r => !r.hidden).map(r => r.dataset.id)"

    def press(column: int, direction: str) -> None:
        tab.ask(f"document.querySelectorAll('#entries thead button')[{column}].focus()")
        tab.key("Enter")
        tab.wait(f"document.querySelectorAll('#entries thead th')[{column}].getAttribute('aria-sort') === '{direction}'")

    assert tab.ask(order) == [e.id for e in entries]  # by bytes
    press(4, "ascending")
    errors = {e.id: e.test_errors for e in entries}
    assert [errors[id] for id in tab.ask(order)] == sorted(errors.values())
    press(4, "descending")
    assert [errors[id] for id in tab.ask(order)] == sorted(errors.values(), reverse=True)
    assert tab.ask("document.querySelectorAll('#entries th[aria-sort=descending]').length") == 1
    press(0, "ascending")
    assert tab.ask(order) == sorted(errors)
    tab.ask("{const f = document.getElementById('filter'); f.value = 'hemp LLOYD'; f.dispatchEvent(new Event('input'))}")
    assert tab.ask(order) == ["lenet300-100-lloyd"]
    assert tab.ask("document.getElementById('count').textContent") == f"1 of {len(entries)} entries"


@pytest.mark.parametrize(
    ("a", "b"),
    [("lenet300-100-sq", "lenet300-100-hemp2"), ("resnet20-4-ref", "vgg16-ref"), ("lenet5-caffe-sq", "lenet300-100-ref")],
)
def test_two_entries_are_compared_as_the_command_does(site, tab, a, b):
    wrong_a, wrong_b = (paired.outcomes(registry.find(name)) for name in (a, b))
    wanted = paired.compare(wrong_a, wrong_b)
    tab.open(site / "compare.html", f"?a={a}&b={b}")
    text = tab.ask("document.getElementById('result').textContent")
    assert f"{wanted.both_wrong:,}" in text and f"{wanted.only_a_wrong + wanted.both_wrong:,} of 10,000" in text
    assert tab.ask(f"mcnemar({wanted.only_a_wrong}, {wanted.only_b_wrong})") == pytest.approx(wanted.p, rel=1e-6)
    verdict = "No difference" if wanted.p >= paired.LEVEL else "B is more" if wanted.points < 0 else "A is more"
    assert verdict in text and f"{wanted.points:.2f} points" in text
    if registry.find(a).dataset == "mnist":  # its pictures ship
        first = np.flatnonzero(wrong_a != wrong_b)[: page.SHOWN].tolist()
        shown = tab.ask("[...document.querySelectorAll('#pictures li')].map(li => Number(li.textContent.match(/#(\\d+)/)[1]))")
        assert shown == first


def test_entries_of_different_test_sets_are_not_offered(site, tab):
    tab.open(site / "compare.html", "?a=resnet20-4-ref")
    offered = tab.ask("[...document.getElementById('b').options].map(o => o.value)")
    assert set(offered) == {e.id for e in ENTRIES if e.dataset == "cifar10" and e.id != "resnet20-4-ref"}


@pytest.mark.parametrize("path", ["index.html", "networks/lenet300-100.html", "entries/lenet300-100-sq.html", "compare.html"])
def test_nothing_is_wider_than_a_phone(site, tab, path):
    tab.size(*browser.PHONE)
    tab.open(site / path)
    assert tab.ask("document.documentElement.scrollWidth") <= browser.PHONE[0]


def test_a_dark_screen_gets_a_dark_page(site, tab):
    tab.size(*browser.WIDE, dark=True)
    tab.open(site / "networks" / "vgg16.html")
    assert tab.ask("getComputedStyle(document.body).backgroundColor") == "rgb(13, 17, 23)"
    colours = tab.ask("[...document.querySelectorAll('#plot text')].map(t => t.getAttribute('fill'))")
    assert colours and "#1f2328" not in colours and "#59636e" not in colours
