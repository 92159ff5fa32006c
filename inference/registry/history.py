"""Which version of each model was in production when, and by whose decision: told from the promotions alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, time

from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

from inference.errors import StageError
from inference.registry.models import Model, ModelVersion, Promotion, Stage
from inference.registry.services import promote
from portal.accounts.models import User


@dataclass(frozen=True)
class Service:
    """A time in production. `until` is None while it lasts; `began` and `ended` are the decisions."""

    version: ModelVersion
    began: Promotion
    ended: Promotion | None

    @property
    def since(self) -> datetime:
        return self.began.at

    @property
    def until(self) -> datetime | None:
        return self.ended.at if self.ended else None

    def covers(self, moment: datetime) -> bool:
        return self.since <= moment and (self.until is None or moment < self.until)


def services_of(models: Iterable[Model]) -> list[Service]:
    """Every time in production of every version of these models, newest first."""
    promotions = (
        Promotion.objects.filter(version__model__in=list(models))
        .select_related("version__model__project", "by")
        .order_by("id")
    )
    begun: dict[int, Promotion] = {}
    found: list[Service] = []
    for promotion in promotions:
        if promotion.to_stage == Stage.PRODUCTION:
            begun[promotion.version_id] = promotion
        elif promotion.from_stage == Stage.PRODUCTION and promotion.version_id in begun:
            began = begun.pop(promotion.version_id)
            found.append(Service(began.version, began, promotion))
    found += [Service(began.version, began, None) for began in begun.values()]
    return sorted(found, key=lambda service: service.began.pk, reverse=True)


def in_production(models: Iterable[Model], moment: datetime) -> list[Service]:
    """What was in production at that moment, at most one version of each model, by the models' names."""
    found = [service for service in services_of(models) if service.covers(moment)]
    return sorted(found, key=lambda service: service.version.model.name)


def moment_of(text: str) -> datetime:
    """The end of the day, or the moment, that `text` gives (ISO 8601, the portal's time zone); now where "".

    Raises `StageError`.
    """
    if not text:
        return timezone.now()
    try:
        day, moment = parse_date(text), parse_datetime(text)
    except ValueError:  # a day that no calendar has
        day = moment = None
    if day is not None:
        moment = datetime.combine(day, time.max)
    if moment is None:
        raise StageError(f"“{text[:40]}” is no date.", "Write it as 2026-11-26 or 2026-11-26T14:30.")
    return timezone.make_aware(moment) if timezone.is_naive(moment) else moment


def before_this(model: Model) -> ModelVersion | None:
    """The version that was in production before the present one, if it may go back there."""
    services = services_of([model])
    present = next((service.version.pk for service in services if service.until is None), None)
    for service in services:
        if service.version.pk != present:
            return service.version
    return None


def roll_back(model: Model, *, reason: str, by: User) -> ModelVersion:
    """Put the version before the present one into production again, signed as promotions are. Raises `StageError`."""
    version = before_this(model)
    if version is None:
        raise StageError(
            f"No other version of {model.name} was in production before.", "Promote the version that you want."
        )
    version.refresh_from_db()
    return promote(version, Stage.PRODUCTION, reason=f"Rolled back: {reason.strip()}" if reason.strip() else "", by=by)
