"""The forms that run a version on images, and that evaluate it against a reference standard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django import forms

from inference.errors import PredictionError
from inference.prediction import inputs
from inference.registry.models import ModelVersion, Stage
from portal.accounts.models import Project, User
from portal.accounts.permissions import Action, projects_where
from portal.workbench.training_form import (
    CohortField,
    PriorityField,
    ReferenceField,
    choose_only,
    cohorts_for,
    references_for,
)
from studies.cohorts.models import Cohort, ReferenceStandard, Split
from studies.models import Series, Study

EVERY_CASE = [("", "Every case"), (Split.TEST, "Test patients"), (Split.VALIDATION, "Validation patients"),
              (Split.TRAIN, "Training patients")]  # fmt: skip


class VersionField(forms.ModelChoiceField):
    def label_from_instance(self, version: ModelVersion) -> str:
        return f"{version} ({version.get_stage_display().lower()}), {version.model.project.name}"


def versions_for(user: User, project: Project | None):
    versions = ModelVersion.objects.visible_to(user).filter(model__project__in=projects_where(user, Action.RUN))
    if project is not None:
        versions = versions.filter(model__project=project)
    return versions.exclude(stage=Stage.RETIRED).select_related("model__project").order_by("model__name", "-number")


@dataclass
class InputChoice:
    """One input of the model for one study: a list of its series."""

    field: str
    name: str
    options: list[tuple[int, str]]
    chosen: int | None


@dataclass
class StudyChoice:
    """A study whose series can be chosen by hand. problem: why none was chosen by itself."""

    study: Study
    inputs: list[InputChoice]
    problem: str


MOST_BY_HAND = 20  # studies of which a form asks for the series


class RunForm(forms.Form):
    version = VersionField(
        queryset=ModelVersion.objects.none(),
        label="Model version",
        empty_label="Choose a version",
        error_messages={"required": "Choose the version to run."},
    )
    where = forms.ChoiceField(
        choices=[("cohort", "A cohort"), ("studies", "Selected studies")], widget=forms.RadioSelect, label="Run on"
    )
    cohort = CohortField(queryset=Cohort.objects.none(), empty_label="Choose a cohort", required=False)
    split = forms.ChoiceField(choices=EVERY_CASE, label="Part of the cohort", required=False)
    priority = PriorityField()
    studies = forms.CharField(widget=forms.HiddenInput, required=False)

    def __init__(self, *arguments: Any, user: User, project: Project | None, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.user = user
        self.choices: list[StudyChoice] = []
        self.fields["version"].queryset = versions_for(user, project)  # type: ignore[attr-defined]
        self.fields["cohort"].queryset = cohorts_for(user, project)  # type: ignore[attr-defined]
        choose_only(self, "version", "cohort")

    def chosen_studies(self) -> list[Study]:
        """Those of the listed studies that the user may run models on, newest first."""
        listed = str(self["studies"].value() or "")
        numbers = [int(word) for word in listed.split(",") if word.strip().isdigit()]
        studies = Study.objects.visible_to(self.user).filter(
            pk__in=numbers, project__in=projects_where(self.user, Action.RUN)
        )
        return list(studies.select_related("project").order_by("-id"))

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        version, where = cleaned.get("version"), cleaned.get("where")
        if where == "cohort":
            cohort = cleaned.get("cohort")
            if cohort is None and "cohort" not in self.errors:
                self.add_error("cohort", "Choose the cohort to run on.")
            elif cohort and cleaned.get("split") and not cohort.frozen:
                self.add_error("split", f"{cohort.name} is not frozen, so it has no such patients yet.")
            elif cohort and version and cohort.project_id != version.model.project_id:
                self.add_error("cohort", f"The model belongs to {version.model.project}; choose one of its cohorts.")
        elif where == "studies":
            cleaned["chosen"] = self.chosen_studies()
            if not cleaned["chosen"]:
                self.add_error("where", "No study is selected: select studies in the worklist, then “Run model”.")
            elif version is not None:
                cleaned["by_hand"] = self._choose(version, cleaned["chosen"])
        return cleaned

    def _choose(self, version: ModelVersion, studies: list[Study]) -> dict[int, dict[str, int]]:
        """What was chosen by hand; asks for what is missing, and for everything where that was the button.

        A study that was asked about and left as it is runs all the same: its case ends with the cause.
        """
        by_hand: dict[int, dict[str, int]] = {}
        self.choices = []
        open_questions = False
        asked = "choose" in self.data
        if len(studies) > MOST_BY_HAND:
            if asked:
                self.add_error("where", f"Series can be chosen by hand for at most {MOST_BY_HAND} studies at once.")
            return by_hand
        for study in studies:
            chosen = self._chosen(version, study)
            problem = ""
            try:
                inputs.choose(version.manifest, study, by_hand=chosen)
            except PredictionError as error:
                problem = error.cause
            if chosen:
                by_hand[study.pk] = chosen
            if problem and (chosen or f"input-{study.pk}-0" not in self.data):
                open_questions = True
            if (problem or chosen or asked) and (series := inputs.images_of(study)):
                self.choices.append(StudyChoice(study, self._inputs(version, study, series, chosen), problem))
        if asked or (open_questions and self.choices):
            self.add_error("where", "Choose the series below, then run. A study left as it is ends with its cause.")
        return by_hand

    def _chosen(self, version: ModelVersion, study: Study) -> dict[str, int]:
        found = {}
        for number, name in enumerate(inputs.names(version.manifest)):
            value = self.data.get(f"input-{study.pk}-{number}", "")
            if value.isdigit():
                found[name] = int(value)
        return found

    @staticmethod
    def _inputs(version: ModelVersion, study: Study, series: list[Series], chosen: dict[str, int]) -> list[InputChoice]:
        options = [
            (one.pk, f"{one.series_description or 'No description'} ({one.modality}, {one.number_of_instances} images)")
            for one in series
        ]
        return [
            InputChoice(f"input-{study.pk}-{number}", name, options, chosen.get(name))
            for number, name in enumerate(inputs.names(version.manifest))
        ]


class EvaluateForm(forms.Form):
    version = VersionField(
        queryset=ModelVersion.objects.none(),
        label="Model version",
        empty_label="Choose a version",
        error_messages={"required": "Choose the version to evaluate."},
    )
    cohort = CohortField(
        queryset=Cohort.objects.none(),
        empty_label="Choose a cohort",
        error_messages={"required": "Choose the cohort to evaluate on."},
    )
    reference = ReferenceField(
        queryset=ReferenceStandard.objects.none(),
        label="Reference standard",
        empty_label="The newest of the cohort",
        required=False,
    )
    split = forms.ChoiceField(
        choices=[EVERY_CASE[1], *EVERY_CASE[2:], EVERY_CASE[0]],
        label="Cases",
        required=False,
        initial=Split.TEST,
        help_text="Test patients were seen neither in training nor in choosing the model.",
    )
    priority = PriorityField()

    def __init__(self, *arguments: Any, user: User, project: Project | None, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        cohorts = cohorts_for(user, project)
        self.fields["version"].queryset = versions_for(user, project)  # type: ignore[attr-defined]
        self.fields["cohort"].queryset = cohorts.filter(  # type: ignore[attr-defined]
            reference_standards__isnull=False
        ).distinct()
        self.fields["reference"].queryset = references_for(cohorts)  # type: ignore[attr-defined]
        choose_only(self, "version", "cohort")

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        version, cohort, reference = (cleaned.get(name) for name in ("version", "cohort", "reference"))
        if cohort and reference and reference.cohort_id != cohort.pk:
            self.add_error("reference", f"This reference standard belongs to {reference.cohort.name}.")
        if cohort and version and cohort.project_id != version.model.project_id:
            self.add_error("cohort", f"The model belongs to {version.model.project}; choose one of its cohorts.")
        if cohort and cleaned.get("split") and not cohort.frozen:
            self.add_error("split", f"{cohort.name} is not frozen, so it has no such patients: choose every case.")
        return cleaned
