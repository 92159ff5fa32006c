"""Models from elsewhere, what was in production when, and the way back."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from inference.errors import InferenceError, StageError
from inference.registry import ensembles, history, importing
from inference.registry.manifest import MEASURES
from inference.registry.models import Model, ModelVersion
from portal.accounts.current import current_project
from portal.accounts.models import Project, User
from portal.accounts.permissions import Action, may, projects_where
from portal.workbench.run_forms import versions_for

UNCERTAINTIES = {
    "entropy": "Entropy of the mean",
    "mutual_information": "Mutual information: how much the members disagree",
    "variance": "Variance over the members",
}


class ImportForm(forms.Form):
    project = forms.ModelChoiceField(Project.objects.none(), to_field_name="slug", empty_label=None)
    file = forms.FileField(
        label="Model",
        help_text="A MONAI bundle or a bundle of this portal as zip; or .ts, .pt2, .onnx, .safetensors, .pt with a "
        "manifest.",
    )
    name = forms.CharField(
        max_length=80,
        required=False,
        help_text="The bundle's own where left empty. A known name gets its next version.",
    )
    manifest = forms.CharField(
        required=False,
        widget=forms.Textarea(attrs={"rows": 8, "class": "mono", "spellcheck": "false"}),
        help_text="JSON: what a single file does not say about itself: inputs, preprocessing, labels, sliding window.",
    )

    def __init__(self, *arguments: Any, user: User, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.fields["project"].queryset = projects_where(user, Action.RUN).order_by("name")  # type: ignore[attr-defined]


@require_http_methods(["GET", "POST"])
def model_import(request: HttpRequest) -> HttpResponse:
    """A file and, for what is no bundle, its manifest; a job reads it, tries it out and registers the version."""
    if not projects_where(request.user, Action.RUN).exists():
        raise PermissionDenied
    current = current_project(request)
    form = ImportForm(
        request.POST or None, request.FILES or None, user=request.user,
        initial={"project": current.slug if current else None},
    )  # fmt: skip
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
        try:
            job = importing.start(
                data["file"], data["file"].name, project=data["project"], name=data["name"],
                manifest=data["manifest"], by=request.user,
            )  # fmt: skip
        except InferenceError as error:
            form.add_error("manifest" if "anifest" in error.cause else "file", f"{error.cause} {error.next_step}")
        else:
            return redirect("job", pk=job.pk)
    status = 422 if request.method == "POST" else 200
    return render(request, "workbench/model_import.html", {"form": form}, status=status)


class EnsembleForm(forms.Form):
    name = forms.SlugField(
        max_length=80, label="Name of the model", help_text="A known name gets its next version. Letters, digits, -."
    )
    versions = forms.ModelMultipleChoiceField(
        ModelVersion.objects.none(), error_messages={"required": "Choose its versions."}
    )
    uncertainty = forms.ChoiceField(
        required=False,
        label="Uncertainty",
        choices=[("", "None")] + [(name, UNCERTAINTIES[name]) for name in MEASURES],
        help_text="A number for each case, and a map over the image where the model segments. Not of detectors.",
    )
    mirror = forms.MultipleChoiceField(
        choices=[(axis, axis) for axis in "xyz"], required=False, label="Mirror images along"
    )
    shifts = forms.IntegerField(min_value=0, max_value=4, required=False, label="One-voxel shifts", help_text="0 to 4")
    dropout = forms.IntegerField(
        min_value=0, max_value=100, required=False, label="Dropout passes",
        help_text="0 to 100; for networks that were trained with dropout.",
    )  # fmt: skip

    def __init__(self, *arguments: Any, user: User, project: Project | None, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.fields["versions"].queryset = versions_for(user, project)  # type: ignore[attr-defined]

    def chosen(self) -> set[str]:
        return {str(value) for value in self["versions"].value() or []}


@require_http_methods(["GET", "POST"])
def ensemble_create(request: HttpRequest) -> HttpResponse:
    """`?model=` ticks the versions of that model."""
    if not projects_where(request.user, Action.RUN).exists():
        raise PermissionDenied
    whose = {"user": request.user, "project": current_project(request)}
    model = request.GET.get("model", "")
    form = EnsembleForm(request.POST or None, **whose)
    if model.isdigit() and not form.is_bound:
        ticked = form.fields["versions"].queryset.filter(model=int(model)).values_list("pk", flat=True)  # type: ignore[attr-defined]
        form.initial = {"versions": list(ticked)}
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
        try:
            answers = ensembles.Answers(
                tuple(data["mirror"]), data["shifts"] or 0, data["dropout"] or 0, data["uncertainty"]
            )
            job = ensembles.start(list(data["versions"]), name=data["name"], answers=answers, by=request.user)
        except InferenceError as error:
            form.add_error("versions", f"{error.cause} {error.next_step}")
        else:
            return redirect("job", pk=job.pk)
    status = 422 if request.method == "POST" else 200
    context = {"form": form, "versions": list(form.fields["versions"].queryset), "chosen": form.chosen()}  # type: ignore[attr-defined]
    return render(request, "workbench/ensemble_create.html", context, status=status)


@require_GET
def production(request: HttpRequest) -> HttpResponse:
    """`?on=` a day: what was in production at its end (today: now), and every time in production around it."""
    models = Model.objects.visible_to(request.user)
    if project := current_project(request):
        models = models.filter(project=project)
    asked, problem = request.GET.get("on", ""), ""
    try:
        moment = history.moment_of(asked)
    except StageError as error:
        moment, problem = timezone.now(), f"{error.cause} {error.next_step}"
    rows = history.services_of(models)
    context = {
        "on": timezone.localdate(moment),
        "problem": problem,
        "present": [row for row in rows if row.covers(moment)],
        "rows": rows[:200],
        "several_projects": project is None,
    }
    return render(request, "workbench/production.html", context)


@require_POST
def roll_back(request: HttpRequest, pk: int) -> HttpResponse:
    """Put the version that was in production before back there. For managers."""
    model = get_object_or_404(Model.objects.visible_to(request.user).select_related("project"), pk=pk)
    if not may(request.user, Action.MANAGE, model.project):
        raise PermissionDenied
    try:
        version = history.roll_back(model, reason=request.POST.get("reason", ""), by=request.user)
    except StageError as error:
        messages.error(request, f"{error.cause} {error.next_step}")
    else:
        messages.success(request, f"{version} is in production again.")
    return redirect("model", pk=pk)
