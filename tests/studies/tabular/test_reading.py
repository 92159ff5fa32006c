from __future__ import annotations

import io
import zipfile
from datetime import datetime

import openpyxl
import pytest

from studies.tabular import reading
from studies.tabular.problems import TableError

TEXT = "PatientID;Größe;Straße\nP1;1,5;Königsallee\nP2;2,5;Œuvre\n"


def workbook(rows, title="Sheet", **others) -> bytes:
    book = openpyxl.Workbook()
    book.active.title = title
    for row in rows:
        book.active.append(row)
    for name, more in others.items():
        sheet = book.create_sheet(name)
        for row in more:
            sheet.append(row)
    stream = io.BytesIO()
    book.save(stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("python", "found"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8"),
        ("utf-16", "utf-16"),
        ("utf-16-le", "utf-16"),
        ("utf-16-be", "utf-16"),
        ("cp1252", "cp1252"),
    ],
)
def test_the_encoding_is_detected(python, found):
    table = reading.read(TEXT.encode(python))
    assert (table.encoding, table.delimiter) == (found, ";")
    assert table.header == ["PatientID", "Größe", "Straße"]
    assert table.rows[1].cells == ("P2", "2,5", "Œuvre")


def test_bytes_that_windows_1252_does_not_use_are_latin_1():
    assert reading.read("ID,x\n1,\x81ü\n".encode("latin-1")).encoding == "latin-1"


def test_a_file_of_two_encodings_names_the_row():
    data = "ID,Name\n1,Jörg Müller Öztürk\n".encode() + "2,Jörg\n".encode("cp1252")
    with pytest.raises(TableError) as refused:
        reading.read(data)
    assert (refused.value.code, refused.value.problem.row) == ("encoding", 3)


def test_an_encoding_that_does_not_fit_names_the_row():
    with pytest.raises(TableError) as refused:
        reading.read(TEXT.encode("cp1252"), encoding="utf-8")
    assert (refused.value.code, refused.value.problem.row) == ("encoding", 1)


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_the_delimiter_is_detected(mark):
    table = reading.read(f"a{mark}b{mark}c\n1{mark}2{mark}3\n".encode())
    assert table.header == ["a", "b", "c"]


def test_rows_are_numbered_as_a_spreadsheet_does_also_after_cells_of_two_lines_and_blank_rows():
    table = reading.read(b'a,b\n1,"two\nlines"\n\n3,4\n')
    assert [(row.number, row.cells) for row in table.rows] == [(2, ("1", "two\nlines")), (5, ("3", "4"))]


def test_what_is_wrong_with_rows_and_headings_is_named():
    table = reading.read(b"a,a,,d\n1,2,3,4\n5,6\n7,8,9,10,11\n")
    assert [(problem.code, problem.row, problem.column) for problem in table.problems] == [
        ("heading_twice", 1, "a"), ("no_heading", 1, "column 3"), ("columns", 3, ""), ("columns", 4, ""),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty"),
        (b"\xef\xbb\xbf\r\n\r\n", "empty"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), "old_excel"),
        (b"PK\x03\x04 no zip", "damaged"),
        (b'a,b\n1,"x\n', "damaged"),
        (b"a,b\n1,\x002\n", "encoding"),
        (workbook([]), "empty"),
    ],
)
def test_what_is_no_table_is_refused_in_words(data, code):
    with pytest.raises(TableError) as refused:
        reading.read(data)
    assert refused.value.code == code
    assert refused.value.cause


def test_a_table_without_rows_says_so():
    (problem,) = reading.read(b"a,b\n").problems
    assert problem.code == "empty"


def test_a_workbook_keeps_numbers_and_dates_and_names_errors():
    data = workbook([["id", "date", "x"], [7, datetime(2020, 1, 31, 1, 9), 0.5], ["007", None, "#DIV/0!"]])
    table = reading.read(data)
    assert table.rows[0].cells == (7, datetime(2020, 1, 31, 1, 9), 0.5)
    assert table.rows[1].cells == ("007", None, None)
    assert [(problem.code, problem.row, problem.column) for problem in table.problems] == [("excel_error", 3, "x")]


def test_the_first_sheet_with_rows_is_read_or_the_one_that_is_named():
    data = workbook([], "Notes", Data=[["a"], [1]], More=[["b"], [2]])
    assert reading.read(data).sheet == "Data"
    assert reading.read(data, sheet="More").header == ["b"]
    with pytest.raises(TableError) as refused:
        reading.read(data, sheet="Gone")
    assert refused.value.code == "no_such_sheet"


def test_a_workbook_that_unpacks_to_the_sky_is_not_opened(monkeypatch):
    monkeypatch.setattr(reading, "MAX_UNPACKED", 100_000)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/workbook.xml", bytes(200_000))
    with pytest.raises(TableError) as refused:
        reading.read(stream.getvalue())
    assert refused.value.code == "too_large"
