"""How many examples a property takes that is cheaper, or dearer, than most."""

from hypothesis import settings

_FAST = settings.get_profile("fast").max_examples


def examples(fast: int) -> int:
    """*fast* examples in the fast profile; in another one more by as much as for any property."""
    return fast * settings().max_examples // _FAST
