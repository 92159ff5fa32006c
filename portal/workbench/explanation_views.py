"""Maps of what moved a classifier's answer: asked for on one page, opened over the image in the viewer."""

from __future__ import annotations

from typing import Any

from django import forms
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods

from inference.errors import ExplanationError
from inference.explanation import services
from inference.explanation.settings import METHODS, methods
from inference.prediction.models import Prediction
from portal.accounts.permissions import Action, may

SUMMARIES = {
    "grad_cam": "One pass forward and back: seconds. Coarse, as it shows the cells of the last feature map.",
    "occlusion": "Covers the image part by part: up to minutes. Works with imported programs too.",
}


class ExplanationForm(forms.Form):
    method = forms.ChoiceField(choices=list(METHODS.items()), widget=forms.RadioSelect)
    labels = forms.MultipleChoiceField(
        widget=forms.CheckboxSelectMultiple, error_messages={"required": "Choose at least one label."}
    )
    patch = forms.IntegerField(
        min_value=1, required=False, label="Patch, voxels", help_text="Empty: an eighth of what the model sees."
    )
    stride = forms.IntegerField(min_value=1, required=False, label="Step, voxels", help_text="Empty: half the patch.")
    baseline = forms.CharField(
        required=False,
        initial="mean",
        max_length=20,
        label="Covered by",
        help_text="mean or minimum of the image, or a number on the scale after preprocessing.",
    )

    def __init__(self, *arguments: Any, prediction: Prediction, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        manifest = prediction.version.manifest
        names = [label["name"] for label in manifest["labels"]]
        self.fields["labels"].choices = [(name, name) for name in names]  # type: ignore[attr-defined]
        self.refused = methods(manifest)
        usable = [method for method, cause in self.refused.items() if not cause]
        self.initial.setdefault("method", usable[0] if usable else "")
        if prediction.scores:
            self.initial.setdefault("labels", [max(prediction.scores, key=lambda name: prediction.scores[name])])
        self.possible = bool(usable)

    def options(self) -> list[dict[str, str]]:
        return [
            {"value": method, "title": title, "summary": self.refused[method] or SUMMARIES[method],
             "refused": self.refused[method]}
            for method, title in METHODS.items()
        ]  # fmt: skip


@require_http_methods(["GET", "POST"])
def prediction_explain(request: HttpRequest, pk: int) -> HttpResponse:
    """The maps of a prediction, and the form that makes more of them."""
    shown = Prediction.objects.visible_to(request.user).select_related("version__model__project", "study", "image")
    prediction = get_object_or_404(shown, pk=pk)
    project = prediction.version.model.project
    if request.method == "POST":
        if not may(request.user, Action.RUN, project):
            raise PermissionDenied
        form = ExplanationForm(request.POST, prediction=prediction)
        if form.is_valid():
            asked = form.cleaned_data
            try:
                job = services.start(prediction, **{**asked, "baseline": asked["baseline"] or "mean"}, by=request.user)
            except ExplanationError as error:
                form.add_error(None, f"{error.cause} {error.next_step}".strip())
            else:
                return redirect("job", pk=job.pk)
        return _show(request, prediction, form, 422)
    return _show(request, prediction, ExplanationForm(prediction=prediction))


def _show(request: HttpRequest, prediction: Prediction, form: ExplanationForm, status: int = 200) -> HttpResponse:
    manifest = prediction.version.manifest
    context = {
        "prediction": prediction,
        "version": prediction.version,
        "maps": prediction.maps.select_related("series").order_by("-pk"),
        "form": form,
        "possible": form.possible,
        "seen": " × ".join(map(str, manifest["inference"]["window"])) if form.possible else "",
        "caution": services.CAUTION,
        "may_run": may(request.user, Action.RUN, prediction.version.model.project),
    }
    return render(request, "workbench/explain.html", context, status=status)
