"""Pages of REST lists."""

from __future__ import annotations

from rest_framework.pagination import LimitOffsetPagination
from rest_framework.request import Request

MAX_OFFSET = 2**31 - 1  # further than any list reaches; larger numbers the database cannot count to


class Pages(LimitOffsetPagination):
    """`limit` (at most 1,000) and `offset`."""

    max_limit = 1000

    def get_offset(self, request: Request) -> int:
        return min(super().get_offset(request), MAX_OFFSET)
