"""A short round of the fuzzer in every run."""

from random import SystemRandom

from campaigns.fuzz import fuzz


def test_mutated_answers_give_documented_errors_only() -> None:
    """
    Whatever is done to an answer. Covers: R10, R11, R13, A18
    """
    seed = SystemRandom().randrange(2**32)
    try:
        fuzz(5_000, seed)
    except BaseException as error:
        error.add_note(f"repeat with: python tests/campaigns/fuzz.py --answers 5000 --seed {seed}")
        raise
