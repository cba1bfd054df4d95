from hypothesis import given, settings
from hypothesis import strategies as st

from rmt_rl.analysis.markdown import bracketed, half_width, markdown_table

CELLS = st.text("abc 01.", max_size=6)


def test_a_table_as_it_is_written() -> None:
    text = markdown_table(["agent", "success"], [["rate", "1.00"], ["bc", "0.50"]])
    assert text == "| agent | success |\n| --- | ---: |\n| rate | 1.00 |\n| bc | 0.50 |"


@settings(deadline=None)  # no test asserts a time
@given(st.integers(1, 4).flatmap(lambda width: st.lists(st.lists(CELLS, min_size=width, max_size=width), min_size=1)))
def test_padded_columns_line_up_and_hold_the_same_cells(rows: list[list[str]]) -> None:
    plain = markdown_table(rows[0], rows[1:]).splitlines()
    padded = markdown_table(rows[0], rows[1:], padded=True).splitlines()
    assert len({len(line) for line in padded}) == 1
    without_rule = [[cell.strip() for cell in line.split("|")] for line in (padded[0], *padded[2:])]
    assert without_rule == [[cell.strip() for cell in line.split("|")] for line in (plain[0], *plain[2:])]


def test_an_interval_is_shown_where_there_is_one() -> None:
    assert "0.50" + half_width((0.25, 0.75)) == "0.50 ± 0.25"
    assert "0.50" + bracketed((0.25, 0.75), 1) == "0.50 [0.2, 0.8]"
    assert half_width(None) == bracketed(None) == ""
