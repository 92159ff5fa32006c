"""The form of a training run. Its fields are made from `inference.training.config`, which also checks the values."""

from __future__ import annotations

import tomllib
from typing import Any

from django import forms
from django.forms.boundfield import BoundField
from django.http import QueryDict

from inference.errors import ConfigError
from inference.jobs.models import Job
from inference.training import config as schema
from inference.training import toml
from inference.training.config import Config
from portal.accounts.models import Project, User
from portal.accounts.permissions import Action, projects_where
from portal.workbench import training_fields as fields
from studies.cohorts.models import Cohort, ReferenceStandard


class ReferenceSelect(forms.Select):
    """Options that know their cohort, so that the page shows only those of the chosen one."""

    def create_option(self, name, value, *arguments, **keywords):
        option = super().create_option(name, value, *arguments, **keywords)
        if instance := getattr(value, "instance", None):
            option["attrs"]["data-cohort"] = instance.cohort_id
        return option


class ReferenceField(forms.ModelChoiceField):
    widget = ReferenceSelect

    def label_from_instance(self, reference: ReferenceStandard) -> str:
        return f"{reference} of {reference.cohort.name}, {reference.get_source_display().lower()}"


class CohortField(forms.ModelChoiceField):
    def label_from_instance(self, cohort: Cohort) -> str:
        return f"{cohort.name} ({cohort.project.name}){'' if cohort.frozen else ', not frozen'}"


class PriorityField(forms.TypedChoiceField):
    """How urgent the job is; a select with “Normal” chosen. Where nothing is sent it is normal, too."""

    def __init__(self, **settings: Any) -> None:
        names = [(priority.name.lower(), priority.label) for priority in reversed(Job.Priority)]
        super().__init__(
            choices=names,
            coerce=lambda name: Job.Priority[name.upper()],
            empty_value=Job.Priority.NORMAL,
            initial="normal",
            required=False,
            help_text="Among the jobs of its queue. Projects take turns.",
            **settings,
        )


def cohorts_for(user: User, project: Project | None):
    """The cohorts on which `user` may run things, within the project of the top bar."""
    cohorts = Cohort.objects.visible_to(user).filter(project__in=projects_where(user, Action.RUN))
    if project is not None:
        cohorts = cohorts.filter(project=project)
    return cohorts.select_related("project").order_by("project__name", "name")


def references_for(cohorts):
    return ReferenceStandard.objects.filter(cohort__in=cohorts).select_related("cohort").order_by("-id")


def choose_only(form: forms.Form, *names: str) -> None:
    """Where a choice has one option only, it is chosen."""
    for name in names:
        queryset = form.fields[name].queryset  # type: ignore[attr-defined]
        first = list(queryset.values_list("pk", flat=True)[:2])
        if len(first) == 1:
            form.initial.setdefault(name, first[0])


def task_for(reference: ReferenceStandard | None, wanted: str = "") -> str:
    """The task that the form is for: the wanted one where the reference standard can teach it, else the usual one."""
    possible = fields.TASKS.get(reference.kind, ()) if reference else schema.TOP["task"].choices
    if not possible or wanted in possible:
        return wanted or schema.TOP["task"].default
    return possible[0]


class TrainingForm(forms.Form):
    """The form of one task; `task` of the data or the initial values says of which."""

    cohort = CohortField(
        queryset=Cohort.objects.none(),
        empty_label="Choose a cohort",
        help_text="Frozen cohorts only: their split by patient is fixed.",
        error_messages={"required": "Choose the cohort to train on."},
    )
    reference = ReferenceField(
        queryset=ReferenceStandard.objects.none(),
        label="Reference standard",
        empty_label="The newest of the cohort",
        required=False,
        help_text="What is held to be true for the cases. It decides what can be learned.",
    )
    task = forms.ChoiceField(label="What the model does", widget=forms.RadioSelect)
    priority = PriorityField()

    def __init__(self, *arguments: Any, user: User, project: Project | None, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.initial = dict(self.initial)
        self._whose = {"user": user, "project": project}
        frozen = cohorts_for(user, project).filter(frozen_at__isnull=False)
        self.fields["cohort"].queryset = frozen  # type: ignore[attr-defined]
        self.fields["reference"].queryset = references_for(frozen)  # type: ignore[attr-defined]
        choose_only(self, "cohort")
        tasks = schema.TOP["task"].choices
        self.fields["task"].choices = [(task, fields.OPTIONS["task"].get(task, (task, ""))[0]) for task in tasks]  # type: ignore[attr-defined]
        asked = str((self.data if self.is_bound else self.initial).get("task") or "")
        self.task_name = asked if asked in tasks else schema.TOP["task"].default
        self.possible: tuple[str, ...] = tasks  # what the chosen reference standard can teach
        self.strategy = str((self.data if self.is_bound else self.initial).get("training.strategy") or "")
        self.initial.setdefault("task", self.task_name)
        for place, key in fields.shown(self.task_name, self.strategy):
            self.fields[place] = fields.made(place, key, self.task_name)
        self.fields["network.parameters"] = forms.CharField(
            widget=forms.Textarea(attrs={"rows": 5, "class": "mono", "spellcheck": "false"}),
            label="Parameters of the network",
            required=False,
            help_text="As in TOML, one key a line. Left out keys get their defaults.",
        )
        self.fields["preprocessing"] = forms.CharField(
            widget=forms.Textarea(attrs={"rows": 10, "class": "mono", "spellcheck": "false"}),
            label="Preprocessing steps",
            required=False,
            help_text="As in TOML, one [[preprocessing]] table for each step, in order.",
        )

    def filled(self) -> TrainingForm:
        """This form as it would be sent without a change."""
        if self.is_bound:
            return TrainingForm(self.data, **self._whose)
        sent = QueryDict(mutable=True)
        for name, value in self.initial.items():
            sent.setlist(name, list(value) if isinstance(value, list) else ["" if value is None else str(value)])
        return TrainingForm(sent, **self._whose)

    @property
    def classifies(self) -> bool:
        return self.task_name == "classification"

    @property
    def goes_in_rounds(self) -> bool:
        """Whether a cross-validation can be started with it."""
        return self.task_name in ("classification", "segmentation")

    def first(self) -> list[BoundField]:
        return [self[place] for place in fields.FIRST]

    def groups(self) -> list[dict[str, Any]]:
        """What the page shows: title, words, whether open, and the fields by how they are drawn."""
        made: list[dict[str, Any]] = []
        for group, places in fields.grouped(self.task_name, self.strategy):
            bound = [self[place] for place in places]
            if not bound:
                continue
            made.append(
                {
                    "title": group.title,
                    "words": group.words,
                    "always": group.open,
                    "open": group.open or any(field.errors for field in bound),
                    "options": [self._options(field) for field in bound if field.name == "training.strategy"],
                    "wide": [f for f in bound if f.name == "network.name"],
                    "short": [f for f in bound if _is_short(f) and f.name != "network.name"],
                    "long": [f for f in bound if isinstance(f.field.widget, forms.Textarea)],
                }
            )
        return made

    def tasks(self) -> dict[str, Any]:
        shown = self._options(self["task"])
        return shown | {"options": [option for option in shown["options"] if option["value"] in self.possible]}

    def rounds(self) -> dict[str, Any]:
        """The fields of a cross-validation."""
        return {
            "schemes": self._options(self["cross_validation.schemes"]),
            "source": self["cross_validation.source"],
            "baselines": self._options(self["cross_validation.baselines"]) if self.classifies else None,
        }

    def _options(self, bound: BoundField) -> dict[str, Any]:
        names = [str(value) for value, _ in bound.field.choices]  # type: ignore[attr-defined]
        return {"field": bound, "options": fields.options(bound.name, names, bound.value())}

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        cohort, reference = cleaned.get("cohort"), cleaned.get("reference")
        if cohort and reference and reference.cohort_id != cohort.pk:
            self.add_error("reference", f"This reference standard belongs to {reference.cohort.name}.")
        raw = self._raw(cleaned)
        if not self.errors.keys() - {"cohort", "reference", "priority"}:
            try:
                cleaned["config"] = schema.check(raw)
            except ConfigError as error:
                for problem in error.problems:
                    self._place(problem)
        return cleaned

    def _raw(self, cleaned: dict[str, Any]) -> dict[str, Any]:
        raw: dict[str, Any] = {"task": self.task_name}
        for place, key in fields.shown(self.task_name, self.strategy):
            value = cleaned.get(place)
            section, _, name = place.rpartition(".")
            if place in fields.MULTIPLE:
                raw.setdefault(section, {})[name] = list(value or [])
                continue
            text = str(value or "").strip()
            if not text:
                continue
            target = raw.setdefault(section, {}) if section else raw
            target[name] = fields.parsed(text, key.kind)
        for place in ("network.parameters", "preprocessing"):
            try:
                parsed = tomllib.loads(cleaned.get(place) or "")
            except tomllib.TOMLDecodeError as error:
                self.add_error(place, f"This is not TOML: {error}.")
                continue
            if place == "preprocessing":
                if "preprocessing" in parsed:
                    raw["preprocessing"] = parsed["preprocessing"]
                if unknown := sorted(set(parsed) - {"preprocessing"}):
                    self.add_error(place, f"Only [[preprocessing]] tables go here, not {', '.join(unknown)}.")
            else:
                raw.setdefault("network", {}).update(parsed)
        return raw

    def _place(self, problem: str) -> None:
        """Put a problem of the configuration under the field that it names."""
        place, _, words = problem.partition(": ")
        if place == "network":
            self.add_error("network.parameters", words)
        elif place in self.fields:
            self.add_error(place, words[:1].upper() + words[1:])
        elif problem.startswith("preprocessing"):
            self.add_error("preprocessing", problem)
        elif (named := problem.split(" is ")[0]) in self.fields:
            self.add_error(named, problem)
        else:
            self.add_error(None, problem)


def initial_of(config: Config) -> dict[str, Any]:
    """What the fields show for a checked configuration."""
    shown: dict[str, Any] = {"task": config["task"]}
    for place, key in fields.shown(config["task"], config["training"]["strategy"]):
        section, _, name = place.rpartition(".")
        value = config[section][name] if section else config[name]
        shown[place] = list(value) if place in fields.MULTIPLE else fields.written(value, key)
    shown["network.parameters"] = toml.parameters(config["network"])
    shown["preprocessing"] = toml.steps(config["preprocessing"])
    return shown


def _is_short(bound: BoundField) -> bool:
    return isinstance(bound.field.widget, forms.TextInput) or type(bound.field.widget) is forms.Select
