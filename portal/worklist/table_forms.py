"""Forms of the pages on which tables come in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from django import forms
from django.http import QueryDict

from portal.accounts.models import Project
from studies.cohorts.clinical import TableImport
from studies.cohorts.identification import KEYS
from studies.cohorts.models import Cohort, ReferenceStandard
from studies.cohorts.tables import CHECKS, KINDS, LABEL, Choices, Column
from studies.tabular.reading import DELIMITERS, ENCODINGS, MAX_BYTES
from studies.tabular.values import DATE_ORDERS, DECIMAL_MARKS

UNKNOWN = (
    ("refuse", "are an error"),
    ("skip", "are left out"),
    ("create", "become patients without images"),
)


class UploadTableForm(forms.Form):
    purpose = forms.ChoiceField(label="What does it hold?", choices=TableImport.Purpose.choices, initial="variables")
    project = forms.ModelChoiceField(Project.objects.none(), to_field_name="slug", empty_label=None)
    cohort = forms.ModelChoiceField(
        Cohort.objects.none(),
        required=False,
        empty_label="None",
        help_text="Needed for cases and for classes; for clinical variables only where rows name cases by pseudonym.",
    )
    file = forms.FileField(
        label="File",
        widget=forms.ClearableFileInput({"accept": ".csv,.tsv,.txt,.xlsx"}),
        help_text=f"CSV or XLSX, at most {MAX_BYTES >> 20} MB, one row of headings.",
    )
    encoding = forms.ChoiceField(choices=[("", "Detect"), *ENCODINGS.items()], required=False)
    delimiter = forms.ChoiceField(
        choices=[("", "Detect"), *((mark, word.capitalize()) for mark, word in DELIMITERS.items())], required=False
    )

    def __init__(self, *args: Any, projects: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.fields["project"].queryset = projects  # type: ignore[attr-defined]
        self.fields["cohort"].queryset = Cohort.objects.filter(project__in=projects).order_by("name")  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        cohort, project, purpose = (cleaned.get(name) for name in ("cohort", "project", "purpose"))
        if cohort and project and cohort.project_id != project.pk:
            self.add_error("cohort", "This cohort lies in another project.")
        if purpose and purpose != TableImport.Purpose.VARIABLES and not cohort and "cohort" not in self.errors:
            self.add_error("cohort", "Choose the cohort that the table is about.")
        file = cleaned.get("file")
        if file is not None and file.size > MAX_BYTES:
            self.add_error("file", f"The file is larger than {MAX_BYTES >> 20} MB. Divide it.")
        return cleaned

    @property
    def reading_as(self) -> dict[str, str]:
        return {"encoding": self.cleaned_data["encoding"], "delimiter": self.cleaned_data["delimiter"]}


def kinds_for(purpose: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """What a column may be, in groups for a select."""
    groups = [("", [("ignore", "Leave out")]), ("Whom the row is about", list(KEYS.items()))]
    if purpose == TableImport.Purpose.VARIABLES:
        groups += [("Values", list(KINDS.items()))]
    elif purpose == TableImport.Purpose.REFERENCE:
        groups += [("Values", list(LABEL.items()))]
    return [*groups, ("To notice mixed-up patients", list(CHECKS.items()))]


def choices_from(data: QueryDict, record: TableImport) -> tuple[Choices, dict[str, str], dict[str, str]]:
    """What the mapping page sends: choices, how to read the file, and what a reference standard is called."""
    stored = Choices.of(record.choices)
    allowed = {kind for _, entries in kinds_for(record.purpose) for kind, _ in entries}
    columns = []
    for number, column in enumerate(stored.columns):

        def said(field: str, number: int = number) -> str:
            return data.get(f"{field}-{number}", "").strip()

        kind = said("kind") or column.kind
        columns.append(
            Column(
                name=column.name,
                kind=kind if kind in allowed else "ignore",
                variable=said("variable")[:120],
                unit=said("unit")[:32],
                decimal=said("decimal") if said("decimal") in DECIMAL_MARKS else "",
                dates=said("dates") if said("dates") in DATE_ORDERS else "",
                constant=bool(said("constant")),
            )
        )
    unknown = data.get("unknown", "refuse")
    choices = replace(
        stored,
        columns=columns,
        fill_down=bool(data.get("fill_down")),
        unknown=unknown if unknown in dict(UNKNOWN) else "refuse",
        replace=bool(data.get("replace")),
        all_studies=bool(data.get("all_studies")),
        accept=tuple(code for code in data.getlist("accept") if code in ("same_person", "two_persons")),
    )
    encoding, delimiter = data.get("encoding", ""), data.get("delimiter", "")
    reading_as = {
        "encoding": encoding if encoding in ENCODINGS else "",
        "delimiter": delimiter if delimiter in DELIMITERS else "",
        "sheet": data.get("sheet", "")[:100],
    }
    source = data.get("source", "")
    sources = {ReferenceStandard.Source.IMPORT, ReferenceStandard.Source.PATHOLOGY, ReferenceStandard.Source.FOLLOW_UP}
    extra = {"reference": data.get("reference", "").strip()[:80], "source": source if source in sources else "import"}
    return choices, reading_as, extra
