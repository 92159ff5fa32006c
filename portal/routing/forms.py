"""The form of a rule. What may stand in it is decided by `inference.routing`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from django import forms
from django.core.exceptions import ObjectDoesNotExist
from pydicom.uid import UID

from inference.jobs.models import Job
from inference.registry.models import Model, ModelVersion, Stage
from inference.routing.conditions import LABELS, TEXTS, WAYS
from inference.routing.models import RoutingRule
from portal.accounts.models import Project
from portal.workbench.training_form import PriorityField
from studies.dimse.models import RemoteNode
from studies.models import ImportBatch

# The image classes that are met with; any other is kept, and can be given over REST.
SOP_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.4",
    "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1",
    "1.2.840.10008.5.1.4.1.1.1.2", "1.2.840.10008.5.1.4.1.1.13.1.3", "1.2.840.10008.5.1.4.1.1.6.1",
    "1.2.840.10008.5.1.4.1.1.3.1", "1.2.840.10008.5.1.4.1.1.20", "1.2.840.10008.5.1.4.1.1.128",
    "1.2.840.10008.5.1.4.1.1.12.1", "1.2.840.10008.5.1.4.1.1.7",
)  # fmt: skip
SOURCES = [
    (source.value, source.label)
    for source in ImportBatch.Source
    if source not in (ImportBatch.Source.READING, ImportBatch.Source.MODEL)
]
PLACEHOLDERS = {
    "study_description": "thorax",
    "series_description": "lung",
    "manufacturer": "siemens",
    "manufacturer_model_name": "force",
    "station_name": "CT2",
}


def name_of_class(uid: str) -> str:
    """`CT`, `Enhanced MR`, `Digital X-Ray (for presentation)`."""
    name = UID(uid).name.replace(" - For Presentation", " (for presentation)").replace(" Storage", "")
    return name.replace(" Image", "")


class RuleForm(forms.Form):
    name = forms.CharField(max_length=80, help_text="What people know it by, for example “Lung nodules on chest CT”.")
    runs = forms.ChoiceField(label="Runs", error_messages={"required": "Choose what to run."})
    priority = PriorityField()
    node = forms.ModelChoiceField(
        RemoteNode.objects.none(),
        required=False,
        empty_label="Nowhere, they stay here",
        label="Send results to",
        help_text="Segmentations, reports and maps of the result; never the images.",
    )
    modality = forms.CharField(max_length=200, required=False, help_text="CT, or several with commas: CT, MR")
    body_part_examined = forms.CharField(
        max_length=400, required=False, label="BodyPartExamined", help_text="CHEST, or several with commas"
    )
    minimum_instances = forms.IntegerField(min_value=1, max_value=100_000, required=False, label="Images, at least")
    sop_class_uid = forms.MultipleChoiceField(required=False, label="SOPClassUID", widget=forms.CheckboxSelectMultiple)
    import_source = forms.MultipleChoiceField(
        choices=SOURCES, required=False, label="Came in by", widget=forms.CheckboxSelectMultiple
    )
    sending_ae_title = forms.CharField(
        max_length=400, required=False, label="Sending AE title", help_text="Of a node; several with commas."
    )

    def __init__(self, *arguments: Any, project: Project, rule: RoutingRule | None = None, **keywords: Any) -> None:
        self.project = project
        conditions = rule.conditions if rule is not None else {}
        if rule is not None:
            keywords["initial"] = {**_initial(rule), **keywords.get("initial", {})}
        super().__init__(*arguments, **keywords)
        for name in TEXTS:
            said = conditions.get(name, {})
            self.fields[f"{name}_how"] = forms.ChoiceField(
                choices=list(WAYS.items()), required=False, initial=said.get("how", "contains"),
                label=f"{LABELS[name]}: how",
            )  # fmt: skip
            self.fields[name] = forms.CharField(
                max_length=200, required=False, initial=said.get("text", ""), label=LABELS[name], strip=False,
                widget=forms.TextInput(attrs={"placeholder": PLACEHOLDERS[name], "spellcheck": "false"}),
            )  # fmt: skip
        classes = list(dict.fromkeys([*SOP_CLASSES, *conditions.get("sop_class_uid", [])]))
        self.fields["sop_class_uid"].choices = [(uid, name_of_class(uid)) for uid in classes]  # type: ignore[attr-defined]
        self.fields["runs"].choices = list(_runs(project, rule))  # type: ignore[attr-defined]
        self.fields["node"].queryset = RemoteNode.objects.filter(project=project).order_by("name")  # type: ignore[attr-defined]

    @property
    def texts(self) -> list[tuple[Any, Any]]:
        """(how, text) of each text condition, bound."""
        return [(self[f"{name}_how"], self[name]) for name in TEXTS]

    @property
    def narrow(self) -> bool:
        """Whether a condition is set that the page folds away."""
        return any(self[name].value() for name in ("sop_class_uid", "import_source", "sending_ae_title"))

    def values(self) -> dict[str, Any]:
        """As `rules.create` and `rules.change` take them."""
        data = self.cleaned_data
        model, version = self._runs(data.get("runs") or "")
        conditions: dict[str, Any] = {
            "modality": _words(data["modality"], r"[,;\s]+"),
            "body_part_examined": _words(data["body_part_examined"], r"[,;]+"),
            "sending_ae_title": _words(data["sending_ae_title"], r"[,;]+"),
            "sop_class_uid": data["sop_class_uid"],
            "import_source": data["import_source"],
            "minimum_instances": data["minimum_instances"] or 1,
        }
        conditions |= {name: {"how": data[f"{name}_how"] or "contains", "text": data[name]} for name in TEXTS}
        return {
            "name": data.get("name", ""), "conditions": conditions, "model": model, "version": version,
            "priority": data["priority"], "push": data["node"] is not None, "node": data["node"],
        }  # fmt: skip

    def _runs(self, text: str) -> tuple[Model | None, ModelVersion | None]:
        kind, _, key = text.partition(":")
        try:
            if kind == "production":
                return Model.objects.get(pk=int(key), project=self.project), None
            return None, ModelVersion.objects.select_related("model").get(pk=int(key), model__project=self.project)
        except (ObjectDoesNotExist, ValueError):
            return None, None


def _words(text: str, between: str) -> list[str]:
    return [word.strip() for word in re.split(between, text) if word.strip()]


def _runs(project: Project, rule: RoutingRule | None) -> Iterator[tuple[str, Any]]:
    yield "", "Choose a model"
    models = Model.objects.filter(project=project).prefetch_related("versions").order_by("name")
    produced, single = [], []
    for model in models:
        versions = list(model.versions.all())
        now = next((version for version in versions if version.stage == Stage.PRODUCTION), None)
        said = f"at present version {now.number}" if now else "none at present"
        produced.append((f"production:{model.pk}", f"{model.name}: what is in production ({said})"))
        for version in versions:
            version.model = model
            if version.stage != Stage.RETIRED or (rule is not None and rule.version_id == version.pk):
                single.append((f"version:{version.pk}", f"{version} ({version.get_stage_display().lower()})"))
    if produced:
        yield "Whatever is in production", produced
    if single:
        yield "One version, for good", single


def _initial(rule: RoutingRule) -> dict[str, Any]:
    said = rule.conditions
    return {
        "name": rule.name,
        "runs": f"version:{rule.version_id}" if rule.version_id else f"production:{rule.model_id}",
        "priority": Job.Priority(rule.priority).name.lower(),
        "node": rule.node_id,
        "modality": ", ".join(said.get("modality", [])),
        "body_part_examined": ", ".join(said.get("body_part_examined", [])),
        "sending_ae_title": ", ".join(said.get("sending_ae_title", [])),
        "sop_class_uid": said.get("sop_class_uid", []),
        "import_source": said.get("import_source", []),
        "minimum_instances": said.get("minimum_instances"),
    }
