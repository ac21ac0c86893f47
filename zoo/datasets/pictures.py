"""Pictures are opened here: whatever is wrong with one is `WrongData` with its name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING

from zoo.errors import WrongData
from zoo.preprocessing import MEGAPIXELS

if TYPE_CHECKING:
    from PIL.Image import Image

LARGEST = MEGAPIXELS * 10**6  # pixels


def read(
    source: str | os.PathLike | IO[bytes], name: object = None, mode: str | None = None, formats: Sequence[str] | None = None
) -> Image:
    """The decoded picture; the file is closed again.

    name: what messages call it, if not `source`; mode: that of Pillow to convert it into; formats: those that are allowed.
    Raises `WrongData` for what is no picture, is damaged, or has more than LARGEST pixels, of which none is then decoded.
    """
    from PIL import Image

    name = source if name is None else name
    try:
        with Image.open(source, formats=formats) as image:
            if image.format == "EPS":  # a program, which Pillow gives to Ghostscript to run
                raise WrongData(f"{name} is PostScript, a program and no picture: convert it")
            if image.width * image.height > LARGEST:
                raise WrongData(f"{name} has {image.width:,} x {image.height:,} pixels, expected at most {LARGEST:,}")
            image.load()
            return image if mode is None else image.convert(mode)
    except WrongData:
        raise
    except Exception as error:  # every format's reader raises errors of its own at a broken file
        raise WrongData(f"{name} is no readable picture ({error})") from error
