"""The form that looks for settings: a cohort, and a configuration as TOML with what may vary."""

from __future__ import annotations

import tomllib
from typing import Any

from django import forms

from inference.errors import ConfigError
from inference.tuning import space
from portal.accounts.models import Project, User
from portal.workbench import presets
from portal.workbench.training_form import CohortField, ReferenceField, choose_only, cohorts_for, references_for
from studies.cohorts.models import Cohort, ReferenceStandard

HEAD = """
[search]
trials = 20        # how many settings are tried
max_minutes = 0    # no new trial after this time; 0: no limit
prune = true       # give up a trial that lies below the median of the others

[search.space]
"""
SPACE = """training.learning_rate = { low = 1e-4, high = 3e-2, log = true }
training.weight_decay = { low = 1e-4, high = 1e-1, log = true }
augmentation.rotation = { low = 0, high = 30 }
"""
OF_FROZEN = """training.regularisation = { low = 1e-4, high = 10.0, log = true }
training.class_weights = ["none", "balanced"]
"""


class TuningForm(forms.Form):
    cohort = CohortField(
        queryset=Cohort.objects.none(),
        empty_label="Choose a cohort",
        help_text="Frozen cohorts only. Test patients are never read.",
        error_messages={"required": "Choose the cohort to search on."},
    )
    reference = ReferenceField(
        queryset=ReferenceStandard.objects.none(),
        label="Reference standard",
        empty_label="The newest of the cohort",
        required=False,
    )
    toml = forms.CharField(
        widget=forms.Textarea(attrs={"rows": 26, "class": "mono", "spellcheck": "false"}),
        label="Configuration",
        help_text="As for training. What may vary, and how many trials there are, stands at the end under [search]; "
        "the learning rate is looked for without it.",
        error_messages={"required": "Write the configuration, or start from a preset."},
    )

    def __init__(
        self, *arguments: Any, user: User, project: Project | None, searches: bool = True, **keywords: Any
    ) -> None:
        super().__init__(*arguments, **keywords)
        self.searches = searches
        frozen = cohorts_for(user, project).filter(frozen_at__isnull=False)
        self.fields["cohort"].queryset = frozen  # type: ignore[attr-defined]
        self.fields["reference"].queryset = references_for(frozen)  # type: ignore[attr-defined]
        choose_only(self, "cohort")

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        cohort, reference = cleaned.get("cohort"), cleaned.get("reference")
        if cohort and reference and reference.cohort_id != cohort.pk:
            self.add_error("reference", f"This reference standard belongs to {reference.cohort.name}.")
        if not cleaned.get("toml"):
            return cleaned
        try:
            if self.searches:
                cleaned["config"], cleaned["search"] = space.parse(cleaned["toml"])
            else:
                cleaned["config"] = space.base(cleaned["toml"])
        except ConfigError as error:
            for problem in error.problems:
                self.add_error("toml", problem)
        return cleaned


def preset_names() -> list[str]:
    """Every preset, of every task."""
    return sorted(path.stem for path in presets.FOLDER.glob("*.toml"))


def varied(text: str) -> str:
    """A configuration with an example of what may vary; the example alone where it is empty."""
    frozen = tomllib.loads(text).get("training", {}).get("strategy") == "frozen"
    return f"{text.rstrip()}\n{HEAD}{OF_FROZEN if frozen else SPACE}"
