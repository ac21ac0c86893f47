"""Bytes <-> integers and tables. Knows no network: who calls tells which tensors a name justifies (FORMAT.md).

Version 1 needs a `layout` for that (container.py); version 2 brings a table of its tensors (described.py).
"""

from zoo.codec import classes, context, described, entropy, interleaved, live
from zoo.codec.container import Coded, Header, Part, anatomy, decode, encode, psi_round
from zoo.codec.described import Description, Picture, Tensor, read_header

__all__ = [
    "Coded", "Description", "Header", "Part", "Picture", "Tensor", "anatomy", "decode", "described", "encode", "psi_round",
    "read_header",
]  # fmt: skip

entropy.MODELS.update(
    {model.name: model for model in (context.Context, classes.Classes, live.Live, interleaved.Interleaved)}
)
