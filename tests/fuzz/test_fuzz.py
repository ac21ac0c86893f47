"""A thousand seeded cases, and some that hypothesis draws (and makes small where one breaks a promise)."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_codec_damage import layers_of, sixty_four_wide_classes

from .check import check, counting
from .mutation import KINDS, Change, Program, draw, run
from .seeds import files
from .tokens import put_together

fractions = st.floats(0, 1, exclude_max=True)
changes = st.builds(Change, st.sampled_from(KINDS), fractions, fractions, st.integers(0, 2**32 - 1))
programs = st.builds(Program, st.integers(0, 2**32 - 1), st.lists(changes, min_size=1, max_size=6).map(tuple))


@pytest.mark.parametrize("tenth", range(10))
def test_a_thousand_cases_are_refused_or_decoded_within_their_budget(tenth):
    outcomes = [check(run(draw(random.Random(f"case {case}")))) for case in range(100 * tenth, 100 * tenth + 100)]
    decoded = sum(outcome.kind.endswith("decoded") for outcome in outcomes)
    assert 0 < decoded < 70
    assert len({outcome.kind for outcome in outcomes}) > 10


@settings(max_examples=100, deadline=None)
@given(programs)
def test_any_program_of_changes_keeps_the_promises(program):
    check(run(program))


def test_a_file_taken_apart_is_put_together_again():
    assert Counter(file.version for file in files()).keys() == {1, 2}
    for file in files():
        blob = put_together(file.tokens, file.stream, file.version)
        assert check(blob).kind == ("decoded" if file.version == 1 else "version 2, decoded")
        assert len(file.groups) == (file.tokens[3].value if file.version == 1 else len(file.description.dtypes))


def test_work_is_counted_where_it_is_done(monkeypatch):
    blob = layers_of("resnet20-4", "classes", sixty_four_wide_classes(), b"")
    monkeypatch.setattr("zoo.codec.work.Work.spend", lambda *_: None)  # a decoder without a budget
    with counting() as counts, pytest.raises(AssertionError, match="steps of"):
        check(blob)
    assert counts["entries"] >= 1000 * 2**14
