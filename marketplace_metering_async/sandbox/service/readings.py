"""The switches of Rules as a table: what each decides, by which page, and how it may be read."""

import re
from collections.abc import Mapping
from datetime import timedelta
from functools import cache
from inspect import getdoc
from types import MappingProxyType
from typing import Any, Final, Literal, get_args, get_origin

import attrs
from attrs import frozen

from marketplace_metering_async.sandbox.service.rules import Rules

PRESETS: Final[Mapping[str, Rules]] = MappingProxyType(
    {"usual": Rules(), "strict": Rules.strict(), "kind": Rules.kind()}
)
"""Rules by a word: as a sandbox has them, and those that refuse or take whatever they may."""


@frozen(kw_only=True)
class Reading:
    """
    A switch of Rules.

    Attributes:
        switch: Its name.
        means: What it decides.
        source: What the service's pages say of it, and which.
        open: Whether they leave it open; otherwise it is a figure that they give.
        value: How it is read now.
        usual: How it is read by default.
        strict: How it is read by `Rules.strict()`.
        kind: How it is read by `Rules.kind()`.
        form: Whether it has choices, or is a time or a set of texts.
        choices: How it may be read.
    """

    switch: str
    means: str
    source: str
    open: bool
    value: Any
    usual: Any
    strict: Any
    kind: Any
    form: Literal["choice", "seconds", "texts"]
    choices: tuple[Any, ...] = ()

    @property
    def others(self) -> tuple[Any, ...]:
        """How it may be read otherwise than by default, where it is open."""
        if not self.open:
            return ()
        known = self.choices or (self.strict, self.kind)
        return tuple(one for one in dict.fromkeys(known) if one != self.usual)


def readings(rules: Rules) -> list[Reading]:
    """Return all switches in their order, as *rules* have them."""
    return [
        Reading(
            switch=field.name,
            means=meanings().get(field.name, ""),
            source=field.metadata["source"],
            open=field.metadata.get("open", False),
            value=getattr(rules, field.name),
            **{word: getattr(preset, field.name) for word, preset in PRESETS.items()},
            **_form_of(field),
        )
        for field in attrs.fields(attrs.resolve_types(Rules))
    ]


def each_reading() -> dict[str, Rules]:
    """Return the presets, and for each open switch its other readings, by a name for people."""
    one_by_one = {
        f"{reading.switch}={_word(value)}": Rules(**{reading.switch: value})
        for reading in readings(Rules())
        for value in reading.others
    }
    return {**PRESETS, **one_by_one}


def _word(value: object) -> str:
    return f"{value.total_seconds():g}s" if isinstance(value, timedelta) else str(value)


def _form_of(field: "attrs.Attribute[Any]") -> dict[str, Any]:
    if get_origin(field.type) is Literal:
        return {"form": "choice", "choices": get_args(field.type)}
    if field.type is bool:
        return {"form": "choice", "choices": (False, True)}
    return {"form": "seconds" if field.type is timedelta else "texts"}


@cache
def meanings() -> dict[str, str]:
    """Return what the documentation of Rules says of each switch; nothing under `python -OO`."""
    text = (getdoc(Rules) or "").partition("Attributes:")[2]
    parts = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", text, re.MULTILINE)
    return {name: " ".join(said.split()).replace("``", "") for name, said in parts}
