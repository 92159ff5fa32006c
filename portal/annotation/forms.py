"""The campaign designer's form: plain fields, and rows of questions and segments that grow and shrink."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from django import forms
from django.http import QueryDict

from inference.registry.models import ModelVersion, Stage
from portal.accounts.models import Project, Role, User
from portal.annotation import campaigns, design
from portal.annotation.models import Campaign, Question
from studies.cohorts.models import Cohort


@dataclass
class Row:
    """One question or segment as typed in, with what is wrong with it."""

    index: int
    values: dict[str, Any] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    @property
    def color(self) -> str:
        return design.DEFAULT_COLORS[(self.index - 1) % len(design.DEFAULT_COLORS)]


class CampaignForm(forms.Form):
    name = forms.CharField(max_length=120)
    cohort = forms.ModelChoiceField(Cohort.objects.none(), required=True, empty_label="Choose a cohort")
    due_date = forms.DateField(required=False, widget=forms.DateInput(attrs={"type": "date"}))
    instructions = forms.CharField(required=False, widget=forms.Textarea(attrs={"rows": 4}))
    readers = forms.ModelMultipleChoiceField(User.objects.none(), required=False)
    overlap = forms.IntegerField(min_value=1, max_value=50, initial=2)
    blinded = forms.BooleanField(required=False, initial=True)
    ai_version = forms.ModelChoiceField(ModelVersion.objects.none(), required=False, empty_label="Without AI")

    def __init__(self, data: QueryDict | None = None, *, project: Project, user: User, **kwargs: Any) -> None:
        super().__init__(data, **kwargs)
        self.project = project
        choices: dict[str, Any] = self.fields
        choices["cohort"].queryset = Cohort.objects.visible_to(user).filter(project=project).order_by("name")
        choices["readers"].queryset = possible_readers(project)
        choices["ai_version"].queryset = (
            ModelVersion.objects.visible_to(user)
            .filter(model__project=project)
            .exclude(stage=Stage.RETIRED)
            .select_related("model")
        )
        self.questions = [Row(i, _question(data, i)) for i in _indexes(data, "questions")] if data else [Row(1)]
        self.segments = [Row(i, _segment(data, i)) for i in _indexes(data, "segments")] if data else []
        for added, rows in (("question", self.questions), ("segment", self.segments)):
            if data and data.get("add") == added:
                rows.append(Row(len(rows) + 1))
        for rows in (self.questions, self.segments):
            rows[:] = [row for row in rows if not (data and data.get("remove") == f"{_kind(rows, self)}-{row.index}")]
            for place, row in enumerate(rows, start=1):
                row.index = place

    def clean(self) -> dict[str, Any]:
        found = super().clean() or {}
        if self.errors.get("overlap"):
            overlap = 1
        else:
            overlap = found.get("overlap") or 1
        for problem in design.problems(
            project=self.project,
            name=found.get("name", "") or "",
            cohort=found.get("cohort"),
            readers=list(found.get("readers") or []),
            overlap=overlap,
            questions=self.question_specs,
            segments=self.segment_specs,
            ai_version=found.get("ai_version"),
        ):
            self._put(problem.field, str(problem))
        return found

    def _put(self, name: str, text: str) -> None:
        kind, _, place = name.partition("-")
        rows = {"questions": self.questions, "segments": self.segments}.get(kind)
        if rows is not None and place:
            rows[int(place) - 1].errors.append(text)
            self.add_error(None, text)
        elif name not in self.fields:
            self.add_error(None, text)
        elif name not in self.errors:
            self.add_error(name, text)

    @property
    def question_specs(self) -> list[design.QuestionSpec]:
        return [design.QuestionSpec(**row.values) for row in self.questions if row.values]

    @property
    def segment_specs(self) -> list[design.SegmentSpec]:
        return [design.SegmentSpec(**row.values) for row in self.segments if row.values]

    def create(self, *, by: User) -> Campaign:
        cleaned = self.cleaned_data
        return campaigns.create(
            project=self.project,
            by=by,
            name=cleaned["name"],
            cohort=cleaned["cohort"],
            readers=list(cleaned["readers"]),
            overlap=cleaned["overlap"],
            questions=self.question_specs,
            segments=self.segment_specs,
            instructions=cleaned["instructions"],
            blinded=cleaned["blinded"],
            ai_version=cleaned["ai_version"],
            due_date=cleaned["due_date"],
        )


def possible_readers(project: Project):
    """Members whose role lets them read, readers first."""
    roles = [Role.READER, Role.MANAGER]
    return (
        User.objects.filter(is_active=True, memberships__project=project, memberships__role__in=roles)
        .order_by("last_name", "username")
        .distinct()
    )


def _kind(rows: list[Row], form: CampaignForm) -> str:
    return "questions" if rows is form.questions else "segments"


def _indexes(data: QueryDict, kind: str) -> list[int]:
    """Rows in the order of their numbers, of which some may be missing."""
    pattern = re.compile(rf"{kind}-(\d{{1,4}})-(?:text|name)")
    return sorted({int(found[1]) for key in data if (found := pattern.fullmatch(key))})


def _question(data: QueryDict, i: int) -> dict[str, Any]:
    kind = data.get(f"questions-{i}-kind", Question.Kind.YES_NO)
    takes_choices = kind in (Question.Kind.CHOICE, Question.Kind.SCALE)
    lines = data.get(f"questions-{i}-choices", "").splitlines() if takes_choices else []
    return {
        "text": data.get(f"questions-{i}-text", "").strip(),
        "kind": kind,
        "choices": [line.strip() for line in lines if line.strip()],
        "required": f"questions-{i}-required" in data,
    }


def _segment(data: QueryDict, i: int) -> dict[str, Any]:
    number = data.get(f"segments-{i}-number", "")
    return {
        "number": int(number) if number.isdigit() else 0,
        "name": data.get(f"segments-{i}-name", "").strip(),
        "color": data.get(f"segments-{i}-color", ""),
        "required": f"segments-{i}-required" in data,
    }


class ConsensusForm(forms.Form):
    name = forms.CharField(max_length=80, label="Name of the reference standard")
    method = forms.ChoiceField(
        choices=[("majority", "Majority, ties are background"), ("STAPLE", "STAPLE")],
        label="Segments",
        initial="majority",
    )
    minimum_reads = forms.IntegerField(min_value=1, max_value=50, label="Reads a case needs")
