"""CSV and XLSX files as tables: encoding, delimiter and sheet are detected, or taken as told."""

from __future__ import annotations

import codecs
import csv
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from typing import Any

from studies.tabular.problems import Problem, TableError

MAX_BYTES = 128 << 20
MAX_UNPACKED = 1 << 30  # of a workbook, which is a zip archive
MAX_ROWS = 500_000
MAX_COLUMNS = 1000
MAX_CELL = 100_000  # characters
ENCODINGS = {"utf-8": "UTF-8", "utf-16": "UTF-16", "cp1252": "Windows-1252", "latin-1": "Latin-1 (ISO 8859-1)"}
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_ZIP, _OLE = b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_EXCEL_ERRORS = {"#N/A", "#DIV/0!", "#NAME?", "#NULL!", "#NUM!", "#REF!", "#VALUE!", "#GETTING_DATA"}
_UNUSED_IN_1252 = frozenset(b"\x81\x8d\x8f\x90\x9d")

Cell = str | int | float | bool | datetime | date | None


@dataclass(frozen=True)
class Row:
    """`number` as a spreadsheet counts; of a CSV record that spans lines the first. As many cells as the header has."""

    number: int
    cells: tuple[Cell, ...]


@dataclass
class Table:
    """`encoding` and `delimiter` are empty for workbooks, `sheet` and `sheets` for CSV."""

    header: list[str]
    rows: list[Row]
    problems: list[Problem] = field(default_factory=list)
    encoding: str = ""
    delimiter: str = ""
    sheet: str = ""
    sheets: list[str] = field(default_factory=list)

    def column(self, name: str) -> list[Cell]:
        at = self.header.index(name)
        return [row.cells[at] for row in self.rows]


def read(data: bytes, *, encoding: str = "", delimiter: str = "", sheet: str = "") -> Table:
    """A table from the bytes of a file. What is wrong with single rows is in its `problems`.

    Raises `TableError` (`empty`, `too_large`, `old_excel`, `damaged`, `encoding`, `no_such_sheet`, `no_header`).
    """
    if len(data) > MAX_BYTES:
        raise TableError("too_large", f"The file is larger than {MAX_BYTES >> 20} MB. Divide it.")
    if not data.strip(b"\0 \t\r\n"):
        raise TableError("empty", "The file is empty.")
    if data.startswith(_OLE):
        raise TableError(
            "old_excel", "The workbook is in the old Excel format or protected by a password. Save it as .xlsx or CSV."
        )
    if data.startswith(_ZIP):
        return _workbook(data, sheet)
    return _csv(data, encoding, delimiter)


def detect_encoding(data: bytes) -> str:
    """The encoding of a text file: by its byte order mark, else UTF-8 where that fits, else UTF-16 where every other
    byte is zero, else Windows-1252, or Latin-1 where bytes occur that Windows-1252 does not use.

    Raises `TableError` (`encoding`) where parts of the text are UTF-8 and parts are not.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if data.startswith(codecs.BOM_UTF8):
        return "utf-8"
    head = data[:4000]
    if len(head) >= 4 and (head[1::2].count(0) > 0.4 * len(head[1::2]) or head[::2].count(0) > 0.4 * len(head[::2])):
        return "utf-16"
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        if _looks_like_utf8(data):
            row = data.count(b"\n", 0, error.start) + 1
            raise TableError(
                "encoding",
                "Most of the text is UTF-8, but here it is not: the file was put together from two encodings. Save it"
                " again in one, or say which encoding counts.",
                row,
            ) from error
        return "latin-1" if _UNUSED_IN_1252 & set(data) else "cp1252"
    return "utf-8"


def _looks_like_utf8(data: bytes) -> bool:
    """Whether the text beyond ASCII holds whole characters of UTF-8, as no other encoding does by chance."""
    fitting = len(data.decode("utf-8", "ignore").encode("ascii", "ignore"))
    beyond_ascii = sum(byte > 127 for byte in data)
    in_utf8 = len(data.decode("utf-8", "ignore").encode("utf-8")) - fitting
    return beyond_ascii > 0 and in_utf8 > 0.5 * beyond_ascii


def decoded(data: bytes, encoding: str = "") -> tuple[str, str]:
    """Text and encoding. Raises `TableError` (`encoding`) with the row where the encoding told does not fit."""
    chosen = encoding or detect_encoding(data)
    if chosen not in ENCODINGS:
        raise TableError("encoding", f"There is no encoding {chosen!r} here. Choose from {', '.join(ENCODINGS)}.")
    if chosen == "utf-16":
        bom = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        python = "utf-16" if bom else "utf-16-le" if data[1:2] == b"\0" else "utf-16-be"
    else:
        python = "utf-8-sig" if chosen == "utf-8" else chosen
    try:
        return data.decode(python), chosen
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        raise TableError(
            "encoding", f"The text is not {ENCODINGS[chosen]}: a character cannot be read here. Choose another.", row
        ) from error


def _csv(data: bytes, encoding: str, delimiter: str) -> Table:
    text, chosen = decoded(data, encoding)
    if "\0" in text:
        raise TableError("encoding", "The text holds NUL characters; this is no text file, or its encoding is another.")
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), "")
    if first.lower().startswith("sep=") and len(first) == 5:  # what Excel writes and reads
        delimiter = delimiter or first[4]
        text = text.split(first, 1)[1].lstrip("\r\n")
        skipped = 1
    else:
        skipped = 0
    mark = delimiter or _delimiter(text)
    table = Table([], [], encoding=chosen, delimiter=mark)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    records: list[tuple[int, list[Any]]] = []
    start = 1 + skipped
    try:
        for record in reader:
            records.append((start, list(record)))
            start = reader.line_num + 1 + skipped
            if len(records) > MAX_ROWS + 1:
                raise TableError("too_large", f"The file has more than {MAX_ROWS:,} rows. Divide it.")
    except csv.Error as error:
        raise TableError(
            "damaged", f"The row cannot be taken apart ({error}). See its quotation marks.", reader.line_num + skipped
        ) from error
    return _filled(table, records)


def _delimiter(text: str) -> str:
    """The mark that divides the first lines into the same number of parts, the more the better."""
    best, most = ",", 0.0
    for mark in DELIMITERS:
        try:
            sample = csv.reader(io.StringIO(text[:100_000], newline=""), delimiter=mark)
            widths = [len(record) for record, _ in zip(sample, range(40), strict=False) if any(record)]
        except csv.Error:
            continue
        if not widths or widths[0] < 2:
            continue
        alike = sum(width == widths[0] for width in widths) / len(widths)
        score = alike * 1000 + widths[0]
        if score > most:
            best, most = mark, score
    return best


def _workbook(data: bytes, sheet: str) -> Table:
    import openpyxl
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_UNPACKED:
                raise TableError("too_large", "The workbook unpacks to more than 1 GB. Divide it.")
        values = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
    except TableError:
        raise
    except (zipfile.BadZipFile, InvalidFileException, KeyError, ValueError, OSError, TypeError, SyntaxError) as error:
        raise TableError("damaged", "The file is no workbook that can be opened. Save it again as .xlsx.") from error
    names = [one.title for one in values.worksheets if one.sheet_state == "visible"]
    if sheet and sheet not in names:
        raise TableError("no_such_sheet", f"The workbook has no sheet “{sheet}”. It has: {', '.join(names)}.")
    for name in [sheet] if sheet else names:
        table = Table([], [], sheet=name, sheets=names)
        found = _filled(table, _records(values[name]), if_empty=None)
        if found is not None:
            return found
    raise TableError("empty", "The workbook is empty.")


def _records(sheet: Any) -> list[tuple[int, list[Any]]]:
    records = []
    sheet.reset_dimensions()  # what a file claims about its size may be wrong
    for number, row in enumerate(sheet.iter_rows(values_only=True), start=1):
        if number > MAX_ROWS + 1:
            raise TableError("too_large", f"The sheet has more than {MAX_ROWS:,} rows. Divide it.")
        records.append((number, [_excel(cell) for cell in row]))
    return records


def _excel(cell: Any) -> Cell:
    if isinstance(cell, time):
        return cell.isoformat()
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 2**53:
        return int(cell)
    if cell is None or isinstance(cell, str | int | float | bool | datetime | date):
        return cell
    return str(cell)


def _filled(table: Table, records: Sequence[tuple[int, list[Any]]], if_empty: Any = TableError) -> Any:
    """The table with header, rows and what is wrong with them; blank rows are left out."""
    filled = [(number, cells) for number, cells in records if any(_text(cell) for cell in cells)]
    if not filled:
        if if_empty is None:
            return None
        raise TableError("empty", "The file has no rows.")
    _, heads = filled[0]
    header = [_text(cell) for cell in heads]
    while header and not header[-1]:
        header.pop()
    if len(header) > MAX_COLUMNS:
        raise TableError("too_large", f"The table has more than {MAX_COLUMNS} columns.")
    for at, name in enumerate(header):
        if not name:
            header[at] = f"column {at + 1}"
            table.problems.append(Problem("no_heading", "The column has no heading.", filled[0][0], header[at]))
        elif name in header[:at]:
            table.problems.append(Problem("heading_twice", "Two columns have this heading.", filled[0][0], name))
            header[at] = f"{name} ({at + 1})"
    table.header = header
    if len(filled) == 1:
        table.problems.append(Problem("empty", "The table has a header and no rows."))
    for number, cells in filled[1:]:
        table.rows.append(Row(number, tuple(_checked(table, number, cells))))
    return table


def _checked(table: Table, number: int, cells: list[Any]) -> list[Cell]:
    width = len(table.header)
    if any(_text(cell) for cell in cells[width:]) or (table.delimiter and len(cells) < width):
        table.problems.append(
            Problem(
                "columns",
                f"The row has {len(cells)} cells, the header {width}. See the delimiter and quotation marks.",
                number,
            )
        )
    checked: list[Cell] = []
    for at, cell in enumerate([*cells[:width], *[None] * (width - len(cells))]):
        value = cell.strip() if isinstance(cell, str) else cell
        if isinstance(value, str):
            if len(value) > MAX_CELL:
                table.problems.append(Problem("too_large", "The cell is too long.", number, table.header[at]))
                value = ""
            if value in _EXCEL_ERRORS and value != "#N/A":
                table.problems.append(
                    Problem("excel_error", f"The cell holds Excel's error {value}.", number, table.header[at])
                )
                value = ""
        checked.append(value if value != "" else None)
    return checked


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell).strip()
