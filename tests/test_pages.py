"""Pages: to whoever reads them they are one list."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace_metering_async.pages import PAGE, Pages
from marketplace_metering_async.results import Merger, Outcome, RecordStatus, Verdict

SIZES = st.sampled_from([0, 1, 128, PAGE - 128, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE + 1])


def near_edges(size: int) -> st.SearchStrategy[int]:
    """Indices of a list of *size*, of which many stand at the edges of pages."""
    edges = [at for page in range(0, size, PAGE) for at in (page - 1, page) if 0 <= at < size]
    return st.integers(0, size - 1) | st.sampled_from(edges)


@given(st.data(), st.lists(SIZES, min_size=1, max_size=3))
def test_pages_are_one_list(data: st.DataObject, sizes: list[int]) -> None:
    """
    In length, order, single entries, from either end, and slices, however they were filled.
    """
    pages: Pages[int] = Pages()
    plain: list[int] = []
    for size in sizes:
        more = range(len(plain), len(plain) + size)
        pages.extend(more)
        plain += more

    assert len(pages) == len(plain)
    assert list(pages) == plain
    assert all(len(page) == PAGE for page in pages.pages[:-1])
    assert len(pages.pages[-1]) <= PAGE
    if plain:
        indices = data.draw(st.lists(near_edges(len(plain)), min_size=1))
        pages.put(indices[0], -1)
        plain[indices[0]] = -1
        assert pages.at(indices) == [plain[index] for index in indices]
        assert [pages[index] for index in indices] == [plain[index] for index in indices]
        assert [pages[~index] for index in indices] == [plain[~index] for index in indices]
        part = slice(min(indices) - 1, max(indices) + 2, data.draw(st.sampled_from([None, 7, -7])))
        assert pages[part] == plain[part]


@pytest.mark.parametrize("index", [0, -1, PAGE, 2 * PAGE])
def test_what_is_not_there_is_an_index_error(index: int) -> None:
    """
    As with any list.
    """
    with pytest.raises(IndexError):
        Pages[int]()[index]


def test_results_of_many_pages_stand_where_their_records_do() -> None:
    """
    Whatever order they come in; a second one is refused on every page, and so is a foreign one.
    """
    size = 2 * PAGE + 300
    done = Verdict(status=RecordStatus.SUCCESS)
    merger = Merger()
    for start in range(0, size, 128):
        merger.expect(range(start, min(start + 128, size)))

    for first in reversed(range(25)):
        positions = range(first, size, 25)
        merger.add([Outcome(done, positions, [f"id {position}" for position in positions])])
    for position in (0, PAGE - 1, PAGE, size - 1, size, -1):
        what = "second" if 0 <= position < size else "foreign"
        with pytest.raises(ValueError, match=f"a {what} result"):
            merger.add([Outcome(done, (position,), ("another",))])

    result = merger.merged(calls=1)
    assert size == len(result)
    assert all(r.position == r.record for r in result)
    assert all(r.metering_record_id == f"id {r.position}" for r in result)
    assert result[PAGE].position == PAGE
    assert [size - 1, size - 2] == [r.position for r in result[:-3:-1]]
