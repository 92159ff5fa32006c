"""What of the archive a scope shows: rows found by their UIDs, and pages of rows for lists.

Scopes with `projects` are asked by prepared queries, the others by the scope's query sets; the tests compare both.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any, NamedTuple

from django.contrib.postgres.aggregates import ArrayAgg
from django.db import models
from django.db.models import Count, Exists, F, Func, OuterRef, QuerySet, Subquery, Sum

from portal.accounts.models import User
from studies.dicomweb import prepared
from studies.dicomweb.columns import INSTANCE, SERIES, STUDY, STUDY_KEYS, Columns, Condition, conditions, narrowed
from studies.dicomweb.matching import Query
from studies.dicomweb.problems import not_found
from studies.dicomweb.results import Counts
from studies.dicomweb.scope import Scope
from studies.models import Instance, Origin, Series, Study

NEWEST_FIRST = (F("study_date").desc(nulls_last=True), "-study_time", "-pk")  # as the worklist: one index for both
_DEEP = 500  # rows to skip; from here on only the keys of those are read


class PatientRow(NamedTuple):
    patient_name: str
    patient_id: str
    patient_birth_date: date | None
    patient_sex: str


class StudyRow(NamedTuple):
    """As much of `Study` as `results.study_text` takes."""

    pk: int
    study_instance_uid: str
    study_date: date | None
    study_time: str
    accession_number: str
    referring_physician_name: str
    study_description: str
    study_id: str
    number_of_series: int
    number_of_instances: int
    modalities_in_study: list[str]
    patient: PatientRow
    other: int | None

    @property
    def images_only(self) -> bool:
        return self.other is None

    @property
    def counts(self) -> Counts | None:
        """Those of a study that holds images alone, which everybody sees who sees the study; None for others."""
        if not self.images_only:
            return None
        return Counts(
            self.number_of_series, self.number_of_instances, sorted(filter(None, set(self.modalities_in_study)))
        )


_OWN = len(StudyRow._fields) - 2
_STUDY_COLUMNS = [*StudyRow._fields[:_OWN], *(f"patient__{name}" for name in PatientRow._fields)]
# A series of the study that is no image, if there is one. Not EXISTS: for that the database would read all series.
_OTHER = Subquery(Series.objects.filter(study=OuterRef("pk")).exclude(origin=Origin.ACQUIRED).values("pk")[:1])


def _fields(model: type[models.Model], *left_out: str) -> list[str]:
    return [field.attname for field in model._meta.concrete_fields if field.attname not in left_out]


_STUDY_FIELDS = _fields(Study)
_SERIES_FIELDS = _fields(Series)
_INSTANCE_FIELDS = _fields(Instance, "header")


class HeaderElement(Func):
    """One element of the stored header, as JSON text."""

    template = "(%(expressions)s::json -> '%(tag)s')::text"
    output_field = models.TextField()

    def __init__(self, tag: str) -> None:
        super().__init__(F("header"), tag=f"{int(tag, 16):08X}")


def find_study(scope: Scope, uid: str) -> Study:
    """The study of this UID; where several projects hold it, the first. Raises `Problem` 404."""
    if scope.projects is None:
        study = scope.studies.filter(study_instance_uid=uid).order_by("pk").first()
    else:

        def build(_: User, values: Sequence[Any]) -> QuerySet[Any, Any]:
            rows = Study.objects.filter(project__any_of=values[0], study_instance_uid=values[1])
            return rows.order_by("pk").values_list(*_STUDY_FIELDS)

        found = prepared.rows("study", build, scope.user, (list(scope.projects), uid), (1, 0))
        study = Study.from_db("default", _STUDY_FIELDS, found[0]) if found else None
    if study is None:
        raise not_found("study")
    return study


def find_series(scope: Scope, study: str, series: str) -> Series:
    """Raises `Problem` 404."""
    owner = find_study(scope, study)
    if scope.projects is None:
        one = scope.series.filter(study=owner, series_instance_uid=series).first()
    else:

        def build(user: User, values: Sequence[Any]) -> QuerySet[Any, Any]:
            rows = Series.objects.visible_to(user).filter(study=values[0], series_instance_uid=values[1])
            return rows.order_by("pk").values_list(*_SERIES_FIELDS)

        found = prepared.rows("series", build, scope.user, (owner.pk, series), (1, 0))
        one = Series.from_db("default", _SERIES_FIELDS, found[0]) if found else None
    if one is None:
        raise not_found("series")
    one.study = owner
    return one


def find_instance(scope: Scope, study: str, series: str, instance: str) -> Instance:
    """Without its header. Raises `Problem` 404."""
    if scope.projects is None:
        rows = scope.instances.filter(
            sop_instance_uid=instance,
            series__series_instance_uid=series,
            series__study__study_instance_uid=study,
            series__study__in=scope.studies,
        )
        one = rows.defer("header").order_by("series__study").first()
    else:

        def build(user: User, values: Sequence[Any]) -> QuerySet[Any, Any]:
            rows = Instance.objects.filter(
                series__in=Series.objects.visible_to(user),
                series__study__project__any_of=values[0],
                series__study__study_instance_uid=values[1],
                series__series_instance_uid=values[2],
                sop_instance_uid=values[3],
            )
            return rows.order_by("series__study").values_list(*_INSTANCE_FIELDS)

        values = (list(scope.projects), study, series, instance)
        found = prepared.rows("instance", build, scope.user, values, (1, 0))
        one = Instance.from_db("default", _INSTANCE_FIELDS, found[0]) if found else None
    if one is None:
        raise not_found("instance")
    return one


def once(scope: Scope) -> QuerySet[Study]:
    """The studies of a scope, each UID once."""
    return _once(scope.studies) if scope.several_projects else scope.studies


def _once(studies: QuerySet[Study]) -> QuerySet[Study]:
    earlier = studies.filter(study_instance_uid=OuterRef("study_instance_uid"), pk__lt=OuterRef("pk"))
    return studies.filter(~Exists(earlier))


def study_rows(scope: Scope, query: Query, limit: int) -> list[StudyRow]:
    """At most `limit` studies from the query's offset on, for a scope with `projects`."""
    wanted = _Wanted(query, scope, [(STUDY_KEYS, "")])
    projects, several = list(scope.projects or ()), scope.several_projects
    if not projects:
        return []

    def listed(*columns: Any) -> prepared.Build:
        def build(user: User, values: Sequence[Any]) -> QuerySet[Any, Any]:
            # Of one project the database can tell the order from an index.
            rows: QuerySet[Any] = Study.objects.filter(**{"project__any_of" if several else "project": values[0]})
            rows = _once(rows) if several else rows
            return wanted.of(rows, user, values[1:]).order_by(*NEWEST_FIRST).values_list(*columns)

        return build

    def of_keys(_: User, values: Sequence[Any]) -> QuerySet[Any, Any]:
        rows = Study.objects.filter(pk__any_of=values[0])
        return rows.order_by(*NEWEST_FIRST).values_list(*_STUDY_COLUMNS, _OTHER)

    shape = ("studies", several, wanted.shape)
    values, page = [projects if several else projects[0], *wanted.values], (limit, query.offset)
    if query.offset < _DEEP:
        rows = prepared.rows(shape, listed(*_STUDY_COLUMNS, _OTHER), scope.user, values, page, plan=not wanted.parts)
    else:
        keys = prepared.rows(("keys", *shape), listed("pk"), scope.user, values, page, plan=not wanted.parts)
        rows = prepared.rows("studies of keys", of_keys, scope.user, [[key for (key,) in keys]]) if keys else []
    return [StudyRow._make((*row[:_OWN], PatientRow._make(row[_OWN:-1]), row[-1])) for row in rows]


def series_rows(scope: Scope, study: Study, query: Query, limit: int) -> list[Series]:
    """At most `limit` series of a study from the query's offset on, for a scope with `projects`."""
    wanted = _Wanted(query, scope, [(SERIES, ""), (STUDY, "study__")])

    def build(user: User, values: Sequence[Any]) -> QuerySet[Any, Any]:
        rows = wanted.of(Series.objects.visible_to(user).filter(study=values[0]), user, values[1:])
        return rows.order_by("series_number", "pk").values_list(*_SERIES_FIELDS)

    values = [study.pk, *wanted.values]
    rows = prepared.rows(("series of", wanted.shape), build, scope.user, values, (limit, query.offset))
    found = [Series.from_db("default", _SERIES_FIELDS, row) for row in rows]
    for one in found:
        one.study = study
    return found


def instance_rows(
    scope: Scope, series: Series, query: Query, limit: int, elements: list[str]
) -> list[tuple[Instance, dict[str, str]]]:
    """At most `limit` instances of a series from the query's offset on, for a scope with `projects`; with the wanted
    elements of their headers, as JSON text by tag."""
    wanted = _Wanted(query, scope, [(INSTANCE, ""), (SERIES, "series__"), (STUDY, "series__study__")])

    def build(user: User, values: Sequence[Any]) -> QuerySet[Any, Any]:
        rows = wanted.of(Instance.objects.filter(series=values[0]), user, values[1:])
        return rows.order_by("instance_number", "pk").values_list(*names, *map(HeaderElement, elements))

    names = [name for name in _INSTANCE_FIELDS if name != "frame_table"]
    values = [series.pk, *wanted.values]
    shape = ("instances of", wanted.shape, tuple(elements))
    found = []
    for row in prepared.rows(shape, build, scope.user, values, (limit, query.offset)):
        one = Instance.from_db("default", names, row[: len(names)])
        one.series = series
        found.append((one, {tag: text for tag, text in zip(elements, row[len(names) :], strict=True) if text}))
    return found


def study_counts(scope: Scope, studies: set[int]) -> dict[int, Counts]:
    """What of each study this scope shows: number of series and instances, modalities."""

    def counted(series: QuerySet[Series]) -> QuerySet[Any, Any]:
        return (
            series.order_by()
            .values_list("study")
            .annotate(n=Count("pk"), total=Sum("number_of_instances"), names=ArrayAgg("modality", distinct=True))
        )

    def build(user: User, values: Sequence[Any]) -> QuerySet[Any, Any]:
        return counted(Series.objects.visible_to(user).filter(study__any_of=values[0]))

    if scope.projects is None:
        rows: Any = counted(scope.series.filter(study__in=studies))
    else:
        rows = prepared.rows("counts", build, scope.user, [list(studies)]) if studies else []
    return {pk: Counts(series, instances, sorted(filter(None, names))) for pk, series, instances, names in rows}


class _Wanted:
    """The conditions of a query as a shape and values."""

    def __init__(self, query: Query, scope: Scope, columns: Columns) -> None:
        self.values: list[Any] = []
        self.parts: list[tuple[Any, Any, str]] = []
        for one in conditions(query, scope, columns):
            shape, values = prepared.taken_apart(one.of_row)
            of_series, more = prepared.taken_apart(one.of_series) if one.of_series is not None else (None, [])
            self.parts.append((shape, of_series, one.study))
            self.values += [*values, *more]

    @property
    def shape(self) -> tuple[Any, ...]:
        return tuple(self.parts)

    def of(self, rows: QuerySet[Any], user: User, values: Sequence[Any]) -> QuerySet[Any]:
        given = iter(values)
        for shape, of_series, study in self.parts:
            condition = Condition(
                prepared.put_together(shape, given),
                prepared.put_together(of_series, given) if of_series is not None else None,
                study,
            )
            rows = narrowed(rows, Series.objects.visible_to(user), condition)
        return rows
