"""Queries of one shape, turned into SQL by the ORM once and then asked with other values.

Putting `visible_to` into SQL takes the ORM several times as long as the database takes to answer. Here that is done
with stand-ins for the user and the other values, which are replaced in the parameters afterwards: the rules stay where
they are, in `visible_to`. Where `plan` says so the database keeps its plan as well (a prepared statement):
for look-ups, but not for searches, whose best plan depends on how frequent a value is.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from datetime import date, timedelta
from typing import Any

import psycopg
from django.core.exceptions import EmptyResultSet
from django.db import connection
from django.db.models import Field, ForeignKey, Lookup, Q, QuerySet

from portal.accounts.models import User

# (user, values) → the query, with `values_list`. Of the user it may depend on the key and on what `_standing` tells.
Build = Callable[[User, Sequence[Any]], QuerySet[Any, Any]]
_FIRST = 2_000_000_000  # stand-ins for numbers: within every column, far from every key
_PREPARE_AFTER = 2  # executions


@ForeignKey.register_lookup
@Field.register_lookup
class AnyOf(Lookup):
    """`column = ANY(array)`: like `__in`, but the same SQL for any number of values."""

    lookup_name = "any_of"

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, tuple[Any, ...]]:
        left, left_values = self.process_lhs(compiler, connection)
        return f"{left} = ANY(%s)", (*left_values, self.rhs)

    def get_prep_lookup(self) -> Any:
        return list(self.rhs)


class _Asked(Exception):
    """A query set asked the database while it was built, so its SQL may depend on the answer."""


def rows(
    shape: Hashable,
    build: Build,
    user: User,
    values: Sequence[Any],
    page: tuple[int, int] | None = None,
    *,
    plan: bool = True,
) -> list[tuple[Any, ...]]:
    """The rows of `build(user, values)`; the calls of one `shape` differ in nothing else. `page`: limit, offset."""
    found = _prepared(shape, user, tuple(map(_kind, values)), build)
    if found is None:
        query = build(user, values)
        return list(query[page[1] : page[1] + page[0]] if page else query)
    sql, slots, converters = found
    given = (user.pk, user.only_project, *values)
    parameters = [constant if slot is None else given[slot] for slot, constant in slots]
    if page is not None:
        sql += " LIMIT %s OFFSET %s"
        parameters += page
    with _cursor(plan) as cursor:
        cursor.execute(sql, parameters)
        found_rows: list[tuple[Any, ...]] = cursor.fetchall()
    return [_converted(row, converters) for row in found_rows] if converters else found_rows


def _converted(row: tuple[Any, ...], converters: dict[int, Any]) -> tuple[Any, ...]:
    """What Django makes of values that the driver leaves as text, JSON for example."""
    values = list(row)
    for position, (functions, expression) in converters.items():
        for function in functions:
            values[position] = function(values[position], expression, connection)
    return tuple(values)


def _cursor(plan: bool) -> Any:
    """A cursor that sends values apart from the statement, which a prepared one needs; Django's puts them in."""
    connection.ensure_connection()
    server: Any = connection.connection
    server.prepare_threshold = _PREPARE_AFTER if plan else None
    return connection._prepare_cursor(psycopg.Cursor(server))  # type: ignore[attr-defined]  # counted and logged as any


# SQL; for each parameter the slot of its value (0: the user's key, 1: that of a token's project) or a constant;
# converters by column
Statement = tuple[str, list[tuple[int | None, Any]], dict[int, Any]]
_KEPT: dict[Hashable, Statement | None] = {}
_MOST = 1000


def _standing(user: User) -> tuple[bool, ...]:
    """All that `visible_to` may look at before it makes a query."""
    return bool(user.is_superuser), bool(user.is_active), bool(user.is_authenticated), user.only_project is None


def _prepared(shape: Hashable, user: User, kinds: tuple[str, ...], build: Build) -> Statement | None:
    key = (shape, _standing(user), kinds)
    try:
        return _KEPT[key]
    except KeyError:
        pass
    if len(_KEPT) >= _MOST:
        _KEPT.clear()
    _KEPT[key] = found = _compiled(user, kinds, build)
    return found


def _compiled(user: User, kinds: tuple[str, ...], build: Build) -> Statement | None:
    """None where the query cannot be prepared."""
    stand_ins = [_FIRST, _FIRST + 1, *(_stand_in(kind, k) for k, kind in enumerate(kinds, 2))]
    somebody = User(pk=stand_ins[0], is_active=user.is_active, is_superuser=user.is_superuser)
    somebody.only_project = None if user.only_project is None else stand_ins[1]
    try:
        with connection.execute_wrapper(_refuse):
            compiler: Any = build(somebody, stand_ins[2:]).query.get_compiler(connection=connection)
            sql, given = compiler.as_sql()
    except (_Asked, EmptyResultSet):
        return None
    slots = [(_slot(value, stand_ins), str(value) if isinstance(value, str) else value) for value in given]
    if not {slot for slot, _ in slots} >= set(range(2, len(stand_ins))):
        return None
    return sql, slots, compiler.get_converters([column[0] for column in compiler.select])


def _slot(value: Any, stand_ins: list[Any]) -> int | None:
    return next((k for k, one in enumerate(stand_ins) if type(one) is type(value) and one == value), None)


def _refuse(*_: Any) -> Any:
    raise _Asked


def _kind(value: Any) -> str:
    return f"list of {_kind(value[0]) if value else 'int'}" if isinstance(value, list) else type(value).__name__


def _stand_in(kind: str, number: int) -> Any:
    if kind.startswith("list of "):
        return [_stand_in(kind.removeprefix("list of "), number)]
    return {"int": _FIRST + number, "str": f"\x01{number}", "date": date(1, 1, 1) + timedelta(days=number)}[kind]


def taken_apart(condition: Q) -> tuple[Hashable, list[Any]]:
    """The shape of a condition and its values in order."""
    shape: list[Hashable] = [condition.connector, condition.negated]
    values: list[Any] = []
    child: Any
    for child in condition.children:
        if isinstance(child, Q):
            inner, more = taken_apart(child)
            shape.append(inner)
            values += more
        elif isinstance(child[1], list):
            shape.append((child[0], len(child[1])))
            values += child[1]
        else:
            shape.append((child[0], None))
            values.append(child[1])
    return tuple(shape), values


def put_together(shape: Any, values: Any) -> Q:
    """The condition of a shape with the next values of an iterator."""
    connector, negated, *parts = shape
    children: list[Any] = []
    for part in parts:
        if isinstance(part[1], bool):  # a condition within
            children.append(put_together(part, values))
        else:
            lookup, length = part
            children.append((lookup, next(values) if length is None else [next(values) for _ in range(length)]))
    return Q(*children, _connector=connector, _negated=negated)
