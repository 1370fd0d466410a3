"""The tables of the documentation show the result files."""

import re

import pytest

from benchmarks import pages, reliability

PAGES = [path for path in pages.pages() if path.exists()]
NAMES = [str(path.relative_to(pages.ROOT)) for path in PAGES]


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_a_page_is_up_to_date(path):
    text = path.read_text()
    assert pages.updated(text, path.name) == text, "run python benchmarks/pages.py"


def test_every_table_stands_on_one_page():
    found = [name for path in PAGES for name in pages.tables_on(path.read_text())]
    assert sorted(found) == sorted(pages.TABLES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table: peers -->\n", "without '<!-- end -->'"),
        ("<!-- table: nothing -->\n<!-- end -->\n", "no such table: 'nothing'"),
    ],
)
def test_a_wrong_marker_is_an_error(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        pages.updated(text)


def test_what_stands_between_the_markers_is_replaced_and_nothing_else():
    text = "before\n<!-- table: goals -->\nold\n<!-- end -->\nafter\n"
    new = pages.updated(text)
    assert new.startswith("before\n<!-- table: goals -->\n\n| goal |")
    assert new.endswith("|\n\n<!-- end -->\nafter\n")
    assert pages.updated(new) == new


def test_every_figure_of_reliability_is_in_the_table():
    names = {name for claim in reliability.CLAIMS for name in claim.tests}
    assert names == {path.stem for path in reliability.FIGURES.glob("*.json")}
