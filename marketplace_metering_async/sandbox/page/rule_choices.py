"""The switches of Rules as the page offers them: what each means, may be, and is by default."""

import re
from datetime import timedelta
from functools import cache
from typing import Any, Final, Literal, get_args, get_origin

import attrs

from marketplace_metering_async.sandbox.as_json import as_json
from marketplace_metering_async.sandbox.service.rules import Rules

_USUAL: Final = Rules()


def rule_choices(rules: Rules) -> list[dict[str, Any]]:
    """Return each switch with its value, its default, its choices or its kind, and its meaning."""
    return [
        {
            "name": field.name,
            "means": meanings().get(field.name, ""),
            "value": as_json(getattr(rules, field.name)),
            "usual": as_json(getattr(_USUAL, field.name)),
            **_kind_of(field),
        }
        for field in attrs.fields(attrs.resolve_types(Rules))
    ]


def _kind_of(field: "attrs.Attribute[Any]") -> dict[str, Any]:
    if get_origin(field.type) is Literal:
        return {"kind": "choice", "choices": list(get_args(field.type))}
    if field.type is bool:
        return {"kind": "choice", "choices": [False, True]}
    return {"kind": "seconds" if field.type is timedelta else "texts"}


@cache
def meanings() -> dict[str, str]:
    """Return what the documentation of Rules says of each switch."""
    text = (Rules.__doc__ or "").partition("Attributes:")[2]
    parts = re.findall(r"^        (\w+): (.*(?:\n            .*)*)", text, re.MULTILINE)
    return {name: " ".join(said.split()).replace("``", "") for name, said in parts}
