"""Parameters of a ledger's URL that are ours, and not the database's."""

from urllib.parse import unquote


def taken_from(url: str, name: str) -> tuple[str, str | None]:
    """Return *url* without its parameter *name*, and the value of that; None: there was none."""
    start, question, query = url.partition("?")
    parts = query.split("&")
    others = [part for part in parts if part.partition("=")[0] != name]
    if len(others) == len(parts):
        return url, None
    *_, value = (part.partition("=")[2] for part in parts if part not in others)
    rest = "&".join(others)
    return f"{start}{question if rest else ''}{rest}", unquote(value)
