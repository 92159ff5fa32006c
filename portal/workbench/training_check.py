"""What the training form would start, said while somebody fills it in."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from inference.errors import InferenceError
from inference.imaging import preprocessing
from inference.training import crossvalidation, earlier, estimates, services, toml
from inference.training.config import Config
from portal.accounts.models import User
from portal.workbench.training_form import TrainingForm
from studies.cohorts.models import Cohort, ReferenceStandard, Split


@dataclass
class Check:
    """problems: field, its label and what is wrong. refused: why a run cannot start although the form is right; rounds:
    the same of a cross-validation, None where there is none to start."""

    problems: list[dict[str, str]] = field(default_factory=list)
    refused: str = ""
    rounds: str | None = None
    facts: list[tuple[str, str]] = field(default_factory=list)
    earlier: earlier.Earlier | None = None
    estimate: estimates.Estimate | None = None  # of memory, before the first run
    seconds: float | None = None
    minutes: float = 0
    toml: str = ""
    unsuited: list[str] = field(default_factory=list)  # preprocessing that is not meant for the images

    @property
    def only_cohort_missing(self) -> bool:
        """As when the form has just been opened: nothing was done wrong yet."""
        return [problem["name"] for problem in self.problems] == ["cohort"]

    @property
    def ready(self) -> bool:
        return not self.problems and not self.refused

    @property
    def ready_rounds(self) -> bool:
        return not self.problems and self.rounds == ""


def of(form: TrainingForm, *, by: User | None = None) -> Check:
    """form: bound. by: who may start the job that estimates memory; without, what is known is shown."""
    form.is_valid()
    check = Check()
    for name, errors in form.errors.items():
        label = "" if name == "__all__" else str(form.fields[name].label or name.capitalize())
        place = "" if name == "__all__" else form[name].id_for_label or form[name].auto_id
        check.problems += [{"name": name, "id": str(place), "label": label, "words": str(words)} for words in errors]
    config: Config | None = form.cleaned_data.get("config")
    cohort: Cohort | None = form.cleaned_data.get("cohort")
    if config is None:
        return check
    check.toml = toml.text(config)
    check.minutes = config["training"]["max_minutes"]
    if cohort is None:
        return check
    chosen = (cohort.project, config, cohort, form.cleaned_data.get("reference"))
    reference = form.cleaned_data.get("reference")
    try:
        _, reference = services.prepared(*chosen)
    except InferenceError as error:
        check.refused = f"{error.cause} {error.next_step}".strip()
    if form.goes_in_rounds:
        try:
            _, reference = crossvalidation.prepared(*chosen)
            check.rounds = ""
        except InferenceError as error:
            check.rounds = f"{error.cause} {error.next_step}".strip()
    if reference is not None:
        check.facts = _facts(reference, config)
        modalities = set(reference.case_labels.order_by().values_list("case__image__modality", flat=True))
        check.unsuited = preprocessing.unsuited(config["preprocessing"], modalities - {None, ""})
    check.earlier = earlier.like(cohort.project, config)
    if check.earlier and config["training"]["strategy"] != "frozen":
        training = reference.case_labels.filter(case__cohort_patient__split=Split.TRAIN).count() if reference else 0
        check.seconds = check.earlier.seconds_for(config["training"]["epochs"], training)
    if reference is not None and (check.earlier is None or check.earlier.memory_gb is None):
        check.estimate = estimates.of(cohort.project, config, reference, by=by)
    return check


def _facts(reference: ReferenceStandard, config: Config) -> list[tuple[str, str]]:
    """How many cases of which side and class take part."""
    entries = reference.case_labels.all()
    wanted = config["data"]["structures"]
    classes: Counter[str] = Counter()
    sides: Counter[str] = Counter()
    for side, values, masked in entries.values_list("case__cohort_patient__split", "values", "segmentation"):
        name = (values or {}).get("class", "")
        if config["task"] == "classification":
            if not name or (wanted and name not in wanted):
                continue
            classes[name] += 1
        elif masked is None:
            continue
        sides[side] += 1
    made = [("Reference", str(reference))]
    made.append(("Cases", ", ".join(f"{sides[side]} {side.label.lower()}" for side in Split if sides[side]) or "none"))
    if classes:
        made.append(("Classes", ", ".join(f"{name} {count}" for name, count in sorted(classes.items()))))
    elif reference.labels:
        names = [label["name"] for label in reference.labels if not wanted or label["name"] in wanted]
        made.append(("Structures", ", ".join(names)))
    return made
