"""Preprocessing of a series, before and after, step by step."""

from __future__ import annotations

import tomllib
from itertools import pairwise
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import FileResponse, Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.http import urlencode
from django.views.decorators.http import require_GET, require_http_methods

from inference.errors import ConfigError, PreprocessingError
from inference.imaging import preprocessing
from inference.jobs.models import Job
from inference.registry.models import ModelVersion
from inference.training import config as schema
from inference.training import previews, toml
from portal.accounts.permissions import Action, may
from portal.workbench import live
from portal.workbench.curves import Curve
from portal.workbench.presets import FOLDER
from studies.cohorts.models import Case, Cohort
from studies.models import Series

LARGEST_TEXT = 64 * 1024
MOST_CASES = 200


@require_http_methods(["GET", "POST"])
def preprocessing_preview(request: HttpRequest, pk: int) -> HttpResponse:
    """GET with `?job=` shows a preview, with `?preset=` or `?version=` its steps, or `?steps=`; POST starts one."""
    series = _series(request, pk)
    may_run = may(request.user, Action.RUN, series.study.project)
    if request.method == "POST":
        if not may_run:
            raise PermissionDenied
        text, problems = request.POST.get("steps", ""), []
        try:
            job = previews.start(series, steps_of(text), by=request.user)
        except ConfigError as error:
            problems = error.problems
        except PreprocessingError as error:
            problems = [f"{error.cause} {error.next_step}".strip()]
        else:
            query: dict[str, Any] = {"job": job.pk}
            if (cohort := request.POST.get("cohort", "")).isdigit():
                query["cohort"] = cohort
            return redirect(f"{reverse('preprocessing_preview', args=[pk])}?{urlencode(query)}")
        return _show(request, series, None, text, may_run, problems=problems, status=422)
    job = _preview(request, series, request.GET.get("job", ""))
    if request.headers.get("X-Live"):
        if job is None:
            raise Http404
        etag = live.stamp(job.state, job.progress, job.progress_text)
        return live.answer(
            request, etag, lambda: {"ended": job.ended, "progress": job.progress, "text": job.progress_text}
        )
    if job is not None:
        text = toml.steps(preprocessing.check(job.parameters["steps"]))  # with their settings in order again
    else:
        text = _chosen(request)
    return _show(request, series, job, text, may_run)


@require_GET
def preprocessing_picture(request: HttpRequest, pk: int, job: int, side: str, number: int) -> FileResponse:
    series = _series(request, pk)
    made = _preview(request, series, str(job))
    path = previews.picture_of(made, side, number) if made else None
    if path is None:
        raise Http404
    response = FileResponse(path.open("rb"), content_type="image/png")
    response["Cache-Control"] = "private, max-age=3600"
    return response


@require_GET
def preprocessing_of_cohort(request: HttpRequest, pk: int) -> HttpResponse:
    """The preview of the cohort's first case that the user may see."""
    cohort = get_object_or_404(Cohort.objects.visible_to(request.user), pk=pk)
    for case in cohort.cases.select_related("image").order_by("name", "pk")[:MOST_CASES]:
        if Series.objects.visible_to(request.user).filter(pk=case.image_id).exists():
            kept = {key: request.GET[key] for key in ("preset", "version", "steps") if key in request.GET}
            query = {"cohort": cohort.pk, **kept}
            return redirect(f"{reverse('preprocessing_preview', args=[case.image_id])}?{urlencode(query)}")
    raise Http404


def steps_of(text: str) -> Any:
    """The steps of TOML text, unchecked. Raises `ConfigError`."""
    if len(text) > LARGEST_TEXT:
        raise ConfigError(["This is no list of steps: it is too long."])
    try:
        parsed = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"This is not TOML: {error}."]) from error
    if unknown := sorted(set(parsed) - {"preprocessing"}):
        raise ConfigError([f"Only [[preprocessing]] tables go here, not {', '.join(unknown)}."])
    return parsed.get("preprocessing", [])


def _chosen(request: HttpRequest) -> str:
    """The steps to begin with: those that the address has as TOML, of a version, of a preset, or the usual ones."""
    if steps := request.GET.get("steps", ""):
        return steps[:LARGEST_TEXT]
    if (version := request.GET.get("version", "")).isdigit():
        found = get_object_or_404(ModelVersion.objects.visible_to(request.user), pk=int(version))
        return toml.steps(preprocessing.check(found.manifest.get("preprocessing", [])))
    preset = FOLDER / f"{request.GET.get('preset', '')}.toml"
    if preset in set(FOLDER.glob("*.toml")):
        return toml.steps(schema.load(preset)["preprocessing"])
    return toml.steps(preprocessing.check(schema.DEFAULT_PREPROCESSING))


def _series(request: HttpRequest, pk: int) -> Series:
    visible = Series.objects.visible_to(request.user).select_related("study__project")
    return get_object_or_404(visible, pk=pk, number_of_instances__gt=0)


def _preview(request: HttpRequest, series: Series, number: str) -> Job | None:
    """The preview of this series with this number; 404 where there is none."""
    if not number:
        return None
    jobs = Job.objects.visible_to(request.user).filter(task__endswith=".preview_preprocessing")
    if not number.isdigit():
        raise Http404
    return get_object_or_404(jobs, pk=int(number), parameters__series=series.pk)


def _show(
    request: HttpRequest,
    series: Series,
    job: Job | None,
    text: str,
    may_run: bool,
    *,
    problems: list[str] | None = None,
    status: int = 200,
) -> HttpResponse:
    context: dict[str, Any] = {
        "series": series,
        "job": job,
        "text": text,
        "problems": problems or [],
        "may_run": may_run,
        "operators": [
            {
                "name": name,
                "summary": operator.summary,
                "settings": ", ".join(operator.settings) or "–",
                "modalities": operator.modalities,
                "suits": not operator.modalities or series.modality in operator.modalities,
            }
            for name, operator in preprocessing.OPERATORS.items()
        ],
        **_cases(request, series),
    }
    if job is not None and job.result:
        context |= _result(series, job)
    return render(request, "workbench/preprocessing.html", context, status=status)


def _cases(request: HttpRequest, series: Series) -> dict[str, Any]:
    """The other cases of the cohort that the page came from."""
    number = request.POST.get("cohort") or request.GET.get("cohort", "")
    if not number.isdigit():
        return {}
    cohort = Cohort.objects.visible_to(request.user).filter(pk=int(number)).first()
    if cohort is None:
        return {}
    cases = Case.objects.filter(cohort=cohort, image__in=Series.objects.visible_to(request.user)).order_by(
        "name", "pk"
    )[:MOST_CASES]
    return {"cohort": cohort, "cases": [{"series": case.image_id, "name": case.name} for case in cases]}


def _result(series: Series, job: Job) -> dict[str, Any]:
    result = job.result
    stages = result["stages"]
    slices = result["slices"]
    return {
        "result": result,
        "stages": stages,
        "middle": len(slices) // 2,
        "drawn": previews.picture_of(job, "before", 0) is not None,
        "pictures": [
            {"slice": z + 1, **{side: _address(series, job, side, number) for side in previews.SIDES}}
            for number, z in enumerate(slices)
        ],
        "histograms": [_histogram("before", "Before", stages[0]), _histogram("after", "After", stages[-1])],
    }


def _address(series: Series, job: Job, side: str, number: int) -> str:
    return reverse("preprocessing_picture", args=[series.pk, job.pk, side, number])


def _histogram(key: str, title: str, stage: dict[str, Any]) -> Curve:
    edges, counts = stage["edges"], stage["counts"]
    centres = [round((a + b) / 2, 4) for a, b in pairwise(edges)]
    spec = {
        "data": [
            {
                "type": "bar", "x": centres, "y": counts, "width": edges[1] - edges[0],
                "marker": {"color": "var(--c1)" if key == "before" else "var(--c2)", "line": {"width": 0}},
                "hovertemplate": "%{x:.3g}: %{y} voxels<extra></extra>",
            }
        ],
        "layout": {
            "xaxis": {"title": {"text": "value"}},
            "yaxis": {"title": {"text": "voxels"}, "type": "log", "dtick": 1, "exponentformat": "power"},
            "margin": {"l": 52, "r": 10, "t": 10, "b": 40}, "showlegend": False, "bargap": 0,
        },
    }  # fmt: skip
    words = f"{title.lower()}: values from {stage['low']:.4g} to {stage['high']:.4g}, mean {stage['mean']:.4g}"
    return Curve(f"histogram-{key}", title, "voxels by value, logarithmic", f"Histogram {words}", spec)
