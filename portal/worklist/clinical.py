"""Pages of clinical data: the variables of a project, and tables on their way in."""

from __future__ import annotations

import csv
from collections import Counter
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import Count, Min, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from portal.accounts.current import current_project
from portal.accounts.models import Project
from portal.accounts.permissions import Action, may, projects_where
from portal.frame.spreadsheets import safe
from portal.worklist.table_forms import UNKNOWN, UploadTableForm, choices_from, kinds_for
from studies.cohorts import suggestions, table_imports
from studies.cohorts.clinical import ClinicalValue, ClinicalVariable, TableImport
from studies.cohorts.errors import CohortError
from studies.cohorts.models import Cohort, ReferenceStandard
from studies.cohorts.tables import Choices
from studies.tabular import values
from studies.tabular.problems import TableError
from studies.tabular.reading import DELIMITERS, ENCODINGS, Table
from studies.tabular.values import DATE_ORDERS, DECIMAL_MARKS

MOST_VARIABLES = 500
SHOWN_PROBLEMS = 200
SOURCES = (ReferenceStandard.Source.IMPORT, ReferenceStandard.Source.PATHOLOGY, ReferenceStandard.Source.FOLLOW_UP)
COUNTED = {
    "new": "new",
    "changed": "changed",
    "unchanged": "there already",
    "patients": "patients",
    "new_patients": "new patients",
    "rows": "rows understood",
    "skipped": "rows left out",
    "without_image": "without images",
}


@require_safe
def clinical(request: HttpRequest) -> HttpResponse:
    """Variables with how many values they have, and the tables that came in."""
    project = current_project(request)
    variables = ClinicalVariable.objects.visible_to(request.user).select_related("project")
    tables = TableImport.objects.visible_to(request.user).select_related("project", "cohort", "created_by")
    if project is not None:
        variables, tables = variables.filter(project=project), tables.filter(project=project)
    seen = ClinicalValue.objects.visible_to(request.user)
    counted = {
        row["variable"]: row
        for row in seen.filter(variable__in=variables)
        .values("variable")
        .annotate(
            n=Count("pk"),
            patients=Count("patient", distinct=True),
            repeated=Count("pk", filter=Q(measured_at__isnull=False)),
        )
    }
    rows = [
        {**counted.get(variable.pk, {"n": 0, "patients": 0, "repeated": 0}), "variable": variable}
        for variable in variables.order_by("project__name", "name")[:MOST_VARIABLES]
    ]
    context = {
        "rows": rows,
        "tables": tables.exclude(state=TableImport.State.DISCARDED).order_by("-pk")[:20],
        "project": project,
        "may_curate": projects_where(request.user, Action.CURATE).exists(),
    }
    return render(request, "worklist/clinical.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
def table_create(request: HttpRequest) -> HttpResponse:
    """Upload a table: `?purpose=`, `?cohort=` and `?project=` choose beforehand."""
    projects = projects_where(request.user, Action.CURATE).order_by("name")
    if slug := request.POST.get("project"):
        project = get_object_or_404(Project.objects.visible_to(request.user), slug=slug)
        if not may(request.user, Action.CURATE, project):
            raise PermissionDenied("Only managers and engineers of the project import tables.")
    if not projects.exists():
        raise PermissionDenied("Only managers and engineers of a project import tables.")
    initial: dict[str, Any] = {"purpose": request.GET.get("purpose", "variables")}
    current = current_project(request)
    initial["project"] = current.slug if current else None
    asked = request.GET.get("cohort", "")
    if asked.isdecimal() and len(asked) < 10:
        cohort = get_object_or_404(Cohort.objects.visible_to(request.user).select_related("project"), pk=int(asked))
        initial |= {"cohort": cohort, "project": cohort.project.slug}
    form = UploadTableForm(request.POST or None, request.FILES or None, projects=projects, initial=initial)
    if request.method == "POST" and form.is_valid():
        said = form.cleaned_data
        try:
            record = table_imports.keep(
                said["file"].read(),
                project=said["project"],
                purpose=said["purpose"],
                name=said["file"].name,
                by=request.user,
                cohort=said["cohort"],
                reading_as=form.reading_as,
            )
            return redirect("table", pk=record.pk)
        except TableError as error:
            where = f"Row {error.problem.row}: " if error.problem.row else ""
            form.add_error("file", where + error.cause)
        except CohortError as error:
            form.add_error(None, str(error))
    status = 422 if request.method == "POST" else 200
    return render(request, "worklist/table_create.html", {"form": form}, status=status)


@require_http_methods(["GET", "HEAD", "POST"])
def table(request: HttpRequest, pk: int) -> HttpResponse:
    """What the columns are, and what an import would do; POST keeps other choices."""
    record = _record(request, pk)
    problem = ""
    if request.method == "POST":
        try:
            choices, reading_as, extra = choices_from(request.POST, record)
            before = {key: value for key, value in record.choices.get("reading", {}).items() if value}
            if {key: value for key, value in reading_as.items() if value} != before:
                read = table_imports.load(record, reading_as)
                if read.header != [column.name for column in choices.columns]:
                    choices = suggestions.suggest(read, label=record.purpose != TableImport.Purpose.VARIABLES)
            record = table_imports.choose(record, choices, reading_as, extra)
            return redirect("table", pk=pk)
        except TableError as error:
            problem = error.cause
        except CohortError as error:
            problem = str(error)
    return render(request, "worklist/table.html", _page(record, problem), status=422 if problem else 200)


@require_POST
def table_finish(request: HttpRequest, pk: int) -> HttpResponse:
    record = _record(request, pk)
    try:
        made = table_imports.finish(record, by=request.user)
    except (CohortError, TableError) as error:
        messages.error(request, str(error))
        return redirect("table", pk=pk)
    messages.success(request, f"Imported: {made.counts.get('new', 0)} new.")
    if record.purpose != TableImport.Purpose.VARIABLES and record.cohort_id:
        return redirect("cohort", pk=record.cohort_id)
    return redirect("clinical")


@require_POST
def table_discard(request: HttpRequest, pk: int) -> HttpResponse:
    table_imports.discard(_record(request, pk))
    messages.success(request, "The table was discarded; nothing was imported.")
    return redirect("clinical")


@require_safe
def cohort_variables(request: HttpRequest, pk: int) -> HttpResponse:
    """The clinical values of a cohort's patients as CSV, without identity: patients are numbered as in the export of
    cases, and instead of dates there are days since the patient's first dated value."""
    cohort = get_object_or_404(Cohort.objects.visible_to(request.user).select_related("project"), pk=pk)
    names = {study: name for study, name in cohort.cases.order_by("name", "id").values_list("study", "name")}
    numbers: dict[int, int] = {}
    for patient in cohort.cases.order_by("name", "id").values_list("cohort_patient__patient", flat=True):
        numbers.setdefault(patient, len(numbers) + 1)
    found = ClinicalValue.objects.visible_to(request.user).filter(patient__in=numbers)
    found = found.filter(Q(study__isnull=True) | Q(study__in=names)).select_related("variable")
    first = dict(
        found.filter(measured_at__isnull=False).order_by().values_list("patient").annotate(first=Min("measured_at"))
    )
    response = HttpResponse(content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="cohort-{cohort.pk}-clinical.csv"'
    rows = csv.writer(response)
    rows.writerow(["patient", "case", "variable", "kind", "unit", "day", "value", "event"])
    ordered = sorted(
        found, key=lambda value: (numbers[value.patient_id], value.variable.name, str(value.measured_at), value.pk)
    )
    for value in ordered:
        start = first.get(value.patient_id)
        day = f"{(value.measured_at - start).total_seconds() / 86400:.4g}" if value.measured_at and start else ""
        if value.date is not None:  # a date is told as days, too, or not at all
            told = str((value.date - start.date()).days) if start else ""
        else:
            told = repr(value.number) if value.number is not None else value.text
        rows.writerow(
            [
                f"P-{numbers[value.patient_id]:04d}",
                names.get(value.study_id, "") if value.study_id else "",
                safe(value.variable.name),
                value.variable.kind,
                "days" if value.date is not None else safe(value.variable.unit),
                day,
                safe(told) if value.number is None else told,
                "" if value.event is None else int(value.event),
            ]
        )
    return response


def _record(request: HttpRequest, pk: int) -> TableImport:
    """A table that the user may see; those who see the project but not its tables get 403."""
    record = TableImport.objects.visible_to(request.user).select_related("project", "cohort").filter(pk=pk).first()
    if record is None:
        in_project = TableImport.objects.filter(pk=pk, project__in=Project.objects.visible_to(request.user))
        if in_project.exists():
            raise PermissionDenied("Tables name patients; managers and engineers of the project see them.")
        get_object_or_404(TableImport.objects.none(), pk=pk)
    assert record is not None
    return record


def _page(record: TableImport, problem: str) -> dict[str, Any]:
    context: dict[str, Any] = {
        "record": record,
        "problem": problem,
        "label": record.purpose == TableImport.Purpose.REFERENCE,
        "counted": [(COUNTED[key], n) for key, n in record.result.items() if key in COUNTED and n],
    }
    if record.state != TableImport.State.OPEN:
        return context
    try:
        read = table_imports.load(record)
    except (TableError, CohortError) as error:
        return {**context, "problem": problem or error.cause}
    choices = Choices.of(record.choices)
    context |= {
        "read": read,
        "choices": choices,
        "columns": _columns(read, choices),
        "kinds": kinds_for(record.purpose),
        "unknown": UNKNOWN,
        "encodings": ENCODINGS,
        "delimiters": DELIMITERS,
        "marks": DECIMAL_MARKS,
        "orders": DATE_ORDERS,
        "sources": [
            ReferenceStandard.Source.IMPORT,
            ReferenceStandard.Source.PATHOLOGY,
            ReferenceStandard.Source.FOLLOW_UP,
        ],
        "reading": record.choices.get("reading", {}),
        "repeats": any(column.kind == "measured_at" for column in choices.columns),
    }
    try:
        made = table_imports.preview(record)
    except (TableError, CohortError) as error:
        return {**context, "problem": problem or str(error)}
    codes = Counter(entry.code for entry in made.problems)
    return context | {
        "preview": made,
        "counted": [(COUNTED[key], n) for key, n in made.counts.items() if key in COUNTED and n],
        "nothing": not made.counts.get("new") and not made.counts.get("changed"),
        "problems": made.problems[:SHOWN_PROBLEMS],
        "codes": codes.most_common(),
    }


def _columns(read: Table, choices: Choices) -> list[dict[str, Any]]:
    """Each column with what it is taken for and its first values."""
    rows = []
    for number, column in enumerate(choices.columns):
        if column.name not in read.header:
            continue
        samples: list[str] = []
        for one in read.column(column.name):
            text = values.text_of(one)
            if text and text not in samples:
                samples.append(text[:40])
            if len(samples) == 3:
                break
        rows.append({"number": number, "column": column, "samples": samples})
    return rows
