"""Forms of the cohort pages."""

from __future__ import annotations

from typing import Any

from django import forms

from portal.accounts.models import Project
from studies.cohorts.clinical import ClinicalVariable
from studies.cohorts.freezing import MANUFACTURER
from studies.cohorts.models import Cohort, ReferenceStandard, Split
from studies.cohorts.splits import DEFAULT_FRACTIONS


class CohortForm(forms.Form):
    """Into a cohort that is still open, or into a new one."""

    cohort = forms.ModelChoiceField(Cohort.objects.none(), required=False, empty_label="A new cohort", label="Add to")
    name = forms.CharField(max_length=80, required=False, help_text="Only for a new cohort.")
    description = forms.CharField(
        required=False,
        max_length=2000,
        widget=forms.Textarea({"rows": 3}),
        help_text="Where the cases come from and how they were chosen.",
    )
    without_findings = forms.BooleanField(
        required=False,
        label="Leave out images with quality findings",
        help_text="Missing slices, blank or clipped images and the like; studies without other images stay out.",
    )

    def __init__(self, *args: Any, project: Project, **kwargs: Any):
        super().__init__(*args, **kwargs)
        open_cohorts = Cohort.objects.filter(project=project, frozen_at__isnull=True).order_by("name")
        self.fields["cohort"].queryset = open_cohorts  # type: ignore[attr-defined]
        if not open_cohorts.exists():  # nothing to add to: the name is needed
            self.fields["name"].required = True
            self.fields["name"].help_text = ""
            self.fields["name"].error_messages["required"] = "Give the new cohort a name."

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if not cleaned.get("cohort") and not (cleaned.get("name") or "").strip() and "name" not in self.errors:
            self.add_error("name", "Give the new cohort a name, or choose one that is there.")
        return cleaned


class FreezeForm(forms.Form):
    """How the cohort is split: shares of the sides in per cent, or folds; by what it is stratified; and the seed."""

    KINDS = (("shares", "Training, validation, test"), ("folds", "Folds"), ("sources", "One source left out at a time"))

    kind = forms.ChoiceField(label="Split into", choices=KINDS, initial="shares", required=False)
    folds = forms.IntegerField(label="Folds", min_value=2, max_value=20, initial=5, required=False)
    train = forms.IntegerField(label="Training, %", min_value=0, max_value=100, initial=70, required=False)
    validation = forms.IntegerField(label="Validation, %", min_value=0, max_value=100, initial=10, required=False)
    test = forms.IntegerField(label="Test, %", min_value=0, max_value=100, initial=20, required=False)
    held_out = forms.IntegerField(label="Held out for testing, %", min_value=0, max_value=90, initial=0, required=False)
    classes = forms.ModelChoiceField(
        ReferenceStandard.objects.none(), required=False, empty_label="Not by class", label="Stratify by class"
    )
    source = forms.ChoiceField(label="Source", required=False)
    stratify_source = forms.BooleanField(label="Stratify by source, too", required=False)
    seed = forms.IntegerField(
        min_value=0, max_value=2**31 - 1, initial=1, help_text="The same seed gives the same split again."
    )

    def __init__(self, *args: Any, cohort: Cohort, **kwargs: Any):
        super().__init__(*args, **kwargs)
        known = cohort.reference_standards.filter(kind=ReferenceStandard.Kind.CLASSIFICATION).order_by("-id")
        self.fields["classes"].queryset = known  # type: ignore[attr-defined]
        self.fields["classes"].initial = next(iter(known), None)
        variables = ClinicalVariable.objects.filter(project=cohort.project, kind=ClinicalVariable.Kind.CATEGORY)
        names = variables.order_by("-role", "name").values_list("name", "role")
        self.fields["source"].choices = [  # type: ignore[attr-defined]
            *((name, name) for name, role in names if role != ClinicalVariable.Role.GROUP),
            (MANUFACTURER, "Manufacturer of the scanner"),
        ]
        # What the other ways to split need is not asked for.
        kind = (self.data.get("kind") or "shares") if self.is_bound else ""
        needed = {"shares": ("train", "validation", "test"), "folds": ("folds",), "sources": ("source",)}
        for way, names in needed.items():
            for name in names:
                self.fields[name].required = kind in ("", way)
        for side in (Split.TRAIN, Split.VALIDATION, Split.TEST):
            self.fields[side.value].initial = round(100 * DEFAULT_FRACTIONS[side])

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if (cleaned.get("kind") or "shares") != "shares":
            return cleaned
        shares = [cleaned.get(side) for side in ("train", "validation", "test")]
        if None not in shares and sum(shares) != 100:  # type: ignore[arg-type]
            self.add_error(None, f"The shares add up to {sum(shares)} %, not to 100 %.")  # type: ignore[arg-type]
        return cleaned

    @property
    def design(self) -> dict[str, Any]:
        """Parameters of `services.freeze`."""
        said = self.cleaned_data
        kind = said["kind"] or "shares"
        design: dict[str, Any] = {"seed": said["seed"], "classes": said["classes"] if kind != "sources" else None}
        if kind == "shares":
            design["fractions"] = {side: said[side] / 100 for side in ("train", "validation", "test")}
        elif kind == "folds":
            design |= {"folds": said["folds"], "fractions": {"test": (said["held_out"] or 0) / 100}}
        else:
            design["leave_source_out"] = True
        if kind == "sources" or said["stratify_source"]:
            design |= {"source": said["source"], "stratify_source": said["stratify_source"]}
        return design
