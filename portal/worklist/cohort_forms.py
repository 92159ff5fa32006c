"""Forms of the cohort pages."""

from __future__ import annotations

from typing import Any

from django import forms

from portal.accounts.models import Project
from studies.cohorts.models import Cohort, Split
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
    """Shares of the sides in per cent, and the seed."""

    train = forms.IntegerField(label="Training, %", min_value=0, max_value=100, initial=70)
    validation = forms.IntegerField(label="Validation, %", min_value=0, max_value=100, initial=10)
    test = forms.IntegerField(label="Test, %", min_value=0, max_value=100, initial=20)
    seed = forms.IntegerField(
        min_value=0, max_value=2**31 - 1, initial=1, help_text="The same seed gives the same split again."
    )

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        for side in (Split.TRAIN, Split.VALIDATION, Split.TEST):
            self.fields[side.value].initial = round(100 * DEFAULT_FRACTIONS[side])

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        shares = [cleaned.get(side) for side in ("train", "validation", "test")]
        if None not in shares and sum(shares) != 100:  # type: ignore[arg-type]
            self.add_error(None, f"The shares add up to {sum(shares)} %, not to 100 %.")  # type: ignore[arg-type]
        return cleaned

    @property
    def fractions(self) -> dict[str, float]:
        return {side: self.cleaned_data[side] / 100 for side in ("train", "validation", "test")}
