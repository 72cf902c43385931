"""A virtual year with twelve month ends; more of them by a command (see year.py)."""

from random import SystemRandom

from campaigns.year import a_year


def test_a_year_bills_each_month_its_usage() -> None:
    """
    Every unit is metered in its month or named with the reason; what was relayed in time is
    metered. Covers: H07, H17, B09
    """
    seed = SystemRandom().randrange(2**32)
    try:
        a_year(seed)
    except BaseException as error:
        error.add_note(f"repeat with: python tests/campaigns/year.py --years 1 --seed {seed}")
        raise
