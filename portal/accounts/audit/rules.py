"""What the audit trail says about a route; the table itself is named by the setting `AUDIT_RULES`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from django.apps import apps
from django.conf import settings
from django.http import HttpRequest
from django.utils.module_loading import import_string


@dataclass(frozen=True)
class Subject:
    """The object that a route shows: `field` of `model` equals the argument `argument` of the route (or of the query).

    project, patient: the look-ups from there to the keys; empty where the object has none.
    """

    model: str
    project: str = ""
    patient: str = ""
    argument: str = "pk"
    field: str = "pk"
    query: str = ""
    slug: str = ""  # the look-up of the project's short name, where the route has one

    def found(self, request: HttpRequest, arguments: Mapping[str, Any], *, denied: bool) -> Found | None:
        """The object, if there is one. What was not denied is looked for among what the user may see."""
        value = arguments.get(self.argument) or (request.GET.get(self.query) if self.query else None)
        if value in (None, "") or (self.field == "pk" and not str(value).isdecimal()):
            return None
        columns = ["pk", *filter(None, (self.project, self.patient))]
        rows: Any = apps.get_model(self.model)._default_manager.all()
        if not denied and hasattr(rows, "visible_to"):
            rows = rows.visible_to(request.user)
        if self.slug and arguments.get("slug"):
            rows = rows.filter(**{self.slug: arguments["slug"]})
        rows = rows.filter(**{self.field: value}).order_by("pk")
        row = rows.values_list(*columns).first()
        if row is None:
            return None
        values = dict(zip(columns, row, strict=True))
        return Found(self.model.lower(), row[0], values.get(self.project), values.get(self.patient))


@dataclass(frozen=True)
class Found:
    kind: str
    key: Any
    project: int | None = None
    patient: int | None = None


@dataclass(frozen=True)
class Rule:
    """`action` is recorded for a route, once in `seconds` (0: every time). An empty action: nothing is recorded.

    by_service: what is done here records itself, so a request that was let in and left no row failed.
    """

    action: str
    subject: Subject | None = None
    seconds: int = 0
    by_service: bool = False


NOTHING = Rule("")
# Routes that the table does not name: nothing goes unseen because somebody forgot a line.
SEEN, CHANGED, FETCHED = Rule("page.view", seconds=600), Rule("page.change"), Rule("file.export")


@lru_cache(maxsize=1)
def table() -> Mapping[str, Rule]:
    found: Mapping[str, Rule] = import_string(settings.AUDIT_RULES)
    return found
