"""What the service takes, and what is most likely wrong all the same."""

from typing import Final

_DIGITS: Final = 12


def doubt_of_account(account: str | None) -> str:
    """Return what is odd about an account id, or nothing; spreadsheets drop leading zeros."""
    if account is None or len(account) == _DIGITS:
        return ""
    return (
        f"AWS account ids have {_DIGITS} digits, and this one has {len(account)}: was a leading "
        "zero lost?"
    )
