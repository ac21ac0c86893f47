"""Import torchvision also where its compiled operators do not load."""

from __future__ import annotations

import sys
from types import ModuleType

# torchvision registers Python kernels for these while it is imported, and fails if nobody has declared them.
MISSING = ("nms", "qnms")
SYMPTOM = "operator torchvision::nms does not exist"

_declared = []  # a torch.library.Library withdraws its declarations when it is collected


def torchvision() -> ModuleType:
    """The torchvision package. Call this before the first import of torchvision or timm.

    The PyPI wheel of torchvision beside a CPU-only torch cannot load its operators, and then its import fails
    with a RuntimeError. Only on that error, the missing operators are declared without an implementation and
    the import is tried again: models, transforms, datasets and timm then work, detection operators and
    ``io.decode_image`` do not.

    Raises:
        ImportError: torchvision is not installed.
        RuntimeError: it fails to import for another reason.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if SYMPTOM not in str(error):
            raise
        _drop_half_imported()
        _declare()
        import torchvision
    return torchvision


def _drop_half_imported() -> None:
    for name in list(sys.modules):
        if name == "torchvision" or name.startswith("torchvision."):
            del sys.modules[name]


def _declare() -> None:
    if _declared:
        return
    from torch.library import Library

    library = Library("torchvision", "FRAGMENT")
    for operator in MISSING:
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)
