"""Models, their versions and stages, and the page of one version with its card."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import ObjectDoesNotExist, PermissionDenied
from django.db.models import Count, Prefetch, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_POST

from inference.errors import StageError
from inference.evaluation.models import Evaluation
from inference.prediction.models import Prediction
from inference.registry import card_text, history, services
from inference.registry.models import TRANSITIONS, Model, ModelVersion, Promotion, Stage
from portal.accounts.current import current_project
from portal.accounts.permissions import Action, may, projects_where
from portal.workbench import validation_figures

FINISHED = Q(finished_at__isnull=False)


@require_GET
def models(request: HttpRequest) -> HttpResponse:
    shown = Model.objects.visible_to(request.user)
    if project := current_project(request):
        shown = shown.filter(project=project)
    rows = list(
        shown.select_related("project")
        .prefetch_related(Prefetch("versions", _versions(request)))
        .order_by("name", "project__name")
    )
    for row in rows:
        versions = list(row.versions.all())
        row.newest = versions[0] if versions else None
        row.in_production = next((version for version in versions if version.stage == Stage.PRODUCTION), None)
        row.shown = row.in_production or row.newest
        row.count = len(versions)
    may_train = projects_where(request.user, Action.RUN).exists()
    return render(request, "workbench/models.html", {"models": rows, "may_train": may_train})


def _versions(request: HttpRequest):
    """Versions, newest first, with their finished evaluations, newest first."""
    evaluations = (
        Evaluation.objects.visible_to(request.user)
        .filter(FINISHED)
        .select_related("reference__cohort")
        .order_by("-finished_at")
    )
    return (
        ModelVersion.objects.select_related(
            "model", "created_by", "training_run__reference__cohort", "training_run__job"
        )
        .prefetch_related(Prefetch("evaluations", evaluations))
        .order_by("-number")
    )


@require_GET
def model(request: HttpRequest, pk: int) -> HttpResponse:
    found = get_object_or_404(Model.objects.visible_to(request.user).select_related("project"), pk=pk)
    versions = list(_versions(request).filter(model=found))
    for version in versions:
        version.latest = next(iter(version.evaluations.all()), None)
    stages = [
        (stage.value, stage.label, [version for version in versions if version.stage == stage]) for stage in Stage
    ]
    context = {
        "model": found,
        "versions": versions,
        "stages": stages,
        "in_production": next((version for version in versions if version.stage == Stage.PRODUCTION), None),
        "promotions": Promotion.objects.filter(version__model=found).select_related("version", "by")[:30],
        "may_run": may(request.user, Action.RUN, found.project),
        "may_manage": may(request.user, Action.MANAGE, found.project),
        "before": history.before_this(found),
        "predictions": Prediction.objects.visible_to(request.user).filter(version__model=found).count(),
    }
    return render(request, "workbench/model.html", context)


class PromotionForm(forms.Form):
    to = forms.ChoiceField(label="New stage", widget=forms.RadioSelect)
    reason = forms.CharField(
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text="Stands in the history for ever, beside your name.",
        error_messages={"required": "Write in a sentence why."},
    )

    def __init__(self, *arguments: Any, version: ModelVersion, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        possible = TRANSITIONS[version.stage]
        self.fields["to"].choices = [(stage.value, stage.label) for stage in Stage if stage in possible]  # type: ignore[attr-defined]


@require_GET
def version(request: HttpRequest, pk: int) -> HttpResponse:
    found = _version(request, pk)
    return _show(request, found, PromotionForm(version=found))


@require_POST
def promote(request: HttpRequest, pk: int) -> HttpResponse:
    """Move the version to another stage, signed by the user with a reason. For managers."""
    found = _version(request, pk)
    if not may(request.user, Action.MANAGE, found.model.project):
        raise PermissionDenied
    form = PromotionForm(request.POST, version=found)
    if form.is_valid():
        try:
            services.promote(found, form.cleaned_data["to"], reason=form.cleaned_data["reason"], by=request.user)
        except StageError as error:
            form.add_error(None, f"{error.cause} {error.next_step}")
        else:
            messages.success(request, f"{found} is {Stage(form.cleaned_data['to']).label.lower()} now.")
            return redirect("version", pk=pk)
    return _show(request, found, form, status=422)


def _version(request: HttpRequest, pk: int) -> ModelVersion:
    visible = _versions(request).filter(pk__in=ModelVersion.objects.visible_to(request.user))
    return get_object_or_404(visible.select_related("model__project"), pk=pk)


def _trained_on(version: ModelVersion) -> str:
    """The cohort and reference standard of the training for a form's address: their test patients come first."""
    try:
        reference = version.training_run.reference
    except ObjectDoesNotExist:
        return ""
    return f"&cohort={reference.cohort_id}&reference={reference.pk}"


def _show(request: HttpRequest, found: ModelVersion, form: PromotionForm, status: int = 200) -> HttpResponse:
    manifest = found.manifest
    runs = Prediction.objects.visible_to(request.user).filter(version=found)
    texts = card_text.sections_of(found, card_text.revision_of(found))
    context = {
        "version": found,
        "model": found.model,
        "card": {
            "missing": [s.title for s in card_text.SECTIONS if s.for_production and not texts[s.key]],
            "stated": [{"title": s.title, "text": texts[s.key]} for s in card_text.SECTIONS if texts[s.key]],
        },
        "training": manifest.get("training", {}),
        "validation": validation_figures.of(manifest),
        "validation_method": validation_figures.method(manifest),
        "trained_on": _trained_on(found),
        "manifest": manifest,
        "evaluations": list(found.evaluations.all()),
        "predictions": runs.aggregate(count=Count("id"), studies=Count("study", distinct=True)),
        "promotions": found.promotions.select_related("by"),
        "form": form,
        "may_run": may(request.user, Action.RUN, found.model.project),
        "may_promote": may(request.user, Action.MANAGE, found.model.project),
    }
    return render(request, "workbench/version.html", context, status=status)
