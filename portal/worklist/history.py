"""What happened with a patient's studies, as far as a user may see it: one list, newest first."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time

from django.urls import reverse
from django.utils import timezone

from inference.prediction.models import Prediction
from portal.accounts.models import User
from studies.cohorts.models import Case, Cohort
from studies.models import Origin, Patient, Series, Study

LIMIT = 60


@dataclass(frozen=True)
class Event:
    at: datetime | date
    status: str
    icon: str
    title: str
    detail: str
    who: str
    url: str
    dated: bool = True  # False: only the day is known


def _key(event: Event) -> datetime:
    if isinstance(event.at, datetime):
        return event.at
    return timezone.make_aware(datetime.combine(event.at, time.min))


def of_patient(user: User, patient: Patient) -> list[Event]:
    """Acquisitions, model results and readers' annotations; what `user` may not see is not there."""
    events: list[Event] = []
    studies = {study.pk: study for study in Study.objects.visible_to(user).filter(patient=patient)[:LIMIT]}
    for study in studies.values():
        url = reverse("study", args=[study.pk])
        name = study.study_description or "Study"
        when = study.study_date or study.created_at
        title = f"{name} acquired" if study.study_date else f"{name} imported"
        modalities = ", ".join(m for m in study.modalities_in_study if m not in ("SEG", "SR"))
        events.append(Event(when, "info", "studies", title, modalities, "", url, dated=not study.study_date))
    results = Prediction.objects.visible_to(user).filter(study__in=studies)
    for result in results.select_related("version__model", "job__created_by").order_by("-id")[:LIMIT]:
        who = str(result.job.created_by) if result.job and result.job.created_by else ""
        detail = studies[result.study_id].study_description or "Study"
        url = reverse("study", args=[result.study_id])
        events.append(Event(result.created_at, "ok", "model", f"{result.version} ran", detail, who, url))
    made = Series.objects.visible_to(user).filter(study__in=studies, origin__in=[Origin.ANNOTATION, Origin.REFERENCE])
    for series in made.select_related("created_by").order_by("-id")[:LIMIT]:
        kind = "Annotated" if series.origin == Origin.ANNOTATION else "Reference standard stored"
        who = str(series.created_by) if series.created_by else ""
        icon = "brush" if series.origin == Origin.ANNOTATION else "flag"
        detail = series.provenance or series.series_description
        url = reverse("study", args=[series.study_id])
        events.append(Event(series.created_at, "none", icon, kind, detail, who, url))
    return sorted(events, key=_key, reverse=True)[:LIMIT]


def cohorts_of(user: User, study: Study) -> list[Case]:
    visible = Cohort.objects.visible_to(user)
    cases = Case.objects.filter(study=study, cohort__in=visible).select_related("cohort", "cohort_patient")
    return list(cases.order_by("cohort__name"))
