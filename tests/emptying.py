"""Between tests that commit, tables are emptied; the audit trail refuses that, so its trigger is put aside meanwhile.

What the trigger refuses is asked in tests/portal/accounts/test_audit.py; here the owner of a test's database takes it
off in the same transaction and puts it back.
"""

from __future__ import annotations

from typing import Any

from django.db.backends.postgresql.operations import DatabaseOperations

TABLE = "audit_auditevent"
_sql_flush = DatabaseOperations.sql_flush


def sql_flush(self: Any, style: Any, tables: list[str], **how: Any) -> list[str]:
    statements = _sql_flush(self, style, tables, **how)
    if TABLE not in tables:
        return statements
    aside = f"ALTER TABLE {TABLE} DISABLE TRIGGER append_only"
    back = f"ALTER TABLE {TABLE} ENABLE ALWAYS TRIGGER append_only"
    return [aside, *statements, back]


DatabaseOperations.sql_flush = sql_flush  # type: ignore[method-assign]
