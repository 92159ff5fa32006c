"""Pages of cohorts: the list, one cohort with its cases, making one, freezing it, its table as CSV."""

from __future__ import annotations

import csv
from collections import defaultdict
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import Count, Sum
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from portal.accounts.current import current_project
from portal.accounts.models import Project, Role, User
from portal.accounts.permissions import Action, may, projects_where, role_in
from portal.frame.spreadsheets import safe
from portal.worklist import filters, split_table
from portal.worklist.cohort_forms import CohortForm, FreezeForm
from studies.cohorts import changes, freezing, services
from studies.cohorts.clinical import ClinicalVariable
from studies.cohorts.errors import CohortError
from studies.cohorts.models import Case, Cohort, CohortPatient, ReferenceStandard, Split
from studies.duplicates import services as duplicates
from studies.models import Study

PAGE_SIZE = 60
MAX_SELECTED = 2000
MAX_MATCHING = 50_000
_PREFIX = "filter-"
SIDES = ((Split.TRAIN, "Training"), (Split.VALIDATION, "Validation"), (Split.TEST, "Test"))


@require_safe
def cohort_list(request: HttpRequest) -> HttpResponse:
    project = current_project(request)
    found = Cohort.objects.visible_to(request.user).select_related("project", "created_by")
    if project is not None:
        found = found.filter(project=project)
    cohorts = list(found.order_by("-id")[:200])
    counts = _counts(cohorts)
    patients = dict(
        CohortPatient.objects.filter(cohort__in=cohorts)
        .values("cohort")
        .annotate(n=Count("id"))
        .values_list("cohort", "n")
    )
    references: dict[int, list[ReferenceStandard]] = defaultdict(list)
    for reference in ReferenceStandard.objects.filter(cohort__in=cohorts).order_by("name", "-version"):
        if reference.name not in {one.name for one in references[reference.cohort_id]}:
            references[reference.cohort_id].append(reference)
    rows = [
        {
            "cohort": cohort,
            "cases": sum(counts[cohort.pk].values()),
            "patients": patients.get(cohort.pk, 0),
            "split": [(word, counts[cohort.pk].get(side, 0)) for side, word in SIDES] if cohort.frozen else [],
            "references": references[cohort.pk],
        }
        for cohort in cohorts
    ]
    context = {
        "rows": rows,
        "project": project,
        "may_curate": projects_where(request.user, Action.CURATE).exists(),
        "may_export": projects_where(request.user, Action.MANAGE).exists(),
    }
    return render(request, "worklist/cohorts.html", context)


@require_safe
def cohort(request: HttpRequest, pk: int) -> HttpResponse:
    cohort = _visible(request, pk)
    return render(request, "worklist/cohort.html", _page(request, cohort, FreezeForm(cohort=cohort)))


@require_http_methods(["GET", "HEAD", "POST"])
def cohort_create(request: HttpRequest) -> HttpResponse:
    """A new cohort, or more studies for one that is not frozen: `?study=1&study=2` as the worklist sends it, or with
    `all` in a POST everything that its filter matches; the filter's text may name a patient, so it is never in an
    address."""
    everything = filters.StudyFilter.of(_filter_of(request.POST)) if request.POST.get("all") else None
    visible = Study.objects.visible_to(request.user)
    if everything is not None:
        matching = everything.apply(request.user, current_project(request), timezone.localdate())
        wanted = list(matching.values_list("pk", flat=True)[: MAX_MATCHING + 1])
        if len(wanted) > MAX_MATCHING:
            messages.warning(request, f"The filter matches more than {MAX_MATCHING:,} studies; narrow it.")
            return redirect("studies")
    else:
        asked = (request.GET.getlist("study") + request.POST.getlist("study"))[:MAX_SELECTED]
        wanted = [int(value) for value in asked if value.isdecimal() and len(value) < 18]
    studies = list(visible.filter(pk__in=wanted).select_related("patient", "project").order_by("pk"))
    project = _project(request, studies)
    projects = {study.project_id for study in studies}
    submitted = request.method == "POST" and "cohort" in request.POST and ("name" in request.POST or not everything)
    form = CohortForm(request.POST if submitted else None, project=project)
    status = 200
    if submitted and len(projects) <= 1:
        if form.is_valid():
            try:
                return _made(request, project, form, studies)
            except CohortError as error:
                form.add_error("name" if error.code in ("name", "name_taken") else None, str(error))
        status = 422
    context = {
        "form": form,
        "project": project,
        "studies": studies,
        "shown": studies[:12],
        "patients": len({study.patient_id for study in studies}),
        "several_projects": len(projects) > 1,
        "filter": everything,
        "fields": _filter_fields(everything) if everything is not None else {},
        "gone": len(set(wanted)) - len(studies),
    }
    return render(request, "worklist/cohort_create.html", context, status=status)


def _filter_fields(wanted: filters.StudyFilter) -> dict[str, str]:
    """The filter as hidden fields of the form, so that the same studies are found when it is sent."""
    fields = {"q": wanted.text, **wanted.parameters(paging=False)}
    return {"all": "1", **{f"{_PREFIX}{name}": value for name, value in fields.items()}}


def _filter_of(data: QueryDict) -> QueryDict:
    """The filter in what the worklist sends, or in the form's hidden fields: the form has a field “cohort”, too."""
    if "name" not in data:
        return data
    hidden = QueryDict(mutable=True)
    for key, value in data.items():
        if key.startswith(_PREFIX):
            hidden[key.removeprefix(_PREFIX)] = str(value)
    return hidden


@require_POST
def cohort_freeze(request: HttpRequest, pk: int) -> HttpResponse:
    cohort = _curated(request, pk)
    form = FreezeForm(request.POST, cohort=cohort)
    if form.is_valid():
        try:
            services.freeze(cohort, by=request.user, **form.design)
            messages.success(request, "The cohort is frozen and split by patient.")
            return redirect("cohort", pk=pk)
        except CohortError as error:
            form.add_error(None, str(error))
    return render(request, "worklist/cohort.html", _page(request, cohort, form), status=422)


@require_POST
def case_remove(request: HttpRequest, pk: int, case: int) -> HttpResponse:
    cohort = _curated(request, pk)
    try:
        services.remove(get_object_or_404(cohort.cases.select_related("cohort", "cohort_patient"), pk=case))
        messages.success(request, "The case was taken out of the cohort; its study stays in the archive.")
    except CohortError as error:
        messages.error(request, str(error))
    return redirect("cohort", pk=pk)


@require_safe
def cohort_export(request: HttpRequest, pk: int) -> HttpResponse:
    """The cases as CSV. No identity: patients are numbered, and neither dates nor UIDs are given."""
    cohort = _visible(request, pk)
    response = HttpResponse(content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="cohort-{cohort.pk}.csv"'
    table = csv.writer(response)
    classes = _classes_of(cohort, request.user)
    table.writerow(
        ["case", "patient", "split", "fold", "group", "class", "modality", "images", "synthetic", "reference_standards"]
    )
    numbers: dict[int, int] = {}
    references = _references_of(cohort)
    for case in _cases(cohort):
        number = numbers.setdefault(case.cohort_patient_id, len(numbers) + 1)
        table.writerow(
            [
                case.name,
                f"P-{number:04d}",
                case.cohort_patient.split,
                "" if case.cohort_patient.fold is None else case.cohort_patient.fold + 1,
                case.cohort_patient.group or "",
                safe(classes.get(case.pk, "")),
                case.image.modality,
                case.image.number_of_instances,
                "yes" if case.study.synthetic else "no",
                safe("; ".join(str(reference) for reference in references.get(case.pk, []))),
            ]
        )
    return response


def _classes_of(cohort: Cohort, user: User) -> dict[int, str]:
    """Case → class, of the newest classification. None for readers, who read without them, nor of a study that the user
    reads blinded."""
    if role_in(user, cohort.project) is Role.READER:
        return {}
    newest = cohort.reference_standards.filter(kind=ReferenceStandard.Kind.CLASSIFICATION).order_by("-id").first()
    found = freezing.classes_of(cohort, newest) if newest else {}
    if found and not user.is_superuser:
        blinded = cohort.cases.filter(study__embargoes__user=user).values_list("pk", flat=True)
        for case in blinded:
            found.pop(case, None)
    return found


def _visible(request: HttpRequest, pk: int) -> Cohort:
    found = Cohort.objects.visible_to(request.user).select_related("project", "created_by", "frozen_by")
    return get_object_or_404(found, pk=pk)


def _curated(request: HttpRequest, pk: int) -> Cohort:
    cohort = _visible(request, pk)
    if not may(request.user, Action.CURATE, cohort.project):
        raise PermissionDenied("Only managers and engineers of the project change its cohorts.")
    return cohort


def _project(request: HttpRequest, studies: list[Study]) -> Project:
    """The project of the new cohort: that of the studies, else the chosen one, else the first possible."""
    possible = projects_where(request.user, Action.CURATE).order_by("name")
    if studies:
        project = possible.filter(pk=studies[0].project_id).first()
    else:
        slug = request.POST.get("project") or request.GET.get("project")
        chosen = current_project(request)
        if slug:
            visible = get_object_or_404(Project.objects.visible_to(request.user), slug=slug)
            project = possible.filter(pk=visible.pk).first()
        elif chosen is not None:
            project = possible.filter(pk=chosen.pk).first()
        else:
            project = possible.first()
    if project is None:
        raise PermissionDenied("Only managers and engineers of the project make cohorts in it.")
    return project


def _made(request: HttpRequest, project: Project, form: CohortForm, studies: list[Study]) -> HttpResponse:
    cohort = form.cleaned_data["cohort"] or services.create(
        project=project,
        name=form.cleaned_data["name"],
        description=form.cleaned_data["description"],
        by=request.user,
    )
    added = services.add_studies(cohort, studies, without_findings=form.cleaned_data["without_findings"])
    if added.flagged:
        n = len(added.flagged)
        messages.warning(request, f"{n} stud{'y' if n == 1 else 'ies'} left out for quality findings.")
    if added.without_image:
        n = len(added.without_image)
        messages.warning(
            request,
            f"{n} stud{'y has' if n == 1 else 'ies have'} no image series and {'was' if n == 1 else 'were'} left out.",
        )
    if added.already:
        messages.info(request, f"{len(added.already)} of the studies were in the cohort already.")
    if added.cases:
        n = len(added.cases)
        messages.success(request, f"{n} case{'' if n == 1 else 's'} added to “{cohort.name}”.")
    return redirect("cohort", pk=cohort.pk)


def _counts(cohorts: list[Cohort]) -> dict[int, dict[str, int]]:
    """Cohort id → split → cases."""
    counts: dict[int, dict[str, int]] = defaultdict(dict)
    rows = Case.objects.filter(cohort__in=cohorts).order_by().values_list("cohort", "cohort_patient__split")
    for pk, split, n in rows.annotate(n=Count("id")):
        counts[pk][split] = n
    return counts


def _cases(cohort: Cohort):
    return cohort.cases.select_related("study__patient", "image", "cohort_patient").order_by("name", "id")


def _references_of(cohort: Cohort) -> dict[int, list[ReferenceStandard]]:
    """Case id → the reference standards, latest version of each name, that say something about it."""
    latest: dict[str, ReferenceStandard] = {}
    for reference in cohort.reference_standards.order_by("version"):
        latest[reference.name] = reference
    found: dict[int, list[ReferenceStandard]] = defaultdict(list)
    for reference in latest.values():
        for pk in reference.case_labels.values_list("case", flat=True):
            found[pk].append(reference)
    return found


def _pairs(cohort: Cohort) -> list[tuple[int, int]]:
    """Pairs of patients of the cohort with near-duplicate images."""
    studies = Study.objects.filter(cases__cohort=cohort)
    return [(one, other) for one, other, _ in duplicates.standing_pairs(studies)]


def _leaks(cohort: Cohort, links: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Those of them on two sides of the split: found, or taken back, after the cohort was frozen."""
    places = {patient: place for patient, *place in cohort.patients.values_list("patient", "split", "fold")}
    return [(one, other) for one, other in links if places[one] != places[other]]


def _page(request: HttpRequest, cohort: Cohort, form: FreezeForm) -> dict[str, Any]:
    user: User = request.user  # type: ignore[assignment]
    split = request.GET.get("split", "")
    table = split_table.of(cohort, classes=role_in(user, cohort.project) is not Role.READER)
    side = next((side for side in table.sides if side.key == split and cohort.frozen), None)
    cases = _cases(cohort).annotate(frames=Sum("image__instances__number_of_frames"))
    changed = changes.of(list(cohort.cases.only("pk", "study_id", "as_added")))
    if split == "changed" and changed:
        cases = cases.filter(pk__in=changed)
        shown = len(changed)
    elif side is not None:
        fold = side.key.removeprefix("fold-")
        where = {"cohort_patient__fold": int(fold)} if fold != side.key else {"cohort_patient__split": side.key}
        cases, shown = cases.filter(**where, **({} if fold != side.key else {"cohort_patient__fold": None})), side.cases
    else:
        split, shown = "", table.total.cases
    pages = max(1, -(-shown // PAGE_SIZE))
    asked = request.GET.get("page", "1")
    page = min(int(asked) if asked.isdecimal() and len(asked) < 9 else 1, pages) or 1
    references = _references_of(cohort)
    classes = _classes_of(cohort, user) if table.reference else {}
    may_curate = may(user, Action.CURATE, cohort.project)
    rows = [
        {
            "case": case,
            "references": references.get(case.pk, []),
            "class": classes.get(case.pk, ""),
            "changes": changed.get(case.pk, []),
        }
        for case in cases[(page - 1) * PAGE_SIZE : page * PAGE_SIZE]
    ]
    return {
        "cohort": cohort,
        "rows": rows,
        "cases": table.total.cases,
        "patients": len(table.total.patients),
        "table": table,
        "changed": len(changed),
        "pairs": len(links := _pairs(cohort)) if may_curate else 0,
        "leaks": len(_leaks(cohort, links)) if may_curate and cohort.frozen else 0,
        "variables": ClinicalVariable.objects.visible_to(user).filter(project=cohort.project).exists(),
        "chosen": split,
        "newer": page - 1 if page > 1 else None,
        "older": page + 1 if page < pages else None,
        "first": (page - 1) * PAGE_SIZE + 1,
        "last": (page - 1) * PAGE_SIZE + len(rows),
        "shown": shown,
        "references": list(
            cohort.reference_standards.select_related("created_by")
            .annotate(n=Count("case_labels"))
            .order_by("-id")[:30]
        ),
        "form": form,
        # A reader who could follow a case to its patient would not read blinded.
        "shows_patients": role_in(user, cohort.project) is not Role.READER,
        "may_curate": may_curate,
        "may_run": may(user, Action.RUN, cohort.project),
        "may_manage": may(user, Action.MANAGE, cohort.project),
    }
