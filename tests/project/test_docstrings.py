"""What is public is described: each class, member, method and value that a program may see."""

import enum
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import attrs
from support.reference import HALLS


def public_classes() -> Iterator[type[Any]]:
    found = {
        thing
        for hall in map(import_module, HALLS)
        for name in hall.__all__
        if inspect.isclass(thing := getattr(hall, name))
    }
    yield from sorted(found, key=lambda thing: thing.__qualname__)


def undescribed(thing: type[Any]) -> Iterator[str]:
    """Yield what of a class has no description."""
    words = f"{thing.__doc__ or ''} {thing.__init__.__doc__ or ''}"
    if not (thing.__doc__ or "").strip():
        yield thing.__name__
    names: list[str] = []
    if "__attrs_attrs__" in vars(thing):  # otherwise they are a base's, which describes them
        names = [one.name for one in attrs.fields(thing) if not one.name.startswith("_")]
    elif issubclass(thing, tuple):
        names = list(getattr(thing, "_fields", ()))
    for name in names:
        if not re.search(rf"\b{name}\b", words):
            yield f"{thing.__name__}.{name}"
    if issubclass(thing, enum.Enum):
        source = inspect.getsource(thing)
        for member in thing:
            if not re.search(rf'\b{member.name} = .*\n\s+"""', source):
                yield f"{thing.__name__}.{member.name}"
    for name, part in vars(thing).items():
        is_shown = inspect.isfunction(part) or isinstance(part, property)
        if is_shown and not name.startswith("_") and not (part.__doc__ or "").strip():
            yield f"{thing.__name__}.{name}()"


def test_all_that_is_public_is_described() -> None:
    """
    All attributes and members, of the sandbox's and the tests' too.
    """
    assert [] == [gap for thing in public_classes() for gap in undescribed(thing)]
