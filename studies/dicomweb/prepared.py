"""Queries of one shape, turned into SQL by the ORM once and then asked with other values.

Putting `visible_to` into SQL takes the ORM longer than the database takes to answer. `Prepared` has it done with
stand-ins for the user and the other values, and replaces these in the parameters. So the rules stay in `visible_to`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from django.db import connection
from django.db.models import QuerySet

from portal.accounts.models import User

_FIRST = -7_300_000_000_000_000_000  # no key of a row is negative


class Prepared:
    """`build(user, *stand_ins)` gives the query set, with `values_list`. A stand-in that is the only member of an
    `__in` list is asked with a list."""

    def __init__(self, build: Callable[..., QuerySet[Any, Any]], values: int) -> None:
        self.build = build
        self.values = values
        self._sql: dict[bool, tuple[str, list[tuple[int | None, Any]]]] = {}

    def rows(self, user: User, *values: Any) -> list[tuple[Any, ...]]:
        sql, parameters = self._sql.get(user.is_superuser) or self._compiled(user.is_superuser)
        given = (user.pk, *values)
        with connection.cursor() as cursor:
            cursor.execute(sql, [constant if slot is None else given[slot] for slot, constant in parameters])
            return cursor.fetchall()

    def _compiled(self, superuser: bool) -> tuple[str, list[tuple[int | None, Any]]]:
        stand_ins = {_FIRST + slot: slot for slot in range(self.values + 1)}
        somebody = User(pk=_FIRST, is_active=True, is_superuser=superuser)
        query = self.build(somebody, *[value for value, slot in stand_ins.items() if slot]).query
        sql, given = query.sql_with_params()
        parameters = [(stand_ins.get(value) if type(value) is int else None, value) for value in given]
        pieces = sql.split("%s")
        if len(pieces) != len(parameters) + 1 or {slot for slot, _ in parameters if slot} != set(
            range(1, self.values + 1)
        ):
            raise AssertionError("a stand-in got lost on the way into SQL")
        for k, (slot, _) in enumerate(parameters):
            if slot and pieces[k].endswith(" IN (") and pieces[k + 1].startswith(")"):
                pieces[k] = re.sub(r" IN \($", " = ANY(", pieces[k])
        found = "%s".join(pieces), parameters
        self._sql[superuser] = found
        return found
