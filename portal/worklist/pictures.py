"""Upload of pictures with a table of labels, as one archive; a job imports it."""

from __future__ import annotations

import os
import uuid
from typing import Any

from django import forms
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods

from inference.jobs.services import submit
from portal.accounts.current import current_project
from portal.accounts.models import Project
from portal.accounts.permissions import Action, may, projects_where
from portal.worklist.tasks import import_pictures
from studies.ingest.staging import media

FOLDER = "tables"
MAX_UPLOAD = 32 << 30
KINDS = (("", "As the table says"), ("CR", "Radiographs"), ("XC", "Photographs"), ("OP", "Fundus"), ("OT", "Other"))
SPLITS = (
    ("", "Leave the cohort open"),
    ("shares", "70 / 10 / 20 %: training, validation, test"),
    ("folds", "Five folds"),
)


class PicturesForm(forms.Form):
    project = forms.ModelChoiceField(Project.objects.none(), to_field_name="slug", empty_label=None)
    cohort = forms.CharField(max_length=80, help_text="Name of the cohort; it is made where it does not exist.")
    file = forms.FileField(
        label="ZIP archive", widget=forms.ClearableFileInput({"accept": ".zip"}), help_text="Pictures and one table."
    )
    kind = forms.ChoiceField(label="Kind of picture", choices=KINDS, required=False)
    body_part = forms.RegexField(
        r"^[A-Za-z0-9 _]{0,16}$", label="Body part", required=False, help_text="As in DICOM, for example CHEST."
    )
    synthetic = forms.BooleanField(label="The pictures were generated, not taken of persons", required=False)
    split = forms.ChoiceField(
        label="Split",
        choices=SPLITS,
        required=False,
        help_text="By patient and class; copies stay together.",
    )

    def __init__(self, *args: Any, projects: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.fields["project"].queryset = projects  # type: ignore[attr-defined]

    def clean_file(self) -> Any:
        file = self.cleaned_data["file"]
        head = file.read(4)
        file.seek(0)
        if head != b"PK\x03\x04":
            raise forms.ValidationError("This is no ZIP archive. Pack the pictures and their table into one.")
        if file.size > MAX_UPLOAD:
            raise forms.ValidationError("The archive is larger than 32 GB. Use manage.py import_images for that much.")
        return file


@require_http_methods(["GET", "HEAD", "POST"])
def pictures(request: HttpRequest) -> HttpResponse:
    """Those who may both import and curate: managers and engineers."""
    projects = projects_where(request.user, Action.CURATE).order_by("name")
    if slug := request.POST.get("project"):
        project = get_object_or_404(Project.objects.visible_to(request.user), slug=slug)
        if not (may(request.user, Action.IMPORT, project) and may(request.user, Action.CURATE, project)):
            raise PermissionDenied("Only managers and engineers of the project import pictures.")
    if not projects.exists():
        raise PermissionDenied("Only managers and engineers of a project import pictures.")
    current = current_project(request)
    initial = {"project": request.GET.get("project") or (current.slug if current else None)}
    form = PicturesForm(request.POST or None, request.FILES or None, projects=projects, initial=initial)
    if request.method == "POST" and form.is_valid():
        said = form.cleaned_data
        file = f"{FOLDER}/{uuid.uuid4().hex}.zip"
        path = media(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "xb") as out:
            os.chmod(path, 0o600)
            for piece in said["file"].chunks():
                out.write(piece)
        parameters = {key: said[key] for key in ("cohort", "kind", "body_part", "synthetic", "split")}
        job = submit(
            import_pictures,
            project=said["project"],
            title=f"Import pictures into {said['cohort']}",
            parameters={**parameters, "file": file},
            by=request.user,
        )
        return redirect("job", pk=job.pk)
    return render(request, "worklist/pictures.html", {"form": form}, status=422 if request.method == "POST" else 200)
