"""Classes in lanes: round trips of many shapes, groups that share lanes, what a reader refuses, size and work."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_classes import SHAPES, integers

from zoo import codec
from zoo.codec import ans, interleaved
from zoo.codec.entropy import Alphabet
from zoo.codec.work import Work
from zoo.errors import CorruptArtifact


def coded(phi: np.ndarray, model: str = "interleaved") -> codec.Coded:
    return codec.Coded("scalar", model, phi.reshape(-1, 1), {"scale": np.ones((1, 1), np.float32)})


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("scale", [0.05, 1.0, 300.0, 1e8])
def test_groups_that_share_lanes_come_back(shapes, scale):
    layout = {"a": shapes, "b": ((5, 6),), "c": shapes, "d": ((40, 50),)}
    groups = {name: coded(integers(tensors, 1, seed, scale)) for seed, (name, tensors) in enumerate(layout.items())}
    groups["b"].model = "static"
    blob = codec.encode("n", "p", groups, layout)
    _, decoded = codec.decode(blob, lambda header: layout)
    for name, group in groups.items():
        assert decoded[name].phi.dtype == np.int32
        np.testing.assert_array_equal(decoded[name].phi, group.phi)
    _, breakdown = codec.anatomy(blob, lambda header: layout)
    assert sum(group_bytes.payload_bytes for group_bytes in breakdown) > 0 and breakdown[1].payload_bytes == 0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-9, 9), min_size=1, max_size=300), st.integers(0, 5))
def test_lanes_return_what_they_were_given_and_end_where_they_began(values, exponent):
    values = np.array(values, np.int32)
    table, encoder = Alphabet.fit(values), interleaved.Encoder(exponent)
    if table.constant:
        return
    words = encoder.push([(table, values)])
    decoder = interleaved.Decoder(exponent)
    decoder.read(np.concatenate([encoder.states.view("<u2"), words]), begins=True)
    popped = decoder.pop(len(values), table)
    listed = (values >= table.low) & (values <= table.high)
    assert np.array_equal(popped, np.where(listed, values - table.low, table.high - table.low + 1))
    assert decoder.at == len(decoder.words) and (decoder.states == interleaved.LOW).all()


def test_one_lane_by_hand():
    """Four symbols under the weights 3 and 1 in one lane, computed with integers."""
    table = Alphabet(0, 1, False, 1, [3, 1])
    assert interleaved.edges(table).tolist() == [0, 12287, 16384]  # 3/4 of 2^14 - 2, rounded down, + 1
    state, words = 1 << 16, []
    for symbol in (0, 1, 1, 0):  # the last first
        left, width = ((0, 12287), (12287, 4097))[symbol]
        if state >= width << 18:
            words.insert(0, state & 0xFFFF)
            state >>= 16
        state = state // width * 16384 + state % width + left
    encoder = interleaved.Encoder(0)
    assert encoder.push([(table, np.array([0, 1, 1, 0], np.int32))]).tolist() == words
    assert encoder.states.tolist() == [state]


def test_lanes_cost_three_bytes_each_and_little_more():
    draw = np.random.default_rng(0)
    phi = np.rint(draw.laplace(0, 2, (1000, 1500))).astype(np.int32)
    layout = {"g": ((1000, 1500),)}
    blob, classes = (codec.encode("n", "p", {"g": coded(phi, model)}, layout) for model in ("interleaved", "classes"))
    assert len(blob) < 1.005 * len(classes)
    assert codec.decode(blob, lambda header: layout)[1]["g"].phi.reshape(phi.shape).tolist() == phi.tolist()
    group_bytes = codec.anatomy(blob, lambda header: layout)[1][0]
    assert 0 < group_bytes.coded_bits - group_bytes.ideal_bits < 0.005 * group_bytes.ideal_bits
    assert group_bytes.table_bytes < 1000


def side_information(model: interleaved.Interleaved) -> interleaved.Reader:
    writer = interleaved.Writer()
    model.write(writer)
    return interleaved.Reader(writer.to_bytes())


def fitted():
    phi, shapes = integers(((30, 40),), 1, 1), ((30, 40),)
    model, coder = interleaved.Interleaved.fit(phi, shapes), ans.Ans()
    model.push(coder, phi)
    return model, coder.words(), shapes


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: setattr(m, "begins", False), "begin twice, or go on without a beginning"),
        (lambda m: setattr(m, "words", m.words[:-1]), "more words than there are|do not end with"),
        (lambda m: setattr(m, "words", np.append(m.words, np.uint16(0))), "do not end with the last integer"),
        (lambda m: setattr(m, "words", np.concatenate([[0, 0], m.words[2:]]).astype("<u2")), "begins below"),
    ],
)
def test_lanes_that_do_not_fit_are_refused(change, words):
    model, stream, shapes = fitted()
    again = interleaved.Interleaved.read(side_information(model), 1, shapes)
    change(again)
    with pytest.raises(CorruptArtifact, match=words):
        again.pop(ans.Ans(stream))


def test_lanes_that_do_not_end_are_refused():
    layout = {"g": ((30, 40),)}
    blob = codec.encode("n", "p", {"g": coded(integers(layout["g"], 1, 1))}, layout)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interleaved.Interleaved, "read", classmethod(_without_end(interleaved.Interleaved.read.__func__)))
        with pytest.raises(CorruptArtifact, match="does not end with the last weight"):
            codec.decode(blob, lambda header: layout)


def _without_end(read):
    def changed(cls, *arguments):
        model = read(cls, *arguments)
        model.ends = False
        return model

    return changed


def test_steps_of_few_lanes_are_counted_before_they_are_taken():
    model, stream, shapes = fitted()
    again = interleaved.Interleaved.read(side_information(model), 1, shapes)
    with pytest.raises(CorruptArtifact, match="steps of .* lanes would take the file beyond"):
        again.pop(ans.Ans(stream, Work(500_000)))


@pytest.mark.slow
def test_sixty_million_weights_a_second():
    import time

    draw = np.random.default_rng(0)
    layout = {"g": ((4000, 6000),)}
    phi = np.rint(draw.laplace(0, 1.5, layout["g"][0])).astype(np.int32)
    blob, best = codec.encode("n", "p", {"g": coded(phi)}, layout), 9.0
    for _ in range(5):
        begin = time.process_time()
        codec.decode(blob, lambda header: layout)
        best = min(best, time.process_time() - begin)
    assert phi.size / best >= 60e6, f"{phi.size / best / 1e6:.1f} million weights a second"
