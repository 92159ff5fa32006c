"""The form of a training run. Its fields are made from `inference.training.config`, which also checks the values."""

from __future__ import annotations

import json
import tomllib
from typing import Any

from django import forms
from django.forms.boundfield import BoundField

from inference.errors import ConfigError
from inference.jobs.models import Job
from inference.training import config as schema
from inference.training.config import Config, Key
from portal.accounts.models import Project, User
from portal.accounts.permissions import Action, projects_where
from studies.cohorts.models import Cohort, ReferenceStandard

CHOSEN_ELSEWHERE = {"data.project", "data.cohort", "data.reference", "task", "network.dimensions"}
# Classifiers are trained by command and REST; the form is for segmentation.
CHOSEN_ELSEWHERE |= {
    *(f"training.{key}" for key in ("strategy", "weights", "backbone_rate", "regularisation", "class_weights")),
    *(f"cross_validation.{key}" for key in schema.SECTIONS["cross_validation"]),
}
MAIN = ("name", "description", "training.max_minutes", "training.epochs")
LABELS = {"name": "Model", "training.max_minutes": "Longest training, minutes", "training.epochs": "Epochs at most"}
WORDS = {"hd95": "HD95", "l2": "L2"}


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


class TrainingForm(forms.Form):
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
    )
    priority = PriorityField()

    def __init__(self, *arguments: Any, user: User, project: Project | None, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        frozen = cohorts_for(user, project).filter(frozen_at__isnull=False)
        self.fields["cohort"].queryset = frozen  # type: ignore[attr-defined]
        self.fields["reference"].queryset = references_for(frozen)  # type: ignore[attr-defined]
        choose_only(self, "cohort")
        for place, key in _keys():
            if place not in CHOSEN_ELSEWHERE:
                self.fields[place] = _field(place, key)
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

    def main_fields(self) -> list[BoundField]:
        return [self[place] for place in MAIN]

    def sections(self) -> list[tuple[str, list[BoundField]]]:
        """Everything else, by section of the configuration."""
        found: dict[str, list[BoundField]] = {}
        for place in self.fields:
            if place in MAIN or place in ("cohort", "reference", "priority"):
                continue
            section = place.split(".")[0]
            found.setdefault(section, []).append(self[place])
        return [(section.capitalize(), fields) for section, fields in found.items()]

    @property
    def advanced_errors(self) -> bool:
        return any(name not in (*MAIN, "cohort", "reference", "priority", "__all__") for name in self.errors)

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
        raw: dict[str, Any] = {"task": "segmentation"}
        for place, key in _keys():
            text = str(cleaned.get(place) or "").strip()
            if place in CHOSEN_ELSEWHERE or (not text and key.default is not schema.REQUIRED):
                continue
            if not text:
                continue
            section, _, name = place.rpartition(".")
            target = raw.setdefault(section, {}) if section else raw
            target[name] = _parse(text, key.kind)
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
    shown: dict[str, Any] = {}
    for place, _ in _keys():
        section, _, name = place.rpartition(".")
        value = config[section][name] if section else config[name]
        shown[place] = " ".join(map(str, value)) if isinstance(value, list) else value
        if isinstance(value, float):
            shown[place] = f"{value:g}"
        if value is None:
            shown[place] = ""
    parameters = config["network"]["parameters"]
    shown["network.parameters"] = "\n".join(f"{key} = {_toml(value)}" for key, value in parameters.items())
    shown["preprocessing"] = "\n\n".join(
        "[[preprocessing]]\n" + "\n".join(f"{key} = {_toml(value)}" for key, value in step.items())
        for step in config["preprocessing"]
    )
    return shown


def _keys() -> list[tuple[str, Key]]:
    keys = list(schema.TOP.items())
    for section, rules in schema.SECTIONS.items():
        keys += [(f"{section}.{name}", key) for name, key in rules.items()]
    return keys


def _field(place: str, key: Key) -> forms.Field:
    name = place.rpartition(".")[2]
    label = LABELS.get(place) or WORDS.get(name) or name.replace("_", " ").capitalize()
    settings: dict[str, Any] = {
        "label": label,
        "help_text": _hint(key),
        "required": key.default is schema.REQUIRED,
        "error_messages": {"required": f"Missing; it must be {schema._wanted(key)}."},
    }
    if key.kind == "choice":
        return forms.ChoiceField(choices=[(choice, choice.replace("_", " ")) for choice in key.choices], **settings)
    if place == "network.name":
        from inference.networks.table import NETWORKS, SEGMENTATION, named

        choices = [(name, NETWORKS[name].title) for name in named(SEGMENTATION)]
        return forms.ChoiceField(choices=choices, **settings | {"label": "Network"})
    if place == "description":
        return forms.CharField(widget=forms.Textarea(attrs={"rows": 2}), **settings | {"label": "Intended use"})
    numeric = key.kind in ("number", "whole")
    attrs = {"inputmode": "decimal" if key.kind == "number" else "numeric"} if numeric else {}
    return forms.CharField(widget=forms.TextInput(attrs=attrs | {"autocomplete": "off"}), **settings)


def _hint(key: Key) -> str:
    parts = [key.summary] if key.summary else []
    if key.kind in ("number", "whole") and key.lower is not None and key.upper is not None and key.upper <= 1024:
        parts.append(f"{key.lower:g} to {key.upper:g}")
    return ". ".join(parts)


def _parse(text: str, kind: str) -> Any:
    """The value that the text stands for; what cannot be read stays text and is refused by the check, with words."""
    words = text.replace(",", " ").split()
    try:
        if kind == "number":
            return float(text)
        if kind == "whole":
            return int(text)
        if kind == "sizes":
            return [int(word) for word in words]
    except ValueError:
        return text
    if kind == "axes":
        return words
    if kind == "texts":
        return [part.strip() for part in text.split(",")] if "," in text else [text]
    return text


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)
