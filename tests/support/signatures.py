"""What public signatures mention: hints of functions and fields, and the errors of docstrings."""

import builtins
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, get_args, get_type_hints

from aiobotocore.session import AioSession
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

PACKAGE = "marketplace_metering_async"
STRANGERS = {one.__name__: one for one in (AioSession, MeterProvider, TracerProvider)}
SPECIAL = {"__init__", "__call__", "__getitem__", "__iter__", "__aiter__", "__await__"}


def mentioned_by(name: str, thing: object, left_out: set[str]) -> Iterator[tuple[str, str]]:
    """Yield each name of ours that *thing* mentions, and where; *left_out* are not looked at."""
    if isinstance(thing, type):
        yield from _of_hints(name, thing, private=False)
        for base in thing.__bases__:
            yield from _of_hint(f"{name}'s base", base)
    elif not inspect.isfunction(thing):
        yield from _of_hint(name, thing)  # a name for a union
    functions = _functions(thing) if isinstance(thing, type) else [(name, thing)]
    for where, function in functions:
        if where not in left_out and inspect.isfunction(function):
            yield from _of_hints(where, inspect.unwrap(function))
            yield from ((error, f"{where} raises it") for error in _raised(function))


def _functions(owner: type) -> Iterator[tuple[str, object]]:
    for kind in owner.__mro__:
        if not kind.__module__.startswith(PACKAGE):
            continue
        for name, member in vars(kind).items():
            if name.startswith("_") and name not in SPECIAL:
                continue
            yield f"{kind.__name__}.{name}", _function(member)


def _function(member: object) -> object:
    match member:
        case staticmethod() | classmethod():
            return member.__func__
        case property():
            return member.fget
    return member


def _of_hints(
    where: str, thing: Callable[..., Any] | type, *, private: bool = True
) -> Iterator[tuple[str, str]]:
    for name, hint in get_type_hints(thing, localns=STRANGERS).items():
        if private or not name.startswith("_"):
            yield from _of_hint(f"{where}({name})", hint)


def _of_hint(where: str, hint: object) -> Iterator[tuple[str, str]]:
    if isinstance(hint, type) and hint.__module__.startswith(PACKAGE):
        yield hint.__name__, where
    for part in hint if isinstance(hint, list) else get_args(hint):
        yield from _of_hint(where, part)


def _raised(function: Callable[..., Any]) -> Iterator[str]:
    """Yield the errors that stand under "Raises:" and are none of Python's."""
    text = inspect.getdoc(function) or ""
    section = re.search(r"^Raises.*?(?=\n\n|\Z)", text, re.MULTILINE | re.DOTALL)
    for name in re.findall(r"\b\w+(?:Error|Exception)\b", section[0] if section else ""):
        if not hasattr(builtins, name):
            yield name
