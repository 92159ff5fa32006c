"""QIDO-RS: search for studies, series and instances (PS3.18 10.6).

Attributes that rows repeat are matched by the database; any other attribute is matched in the stored headers of the
candidates, at study and series level in the header of one instance that stands for them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from django.db.models import Max, QuerySet
from django.http import HttpRequest, HttpResponse

from studies.dicomweb import addresses, answers, results, visible
from studies.dicomweb.columns import INSTANCE, MODALITY, SERIES, STUDY, STUDY_KEYS, late_keys, narrow
from studies.dicomweb.matching import MAX_LIMIT, Key, Query, matches, parse
from studies.dicomweb.negotiation import require_json
from studies.dicomweb.scope import Scope
from studies.models import Instance, Series, Study


def search_studies(request: HttpRequest, scope: Scope) -> HttpResponse:
    require_json(request)
    query = parse(request.GET)
    base = addresses.root(request, scope.base_path)
    late = late_keys(query, scope, STUDY_KEYS)
    modality = MODALITY in query.include
    needs_header = bool(late) or query.include_all or not query.include <= results.STUDY_TAGS | {MODALITY}
    if scope.projects is not None and not needs_header:
        page, total = _page(query, lambda limit: visible.study_rows(scope, query, limit))
        counts = visible.study_counts(scope, {one.pk for one in page if not one.images_only})
        texts = [results.study_text(one, base, one.counts or counts.get(one.pk), modality=modality) for one in page]
        return _listed(request, query, f"[{','.join(texts)}]", len(page), total)
    rows = narrow(visible.once(scope), query, scope, [(STUDY_KEYS, "")])
    rows = rows.select_related("patient").order_by(*visible.NEWEST_FIRST)

    def build(page: list[Study]) -> Iterator[dict[str, Any]]:
        counts = visible.study_counts(scope, {one.pk for one in page})
        headers = headers_of([one.pk for one in page], "series__study", scope) if needs_header else {}
        for one in page:
            header = headers.get(one.pk)
            if header is not None:
                header.pop(f"{MODALITY:08X}", None)  # that of one instance; what the series share is told instead
            found = results.study(one, base, counts.get(one.pk), modality=modality or query.include_all)
            yield results.with_fields(found, header, query, late)

    return _answer(request, scope, query, rows, late, build)


def search_series(request: HttpRequest, scope: Scope, study: str | None = None) -> HttpResponse:
    require_json(request)
    query = parse(request.GET)
    base = addresses.root(request, scope.base_path)
    late = late_keys(query, scope, SERIES | STUDY)
    shown = results.SERIES_TAGS if study is not None else results.SERIES_TAGS | results.STUDY_TAGS
    needs_header = bool(late) or query.include_all or not query.include <= shown
    rows = scope.series
    if study is not None:
        owner = visible.find_study(scope, study)
        if scope.projects is not None and not needs_header:
            page, total = _page(query, lambda limit: visible.series_rows(scope, owner, query, limit))
            found = [results.with_fields(results.series(one, base, None), None, query, late) for one in page]
            return _listed(request, query, results.as_json(found), len(page), total)
        rows = rows.filter(study=owner)
    elif scope.several_projects:
        rows = rows.filter(study__in=visible.once(scope))
    rows = narrow(rows, query, scope, [(SERIES, ""), (STUDY, "study__")])
    rows = rows.select_related("study__patient").order_by(
        *([] if study else ["-study__study_date"]), "series_number", "pk"
    )

    def build(page: list[Series]) -> Iterator[dict[str, Any]]:
        headers = headers_of([one.pk for one in page], "series") if needs_header else {}
        counts = visible.study_counts(scope, {one.study_id for one in page}) if study is None else {}
        for one in page:
            found = results.series(one, base, counts.get(one.study_id))
            yield results.with_fields(found, headers.get(one.pk), query, late)

    return _answer(request, scope, query, rows, late, build)


def search_instances(
    request: HttpRequest, scope: Scope, study: str | None = None, series: str | None = None
) -> HttpResponse:
    require_json(request)
    query = parse(request.GET)
    base = addresses.root(request, scope.base_path)
    late = late_keys(query, scope, INSTANCE | SERIES | STUDY)
    rows = scope.instances
    if study is not None and series is not None:
        owner = visible.find_series(scope, study, series)
        if scope.projects is not None and not late and not query.include_all:
            return _instances_of(request, scope, owner, query, base)
        rows = rows.filter(series=owner)
    elif study is not None:
        rows = rows.filter(series__study=visible.find_study(scope, study))
    elif scope.several_projects:
        rows = rows.filter(series__study__in=visible.once(scope))
    rows = narrow(rows, query, scope, [(INSTANCE, ""), (SERIES, "series__"), (STUDY, "series__study__")])
    rows = (
        rows.select_related("series__study__patient")
        .defer("frame_table")
        .order_by("series__series_number", "series_id", "instance_number", "pk")
    )

    def build(page: list[Instance]) -> Iterator[dict[str, Any]]:
        for one in page:
            header = json.loads(one.header)
            found = results.instance(one, header, base, with_series=series is None, with_study=study is None)
            yield results.with_fields(found, header, query, late)

    return _answer(request, scope, query, rows, late, build)


def _instances_of(request: HttpRequest, scope: Scope, series: Series, query: Query, base: str) -> HttpResponse:
    """The instances of one series, with no more of their headers than is shown."""
    elements = sorted({*results.FROM_HEADER, *(f"{tag:08X}" for tag in query.include)})
    page, total = _page(query, lambda limit: visible.instance_rows(scope, series, query, limit, elements))
    found = []
    for one, texts in page:
        header = {tag: json.loads(text) for tag, text in texts.items()}
        shown = results.instance(one, header, base, with_series=False, with_study=False)
        found.append(results.with_fields(shown, header, query, []))
    return _listed(request, query, results.as_json(found), len(page), total)


def headers_of(keys: Iterable[int], owner: str, scope: Scope | None = None) -> dict[int, dict[str, Any]]:
    """One instance's header for each series or study."""
    visible_rows = Instance.objects.all() if scope is None else scope.instances
    first = visible_rows.filter(**{f"{owner}__in": list(keys)}).order_by().values_list(owner).annotate(chosen=Max("pk"))
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
    total: int | None
    if not late:
        page, total = _page(query, lambda limit: list(rows[query.offset : query.offset + limit]))
        found = [_shown(one, scope) for one in build(page)]
    else:
        matching = (
            shown
            for chunk in _chunks(rows)
            for one in build(chunk)
            if all(matches(shown := _shown(one, scope), key, fuzzy=query.fuzzy) for key in late)
        )
        everything = list(islice(matching, MAX_LIMIT))
        total = len(everything)
        found = everything[query.offset : query.offset + _limit(query)]
    return _listed(request, query, results.as_json(found), len(found), total)


def _limit(query: Query) -> int:
    return min(query.limit if query.limit is not None else MAX_LIMIT, MAX_LIMIT)


def _page(query: Query, rows: Callable[[int], list[Any]]) -> tuple[list[Any], int | None]:
    """The rows of the page, and how many match in all; None where there are more, as counting means to look at all."""
    limit = _limit(query)
    page = rows(limit + 1)
    if len(page) > limit:
        return page[:limit], None
    return page, query.offset + len(page) if page or not query.offset else None


def _listed(request: HttpRequest, query: Query, text: str, number: int, total: int | None) -> HttpResponse:
    """`X-Total-Count` where the last match is in the answer; a warning where more than `MAX_LIMIT` match (PS3.18
    8.3.4.4)."""
    response = answers.json_text(request, text)
    if total is not None:
        response["X-Total-Count"] = str(total)
    if query.limit is None and number == MAX_LIMIT and (total is None or total > query.offset + number):
        response["Warning"] = '299 readroom "There are additional results that can be requested"'
    return response


def _shown(dataset: dict[str, Any], scope: Scope) -> dict[str, Any]:
    return dataset if scope.rewrite is None else scope.rewrite.dataset(dataset)


def _chunks(rows: QuerySet[Any]) -> Iterator[list[Any]]:
    start = 0
    while chunk := list(rows[start : start + 500]):
        yield chunk
        start += 500
