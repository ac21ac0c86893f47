"""Bytes <-> integers and tables (FORMAT.md). Nothing here knows a network.

A file of version 1 holds only the name of its network, so the caller passes a `layout`, which turns that name into shapes
of tensors (container.py). A file of version 2 holds a table of its tensors (described.py).
"""

from zoo.codec import classes, context, described, entropy, interleaved, live
from zoo.codec.container import Coded, GroupBytes, Header, anatomy, decode, encode, psi_round
from zoo.codec.described import Description, Picture, Tensor, read_header

__all__ = [
    "Coded", "Description", "GroupBytes", "Header", "Picture", "Tensor",
    "anatomy", "decode", "described", "encode", "psi_round",
    "read_header",
]  # fmt: skip

entropy.MODELS.update(
    {model.name: model for model in (context.Context, classes.Classes, live.Live, interleaved.Interleaved)}
)
