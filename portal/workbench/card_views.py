"""The model card of a version: shown, printed, edited."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.dateparse import parse_datetime
from django.views.decorators.http import require_GET, require_http_methods

from inference.errors import CardError
from inference.registry import card_text
from inference.registry.card import card_of
from inference.registry.card_markdown import COMPOSITION
from inference.registry.models import ModelVersion
from portal.accounts.permissions import Action, may


class CardForm(forms.Form):
    """One field for each section that people write, and the revision that was read."""

    base = forms.IntegerField(widget=forms.HiddenInput)

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        for section in card_text.SECTIONS:
            needed = " Needed before production." if section.for_production else ""
            self.fields[section.key] = forms.CharField(
                required=False,
                max_length=card_text.LONGEST,
                label=section.title,
                help_text=section.hint + needed,
                widget=forms.Textarea(attrs={"rows": 3 if section.key in ("licence", "contacts", "users") else 5}),
            )


@require_GET
def card(request: HttpRequest, pk: int) -> HttpResponse:
    """`?print` leaves out everything but the card."""
    version = _version(request, pk)
    made = card_of(version, request.user)
    for place in (made["model"], *made["results"], *made["stages"]):
        for key in ("made_at", "at"):
            if key in place:
                place[key] = parse_datetime(place[key])
    made["revision"]["at"] = parse_datetime(made["revision"]["at"]) if made["revision"]["at"] else None
    training = made["training"]
    training["told"] = {key.replace("_", " ").capitalize(): value for key, value in training["told"].items()}
    for run in training["runs"]:
        run["rows"] = [
            (title, told(run["learned_from"]), told(run["chosen_by"])) for title, told in COMPOSITION.items()
        ]
    context = {
        "version": version,
        "card": made,
        "revisions": version.card_revisions.select_related("by")[:20],
        "may_edit": may(request.user, Action.RUN, version.model.project),
    }
    return render(request, "workbench/card_print.html" if "print" in request.GET else "workbench/card.html", context)


@require_http_methods(["GET", "POST"])
def card_edit(request: HttpRequest, pk: int) -> HttpResponse:
    """Write the sections of a card; each change is a revision. For engineers and managers."""
    version = _version(request, pk)
    if not may(request.user, Action.RUN, version.model.project):
        raise PermissionDenied
    revision = card_text.revision_of(version)
    if request.method == "POST":
        form = CardForm(request.POST)
        if form.is_valid():
            texts = {key: form.cleaned_data[key] for key in card_text.KEYS}
            try:
                made = card_text.write(version, texts, base=form.cleaned_data["base"], by=request.user)
            except CardError as error:
                form.add_error(None, f"{error.cause} {error.next_step}")
            else:
                messages.success(request, f"The card of {version} is kept as revision {made.number}.")
                return redirect("card", pk=pk)
        return _edit(request, version, form, 422)
    texts = card_text.sections_of(version, revision)
    return _edit(request, version, CardForm(initial={**texts, "base": revision.number if revision else 0}))


def _edit(request: HttpRequest, version: ModelVersion, form: CardForm, status: int = 200) -> HttpResponse:
    return render(request, "workbench/card_edit.html", {"version": version, "form": form}, status=status)


def _version(request: HttpRequest, pk: int) -> ModelVersion:
    visible = ModelVersion.objects.visible_to(request.user).select_related("model__project", "created_by")
    return get_object_or_404(visible, pk=pk)
