"""What tests of entropy models share."""

from zoo.codec import entropy
from zoo.codec.ans import Ans
from zoo.codec.bits import Reader, Writer


def round_trip(phi, shapes, name):
    """Integers that come back, bits of side information and stream, and the model that wrote them."""
    model = entropy.find(name).fit(phi, shapes)
    writer, coder = Writer(), Ans()
    model.write(writer)
    model.push(coder, phi)
    reader, words = Reader(writer.to_bytes()), coder.words()
    again, back = entropy.find(name).read(reader, phi.shape[1], shapes), Ans(words)
    result = again.pop(back)
    assert back.empty
    return result, 8 * len(writer) + 32 * len(words), model
