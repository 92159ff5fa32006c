"""The form that orders a de-identified export."""

from __future__ import annotations

from django import forms

from portal.accounts.models import Project
from studies.cohorts.models import Cohort
from studies.deid.errors import DeidError
from studies.deid.options import Option
from studies.deid.profile import Profile
from studies.models import Study

# What each option does, in words for a manager; in the order of the form.
WORDS = {
    Option.SHIFT_DATES: ("Shift dates", "Each patient's dates move by one secret number of days; intervals stay true."),
    Option.RETAIN_DATES: ("Keep dates", "Dates and times stay as they are; the date of birth goes."),
    Option.CLEAN_DESCRIPTORS: (
        "Clean descriptions", "Study, series and protocol descriptions keep words of radiology, nothing else."),
    Option.CLEAN_PIXELS: (
        "Clean pixel data", "Every frame is searched for text, not a sample; objects say that their pixels are clean."),
    Option.CLEAN_STRUCTURED: (
        "Clean structured content", "Reports go out: codes, numbers and references stay, texts are cleaned."),
    Option.CLEAN_GRAPHICS: (
        "Clean graphics", "Presentation states go out with their drawings, texts cleaned. Overlays are removed."),
    Option.RETAIN_PATIENT: ("Keep patient characteristics", "Sex, age (90 at most), size, weight and the like."),
    Option.RETAIN_DEVICE: ("Keep device identity", "Serial numbers and names of machines."),
    Option.RETAIN_INSTITUTION: ("Keep institution", "Name, address and department of the hospital."),
    Option.RETAIN_UIDS: ("Keep UIDs", "Whoever has the originals can tell which is which."),
    Option.RETAIN_SAFE_PRIVATE: (
        "Keep safe private attributes", "Numbers that the standard lists as safe, as b-values, and those named below."),
}  # fmt: skip
MAX_STUDIES = 2000


class ExportForm(forms.Form):
    cohort = forms.ModelChoiceField(Cohort.objects.none(), required=False, empty_label="Choose a cohort")
    options = forms.MultipleChoiceField(
        choices=[(option.value, words[0]) for option, words in WORDS.items()],
        required=False,
        initial=[Option.SHIFT_DATES, Option.CLEAN_DESCRIPTORS],
    )
    nifti = forms.BooleanField(label="NIfTI volumes, too", required=False)
    results = forms.BooleanField(label="Segmentations and reports made here, too", required=False)
    remove = forms.CharField(
        label="Remove as well",
        required=False,
        max_length=2000,
        help_text="DICOM keywords with commas between, such as Manufacturer, BodyPartExamined.",
    )
    keep_private = forms.CharField(
        label="Private attributes that are safe",
        required=False,
        max_length=2000,
        widget=forms.Textarea(attrs={"rows": 2}),
        help_text="One a line: (0019,xx0C) SIEMENS MR HEADER. What is found in them still stops the export.",
    )

    def __init__(self, *args, project: Project, studies: list[Study], **kwargs):
        super().__init__(*args, **kwargs)
        self.project, self.studies = project, studies
        cohorts = Cohort.objects.filter(project=project).order_by("name")
        self.fields["cohort"].queryset = cohorts  # type: ignore[attr-defined]
        self.has_cohorts = cohorts.exists()
        self.fields["cohort"].required = not studies
        self.fields["cohort"].error_messages["required"] = "Choose a cohort, or select studies in the worklist."

    def clean(self):
        found = super().clean()
        try:
            self.profile = Profile.parse(
                ",".join(found.get("options") or []),
                (found.get("remove") or "").replace("\n", ",").split(","),
                (found.get("keep_private") or "").splitlines(),
            )
        except DeidError as error:
            self.add_error({"keyword": "remove", "private": "keep_private"}.get(error.code, "options"), str(error))
        return found

    @property
    def described(self) -> list[dict[str, object]]:
        """The options with what they do, for the page."""
        chosen = set(self["options"].value() or [])
        return [
            {"value": option.value, "label": label, "hint": hint, "chosen": option.value in chosen}
            for option, (label, hint) in WORDS.items()
        ]
