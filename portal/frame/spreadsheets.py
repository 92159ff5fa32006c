"""Tables as CSV that a spreadsheet shows as what they are."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from io import StringIO
from typing import Any

from django.http import HttpResponse

RISKY = ("=", "+", "-", "@", "\t", "\r")


def safe(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula gets an apostrophe before it; numbers stay numbers."""
    return f"'{value}" if isinstance(value, str) and value.startswith(RISKY) else value


def answer(rows: Iterable[Iterable[Any]], name: str) -> HttpResponse:
    """The rows as a download; None is an empty cell."""
    text = StringIO()
    writer = csv.writer(text)
    for row in rows:
        writer.writerow("" if value is None else safe(value) for value in row)
    response = HttpResponse(text.getvalue(), content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="{name}.csv"'
    return response
