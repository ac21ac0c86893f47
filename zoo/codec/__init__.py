"""Bytes <-> integers and tables. Knows no network: who calls tells which tensors a name justifies (FORMAT.md)."""

from zoo.codec import classes, context, entropy, live
from zoo.codec.container import Coded, Header, Part, anatomy, decode, encode, psi_round, read_header

__all__ = ["Coded", "Header", "Part", "anatomy", "decode", "encode", "psi_round", "read_header"]

entropy.MODELS.update({model.name: model for model in (context.Context, classes.Classes, live.Live)})
