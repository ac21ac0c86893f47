"""What differs between the tensors that a network wants and those that are there, in words that help."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

Shapes = Mapping[str, tuple[int, ...]]
SHOWN = 4  # names of a kind


def explain(present: Shapes, wanted: Shapes, network: str) -> str | None:
    """A sentence on what is missing, unexpected and of another shape in a state dict for `network`; None if nothing is."""
    missing = [name for name in wanted if name not in present]
    unexpected = [name for name in present if name not in wanted]
    reshaped = [f"{name} {present[name]}, expected {wanted[name]}" for name in wanted
             if name in present and tuple(present[name]) != tuple(wanted[name])]  # fmt: skip
    if not (missing or unexpected or reshaped):
        return None
    lists = (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
    text = "; ".join(f"{fault}: {_abridged(names)}" for fault, names in lists if names)
    hint = nearest(present)
    return f"these are not the tensors of {network}: {text}" + (f". {hint}" if hint else "")


def nearest(present: Shapes) -> str | None:
    """Which network of the zoo has such tensors, as advice; None if none is near."""
    from zoo import networks

    best, share = None, 0.5
    for name in networks.names():
        wanted = networks.shapes(name)
        same = sum(1 for tensor, shape in wanted.items() if tuple(present.get(tensor, ())) == tuple(shape))
        needed = max(len(wanted), len(present))
        if same / needed > share:
            best, share = name, same / needed
    if best is None:
        return None
    wanted = networks.shapes(best)
    last = [name for name, shape in wanted.items() if len(shape) == 2][-1]
    classes = present.get(last, (0,))[0]
    if classes and classes != networks.spec(best).classes_count and tuple(present[last][1:]) == tuple(wanted[last][1:]):
        return f"{classes} classes: use {best}:{classes}"
    return f"The nearest network is {best}" if share < 1 else f"They are those of {best}"


def strides(present: Mapping[str, object], wanted: Mapping[str, object]) -> list[str]:
    """Layers, modules by name, that hold the same tensors but compute something else: another stride, padding, epsilon."""
    fields = ("stride", "padding", "dilation", "groups", "padding_mode", "eps", "output_padding")
    differences = []
    for name, layer in wanted.items():
        for field in fields:
            a, b = getattr(present.get(name), field, None), getattr(layer, field, None)
            if a is not None and b is not None and _pair(a) != _pair(b):
                differences.append(f"{name}.{field} is {a}, in the file's network {b}")
    return differences


def near(name: str, names: Sequence[str]) -> str:
    """", nearest: ..." for a name that is none of these; "" where none resembles it."""
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"; nearest: {', '.join(close)}" if close else ""


def _pair(value: object) -> object:
    return (value, value) if isinstance(value, int) else value


def _abridged(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
