"""Whether an answer is what a case expects; pure."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from attrs import frozen

_NO_LIST: Final = "what is no list"


@frozen(kw_only=True)
class Answer:
    """
    What a client makes of one call.

    Attributes:
        status: The HTTP status; None: the client does not say; 0: there was no answer.
        reply: The members of a success.
        code: The code of an error.
        modelled: Whether the error is one of the client's own classes; None: it has none.
        cannot: Why the client cannot make this call at all.
    """

    status: int | None = None
    reply: Mapping[str, Any] | None = None
    code: str | None = None
    modelled: bool | None = None
    cannot: str | None = None

    def __str__(self) -> str:
        """Say it in a few words."""
        if self.reply is None:
            return " ".join(str(part) for part in (self.status, self.code) if part) or "no answer"
        parts = [*statuses_of(self.reply), *_unprocessed_of(self.reply)]
        return _counted(parts) or "success"


def complaints(expected: Mapping[str, Any], answer: Answer) -> list[str]:
    """Return what is not as *expected*, a line each; none where all is."""
    if "code" in expected or "refused" in expected:
        return list(_about_an_error(expected, answer))
    if answer.reply is None:
        return [f"expected {expectation(expected)}, got {answer}"]
    return list(_about_a_success(expected, answer.reply))


def differences(expected: Any, found: Any, where: str = "") -> Iterator[str]:  # noqa: ANN401 - JSON
    """Return where *found* lacks what is expected; it may have more."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for name, value in expected.items():
            yield from differences(value, found.get(name), f"{where}{name}.")
    elif expected != found:
        yield f"{where.rstrip('.')}: expected {expected!r}, got {found!r}"


def expectation(expected: Mapping[str, Any]) -> str:
    """Say what is expected in a few words."""
    if "code" in expected:
        return str(expected["code"])
    if "refused" in expected:
        return f"refused with {expected.get('http', 'a 4xx')}"
    parts = [*expected.get("statuses", ()), *(["unprocessed"] * expected.get("unprocessed", 0))]
    return _counted(parts) or "success"


def statuses_of(reply: Mapping[str, Any]) -> list[str]:
    """Return the statuses of a reply, in an order that stays."""
    results = reply.get("Results") or []
    if not isinstance(results, list):
        return [_NO_LIST]
    return sorted(str(member(one, "Status")) for one in results)


def _unprocessed_of(reply: Mapping[str, Any]) -> list[str]:
    """Return a word for each record that a reply leaves open."""
    left = reply.get("UnprocessedRecords")
    if left is None or isinstance(left, list):
        return ["unprocessed"] * len(left or ())
    return [_NO_LIST]


def member(reply: Any, path: str) -> Any:  # noqa: ANN401 - JSON
    """Return what stands in a reply at a *path* such as Results.0.Status; None if nothing does."""
    for name in path.split("."):
        if isinstance(reply, list) and name.isdecimal() and int(name) < len(reply):
            reply = reply[int(name)]
        elif isinstance(reply, Mapping):
            reply = reply.get(name)
        else:
            return None
    return reply


def _about_an_error(expected: Mapping[str, Any], answer: Answer) -> Iterator[str]:
    if answer.reply is not None or answer.status == 0:
        yield f"expected {expectation(expected)}, got {answer}"
        return
    if "refused" in expected and answer.status is not None and not 400 <= answer.status < 500:
        yield f"expected a refusal, got {answer}"
    elif expected.get("code", answer.code) != answer.code:
        yield f"expected {expected['code']}, got {answer}"
    elif answer.status is not None and expected.get("http", answer.status) != answer.status:
        yield f"expected status {expected['http']}, got {answer}"
    if expected.get("modelled") and answer.modelled is False:
        yield f"{answer.code} is no class of the client's own"


def _about_a_success(expected: Mapping[str, Any], reply: Mapping[str, Any]) -> Iterator[str]:
    if "statuses" in expected:
        wanted = sorted(expected["statuses"])
        left = ["unprocessed"] * expected.get("unprocessed", 0)
        if statuses_of(reply) != wanted or _unprocessed_of(reply) != left:
            yield f"expected {expectation(expected)}, got {Answer(reply=reply)}"
    for path in expected.get("has", ()):
        if not member(reply, path):
            yield f"{path} is missing"
    for path in expected.get("lacks", ()):
        if member(reply, path):
            yield f"{path} is there"
    for path, value in expected.get("members", {}).items():
        if member(reply, path) != value:
            yield f"{path}: expected {value!r}, got {member(reply, path)!r}"


def _counted(parts: list[str]) -> str:
    counts = {part: parts.count(part) for part in sorted(parts)}
    return ", ".join(f"{count} {part}" if count > 1 else part for part, count in counts.items())
