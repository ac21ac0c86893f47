"""Tables of a recipe as typed models: every key known, every value of its type, all faults reported at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError


class Table(BaseModel):
    """Base of recipes, their tables and the options of methods. Keys may be spelled by alias (`lambda`) or by field name."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)

    @classmethod
    def parse(cls, content: Mapping[str, Any] | Self, where: str) -> Self:
        """The table of a TOML or JSON file. Raises ValueError: `where`, then every fault with its key and what was found."""
        if isinstance(content, cls):
            return content
        try:
            return cls.model_validate(dict(content))
        except ValidationError as error:
            raise ValueError(f"{where}: {complaints(error)}") from error

    def plain(self) -> dict[str, Any]:
        """Numbers, strings, lists and dicts, as in a TOML or JSON file."""
        return self.model_dump(mode="json", by_alias=True)


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


Listed = BeforeValidator(_as_tuple)  # files have lists where a table has tuples: Annotated[tuple[int, ...], Listed]


def complaints(error: ValidationError) -> str:
    """All faults, separated by semicolons: each with its key, what was found and what was expected."""
    lines = []
    for fault in error.errors(include_url=False):
        key = ".".join(str(place) for place in fault["loc"] if not _is_type(place))
        if fault["type"] == "missing":
            lines.append(f"{key} is missing")
        elif fault["type"] == "extra_forbidden":
            lines.append(f"{key} is unknown")
        elif fault["type"] == "value_error":
            lines.append(f"{key}: {fault['ctx']['error']}" if key else str(fault["ctx"]["error"]))
        else:
            lines.append(f"{key} is {fault['input']!r}, {fault['msg'].replace('Input should be', 'expected')}")
    return "; ".join(lines)


def _is_type(place: str | int) -> bool:
    """Whether a place in a fault's path is an alternative of a union (`float | dict`), not a key."""
    return isinstance(place, str) and (place in ("float", "int", "str", "bool") or "[" in place)
