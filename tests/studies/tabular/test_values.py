from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from studies.tabular.values import Convention, Unreadable, date_order, decimal_mark, event, moment, number, text_of


@pytest.mark.parametrize(
    ("cells", "found"),
    [
        (["1.5", "2"], Convention(".")),
        (["1,5", "2"], Convention(",")),
        (["1.234,5", "7"], Convention(",")),
        (["1,234.5"], Convention(".")),
        (["1.234.567"], Convention(",")),
        (["0,123"], Convention(",")),
        (["1,234", "5,678"], Convention(".", ambiguous=True)),
        (["1,234", "5,5"], Convention(",")),
        (["1.234", "5.678"], Convention(".")),
        (["1,5", "1.5"], Convention(".", mixed=True)),
        ([1.5, 3, None, "n/a"], Convention(".")),
        (["1e3", "-"], Convention(".")),
    ],
)
def test_the_decimal_mark_of_a_column(cells, found):
    assert decimal_mark(cells) == found


def test_a_dot_before_three_digits_is_open_where_other_columns_have_decimal_commas():
    assert decimal_mark(["1.234"], commas_elsewhere=True).ambiguous


@pytest.mark.parametrize(
    ("cell", "mark", "value"),
    [
        ("1,5", ",", 1.5), ("1.234,5", ",", 1234.5), ("1,234.5", ".", 1234.5), ("1,234", ".", 1234.0),
        ("1,234", ",", 1.234), ("−3", ".", -3.0), ("1 234,5", ",", 1234.5), ("12'345.6", ".", 12345.6),
        ("1e-3", ".", 0.001), (",5", ",", 0.5), (7, ".", 7.0), (True, ".", 1.0),
    ],
)  # fmt: skip
def test_numbers(cell, mark, value):
    assert number(cell, mark) == value


@pytest.mark.parametrize(
    ("cell", "mark", "code"),
    [
        ("<0.1", ".", "not_a_number"), ("12 mg", ".", "not_a_number"), ("1.5", ",", "decimal"),
        ("1e999", ".", "not_a_number"), ("1,5", ".", "decimal"), (date(2020, 1, 1), ".", "not_a_number"),
        (float("nan"), ".", "not_a_number"),
    ],
)  # fmt: skip
def test_what_is_no_number_is_named(cell, mark, code):
    with pytest.raises(Unreadable) as refused:
        number(cell, mark)
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("cells", "found"),
    [
        (["2020-01-31", "20200201"], Convention("ymd")),
        (["31.01.2020", "03.04.2020"], Convention("dmy")),
        (["31/01/2020", "03/04/2020"], Convention("dmy")),
        (["01/31/2020", "03/04/2020"], Convention("mdy")),
        (["03/04/2020", "05/06/2020"], Convention("dmy", ambiguous=True)),
        (["03/03/2020"], Convention("ymd")),
        (["31/01/2020", "01/31/2020"], Convention("dmy", mixed=True)),
        ([datetime(2020, 1, 2), "n/a"], Convention("ymd")),
    ],
)
def test_the_order_of_dates_of_a_column(cells, found):
    assert date_order(cells) == found


@pytest.mark.parametrize(
    ("cell", "order", "iso"),
    [
        ("2020-01-31", "dmy", "2020-01-31T00:00:00"), ("20200131", "ymd", "2020-01-31T00:00:00"),
        (20200131, "ymd", "2020-01-31T00:00:00"), ("03/04/2020", "dmy", "2020-04-03T00:00:00"),
        ("03/04/2020", "mdy", "2020-03-04T00:00:00"), ("3.4.2020 14:05", "dmy", "2020-04-03T14:05:00"),
        ("01/31/2020 1:09 PM", "mdy", "2020-01-31T13:09:00"), ("12/01/2020 12:30 AM", "mdy", "2020-12-01T00:30:00"),
        ("2020-01-31T01:09:47", "ymd", "2020-01-31T01:09:47"), (date(2020, 1, 2), "dmy", "2020-01-02T00:00:00"),
    ],
)  # fmt: skip
def test_dates(cell, order, iso):
    assert moment(cell, order) == datetime.fromisoformat(iso).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("cell", "order", "code"),
    [
        ("31/02/2020", "dmy", "no_such_day"), ("01/31/20", "mdy", "year"), ("soon", "dmy", "not_a_date"),
        ("2020-13-01", "ymd", "no_such_day"), (43861, "ymd", "not_a_date"), ("13/01/2020", "mdy", "no_such_day"),
        ("2020-01-31 25:00", "ymd", "no_such_day"),
    ],
)  # fmt: skip
def test_what_is_no_date_is_named(cell, order, code):
    with pytest.raises(Unreadable) as refused:
        moment(cell, order)
    assert refused.value.code == code


def test_events_and_identifiers():
    assert [event(cell) for cell in (1, "Dead", "yes", 0, "censored", False)] == [True, True, True, False, False, False]
    with pytest.raises(Unreadable):
        event("perhaps")
    assert [text_of(cell) for cell in (7.0, "007", None, datetime(2020, 1, 2))] == ["7", "007", "", "2020-01-02"]
