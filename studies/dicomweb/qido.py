"""QIDO-RS: search for studies, series and instances (PS3.18 10.6).

Attributes that rows repeat are matched by the database; any other attribute is matched in the stored headers of the
candidates, at study and series level in the header of one instance that stands for them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from django.contrib.postgres.aggregates import ArrayAgg
from django.db.models import Count, Exists, Max, Model, OuterRef, Q, QuerySet, Sum
from django.http import HttpRequest, HttpResponse

from studies.dicomweb import addresses, answers, results
from studies.dicomweb.matching import MAX_LIMIT, Key, Query, as_q, matches, parse
from studies.dicomweb.negotiation import require_json
from studies.dicomweb.problems import Problem
from studies.dicomweb.scope import Scope
from studies.models import Instance, Series, Study

# Tag → column from the study; "date" and "array" say how it is matched.
STUDY = {
    0x0020000D: ("study_instance_uid", ""),
    0x00080020: ("study_date", "date"),
    0x00080030: ("study_time", ""),
    0x00080050: ("accession_number", ""),
    0x00080061: ("modalities_in_study", "array"),
    0x00080090: ("referring_physician_name", ""),
    0x00081030: ("study_description", ""),
    0x00200010: ("study_id", ""),
    0x00100010: ("patient__patient_name", ""),
    0x00100020: ("patient__patient_id", ""),
    0x00100030: ("patient__patient_birth_date", "date"),
    0x00100040: ("patient__patient_sex", ""),
}
SERIES = {
    0x0020000E: ("series_instance_uid", ""),
    0x00080060: ("modality", ""),
    0x00200011: ("series_number", ""),
    0x0008103E: ("series_description", ""),
    0x00080021: ("series_date", "date"),
    0x00080031: ("series_time", ""),
    0x00180015: ("body_part_examined", ""),
    0x00200060: ("laterality", ""),
    0x00080070: ("manufacturer", ""),
    0x00081090: ("manufacturer_model_name", ""),
    0x00200052: ("frame_of_reference_uid", ""),
}
INSTANCE = {
    0x00080018: ("sop_instance_uid", ""),
    0x00080016: ("sop_class_uid", ""),
    0x00200013: ("instance_number", ""),
    0x00280010: ("rows", ""),
    0x00280011: ("columns", ""),
    0x00280008: ("number_of_frames", ""),
}
# Attributes that a pseudonymising root may change, so they are matched on what it shows, not on what is stored.
_UNCHANGED = frozenset({0x0020000D, 0x0020000E, 0x00080018, 0x00080016, 0x00080060, 0x00080061})


def find_study(scope: Scope, uid: str) -> Study:
    """The study of this UID; where several projects hold it, the first. Raises `Problem` 404."""
    study = scope.studies.filter(study_instance_uid=uid).order_by("pk").first()
    if study is None:
        raise Problem(404, "There is no such study here.")
    return study


def find_series(scope: Scope, study: str, series: str) -> Series:
    found = scope.series.filter(study=find_study(scope, study), series_instance_uid=series).first()
    if found is None:
        raise Problem(404, "There is no such series here.")
    return found


def search_studies(request: HttpRequest, scope: Scope) -> HttpResponse:
    require_json(request)
    query = parse(request.GET)
    rows = narrow(_once(scope), query, scope, [(STUDY, "")])
    base = addresses.root(request, scope.base_path)
    rows = rows.select_related("patient").order_by("-study_date", "-pk")
    late = late_keys(query, scope, STUDY)
    needs_header = bool(late) or query.include_all or not query.include <= STUDY.keys() | results.STUDY_TAGS
    return _answer(
        request, scope, query, rows, late, lambda page: _study_results(scope, page, base, query, needs_header)
    )


def search_series(request: HttpRequest, scope: Scope, study: str | None = None) -> HttpResponse:
    require_json(request)
    query = parse(request.GET)
    rows = scope.series
    if study is not None:
        rows = rows.filter(study=find_study(scope, study))
    elif scope.several_projects:
        rows = rows.filter(study__in=_once(scope))
    rows = narrow(rows, query, scope, [(SERIES, ""), (STUDY, "study__")])
    base = addresses.root(request, scope.base_path)
    rows = rows.select_related("study__patient").order_by(
        *([] if study else ["-study__study_date"]), "series_number", "pk"
    )
    late = late_keys(query, scope, SERIES | STUDY)
    needs_header = (
        bool(late) or query.include_all or not query.include <= SERIES.keys() | STUDY.keys() | results.SERIES_TAGS
    )

    def build(page: list[Series]) -> Iterator[dict[str, Any]]:
        headers = headers_of([one.pk for one in page], "series") if needs_header else {}
        counts = study_counts(scope, {one.study_id for one in page}) if study is None else {}
        for one in page:
            found = results.series(one, base, counts.get(one.study_id))
            yield results.with_fields(found, headers.get(one.pk), query, late)

    return _answer(request, scope, query, rows, late, build)


def search_instances(
    request: HttpRequest, scope: Scope, study: str | None = None, series: str | None = None
) -> HttpResponse:
    require_json(request)
    query = parse(request.GET)
    rows = scope.instances
    if study is not None and series is not None:
        rows = rows.filter(series=find_series(scope, study, series))
    elif study is not None:
        rows = rows.filter(series__study=find_study(scope, study))
    elif scope.several_projects:
        rows = rows.filter(series__study__in=_once(scope))
    rows = narrow(rows, query, scope, [(INSTANCE, ""), (SERIES, "series__"), (STUDY, "series__study__")])
    base = addresses.root(request, scope.base_path)
    rows = (
        rows.select_related("series__study__patient")
        .defer("frame_table")
        .order_by("series__series_number", "series_id", "instance_number", "pk")
    )
    late = late_keys(query, scope, INSTANCE | SERIES | STUDY)

    def build(page: list[Instance]) -> Iterator[dict[str, Any]]:
        for one in page:
            header = json.loads(one.header)
            found = results.instance(one, header, base, with_series=series is None, with_study=study is None)
            yield results.with_fields(found, header, query, late)

    return _answer(request, scope, query, rows, late, build)


def _once(scope: Scope) -> QuerySet[Study]:
    """The studies of a scope, each UID once."""
    if not scope.several_projects:
        return scope.studies
    earlier = scope.studies.filter(study_instance_uid=OuterRef("study_instance_uid"), pk__lt=OuterRef("pk"))
    return scope.studies.filter(~Exists(earlier))


def narrow(
    rows: QuerySet[Any],
    query: Query,
    scope: Scope,
    columns: list[tuple[dict[int, tuple[str, str]], str]],
) -> QuerySet[Any]:
    """The rows that match the keys which `columns` (with the path to them) hold. Raises `Problem` 400."""
    for key in query.keys:
        for table, prefix in columns:
            if key.path[0] in table and len(key.path) == 1 and not _late(key, scope):
                column, how = table[key.path[0]]
                condition = as_q(
                    key, prefix + column, fuzzy=query.fuzzy, is_date=how == "date", is_array=how == "array"
                )
                if how == "array":  # the row repeats every series, also those that this user may not see
                    visible = scope.series.filter(as_q(key, "modality"))
                    condition &= _study_in(prefix, visible)
                rows = rows.filter(condition)
                break
    return rows


def _study_in(prefix: str, visible: QuerySet[Series]) -> Q:
    return Q(**{f"{prefix}pk__in": visible.values("study")})


def _late(key: Key, scope: Scope) -> bool:
    return scope.rewrite is not None and key.path[0] not in _UNCHANGED


def late_keys(query: Query, scope: Scope, columns: dict[int, Any]) -> list[Key]:
    """Keys that the database did not match."""
    return [key for key in query.keys if len(key.path) > 1 or key.path[0] not in columns or _late(key, scope)]


def _study_results(
    scope: Scope, page: list[Study], base: str, query: Query, needs_header: bool
) -> Iterator[dict[str, Any]]:
    counts = study_counts(scope, {one.pk for one in page})
    headers = headers_of([one.pk for one in page], "series__study", scope) if needs_header else {}
    for one in page:
        found = results.study(one, base, counts.get(one.pk))
        yield results.with_fields(found, headers.get(one.pk), query, [])


def study_counts(scope: Scope, studies: set[int]) -> dict[int, results.Counts]:
    """What of each study this scope shows: number of series and instances, modalities."""
    rows = (
        scope.series.filter(study__in=studies)
        .order_by()
        .values_list("study")
        .annotate(n=Count("pk"), total=Sum("number_of_instances"), names=ArrayAgg("modality", distinct=True))
    )
    return {pk: results.Counts(series, instances, sorted(filter(None, names))) for pk, series, instances, names in rows}


def headers_of(keys: Iterable[int], owner: str, scope: Scope | None = None) -> dict[int, dict[str, Any]]:
    """One instance's header for each series or study."""
    visible = Instance.objects.all() if scope is None else scope.instances
    first = visible.filter(**{f"{owner}__in": list(keys)}).order_by().values_list(owner).annotate(chosen=Max("pk"))
    chosen = {pk: owner_pk for owner_pk, pk in first}
    rows = Instance.objects.filter(pk__in=chosen).values_list("pk", "header")
    return {chosen[pk]: json.loads(header) for pk, header in rows}


def _answer(
    request: HttpRequest,
    scope: Scope,
    query: Query,
    rows: QuerySet[Any],
    late: list[Key],
    build: Callable[[list[Any]], Iterable[dict[str, Any]]],
) -> HttpResponse:
    limit = min(query.limit if query.limit is not None else MAX_LIMIT, MAX_LIMIT)
    if not late:
        page: list[Model] = list(rows[query.offset : query.offset + limit])
        found = [_shown(one, scope) for one in build(page)]
        total = query.offset + len(page)
        if len(page) == limit or (query.offset and not page):
            total = rows.order_by().count()
    else:
        matching = (
            shown
            for chunk in _chunks(rows)
            for one in build(chunk)
            if all(matches(shown := _shown(one, scope), key, fuzzy=query.fuzzy) for key in late)
        )
        everything = list(islice(matching, MAX_LIMIT))
        total = len(everything)
        found = everything[query.offset : query.offset + limit]
    response = answers.json_text(request, json.dumps(found, ensure_ascii=False, separators=(",", ":"), allow_nan=False))
    response["X-Total-Count"] = str(total)
    left = total - query.offset - len(found)
    if left > 0 and query.limit is None:
        response["Warning"] = f'299 readroom "There are {left} additional results that can be requested"'
    return response


def _shown(dataset: dict[str, Any], scope: Scope) -> dict[str, Any]:
    return dataset if scope.rewrite is None else scope.rewrite.dataset(dataset)


def _chunks(rows: QuerySet[Any]) -> Iterator[list[Any]]:
    start = 0
    while chunk := list(rows[start : start + 500]):
        yield chunk
        start += 500
