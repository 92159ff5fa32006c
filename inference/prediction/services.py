"""Running a version on studies; the only writers of predictions."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from django.db import IntegrityError, transaction

from inference.errors import InferenceError, PredictionError
from inference.jobs.failures import LESS_MEMORY, is_out_of_memory, short_device
from inference.jobs.models import Job
from inference.jobs.services import submit
from inference.prediction import inputs, results
from inference.prediction.models import Prediction
from inference.registry import services as registry
from inference.registry.models import ModelVersion
from portal.accounts.audit import trail
from portal.accounts.models import Project, User
from studies.cohorts.models import Cohort
from studies.dicom.errors import ImageError
from studies.ingest.store import open_batch
from studies.models import ImportBatch, Series, Study

if TYPE_CHECKING:  # torch takes seconds to load; pages that start a run do without
    from inference.prediction import engine

logger = logging.getLogger(__name__)

STORED, ALREADY, FAILED = "stored", "already there", "failed"


@dataclass(frozen=True)
class Target:
    """What a version is run on: a study, the series to work on where that is said, and the name under which a log may
    mention it. by_hand: input of the model → series, as somebody chose them."""

    study: Study
    image: Series | None
    name: str
    by_hand: Mapping[str, int] = field(default_factory=dict)


@dataclass
class CaseOutcome:
    name: str
    study: int
    state: str
    prediction: int | None = None
    seconds: float | None = None
    cause: str = ""
    next_step: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def start(
    version: ModelVersion,
    *,
    by: User | None,
    cohort: Cohort | None = None,
    split: str = "",
    studies: Iterable[Study] | None = None,
    images: Mapping[int, int] | None = None,
    priority: int = Job.Priority.NORMAL,
    by_hand: Mapping[int, Mapping[str, int]] | None = None,
) -> Job:
    """Queue a run over a cohort (or one side of its split), or over studies. Raises `PredictionError`.

    images: the series to work on by study (primary keys), where it shall not be the one that `inputs.choose` takes.
    by_hand: the same for each input of a model: study → name of the input → series.
    """
    from inference.prediction.tasks import predict  # the task module imports this one

    project = version.model.project
    if (cohort is None) == (studies is None):
        raise PredictionError("A run needs a cohort or studies.", "Choose one of the two.")
    parameters: dict[str, Any] = {"version": version.pk}
    if cohort is not None:
        _same_project(project, [cohort.project_id])
        cases = cohort.cases.filter(cohort_patient__split=split) if split else cohort.cases.all()
        count, parameters = cases.count(), {**parameters, "cohort": cohort.pk, "split": split}
        where = cohort.name
    else:
        chosen = list(studies or ())
        _same_project(project, [study.project_id for study in chosen])
        count, parameters = len(chosen), {**parameters, "studies": [study.pk for study in chosen]}
        if images:
            parameters["images"] = {str(study): series for study, series in images.items()}
        if by_hand:
            parameters["by_hand"] = _checked_choice(version, chosen, by_hand)
        where = "1 study" if count == 1 else f"{count} studies"
    if not count:
        raise PredictionError("There is no case to run the model on.", "Choose a cohort with cases, or studies.")
    title = f"Run {version} on {where}"
    return submit(predict, project=project, title=title, parameters=parameters, by=by, priority=priority)


def targets(version: ModelVersion, parameters: dict[str, Any]) -> list[Target]:
    """The cases that a job's parameters mean."""
    if "cohort" in parameters:
        cases = Cohort.objects.get(pk=parameters["cohort"]).cases.select_related("study", "image")
        if parameters.get("split"):
            cases = cases.filter(cohort_patient__split=parameters["split"])
        return [Target(case.study, case.image, case.name) for case in cases]
    studies = Study.objects.filter(pk__in=parameters["studies"]).order_by("pk")
    images = Series.objects.in_bulk(parameters.get("images", {}).values())
    said = {int(study): images.get(series) for study, series in parameters.get("images", {}).items()}
    by_hand = {int(study): choice for study, choice in parameters.get("by_hand", {}).items()}
    return [Target(study, said.get(study.pk), f"study {study.pk}", by_hand.get(study.pk, {})) for study in studies]


def _checked_choice(
    version: ModelVersion, studies: Sequence[Study], by_hand: Mapping[int, Mapping[str, int]]
) -> dict[str, dict[str, int]]:
    """Raises `PredictionError` where a choice names an input, a study or a series that is not there."""
    known = set(inputs.names(version.manifest))
    series = {study.pk: {one.pk for one in inputs.images_of(study)} for study in studies if study.pk in by_hand}
    for study, choice in by_hand.items():
        unknown = sorted(set(choice) - known)
        if unknown:
            raise PredictionError(
                f"The model has no input {unknown[0]!r}.", f"Its inputs: {', '.join(inputs.names(version.manifest))}."
            )
        if set(choice.values()) - series.get(study, set()):
            raise PredictionError(
                f"A series that was chosen is not among the images of study {study}.", "Choose series of the study."
            )
    return {str(study): dict(choice) for study, choice in by_hand.items() if choice}


def warm_model(version: ModelVersion) -> engine.LoadedModel:
    from inference.prediction import engine

    return engine.warm.get(version.digest, lambda: registry.open_bundle(version))


def predict_all(
    version: ModelVersion,
    cases: Sequence[Target],
    *,
    job: Job | None,
    by: User | None,
    tick: Callable[[], None],
    before: Callable[[int, Target], None],
    after: Callable[[CaseOutcome], None],
    transact: Callable[[], AbstractContextManager[Any]] = transaction.atomic,
) -> list[CaseOutcome]:
    """Run a version on each case. A bad case is an outcome with words and never stops the others.

    tick is called before every window and may raise to stop; transact gives the transaction in which a result is
    written. Raises `BundleError` where the model itself cannot be loaded.
    """
    batch: ImportBatch | None = None
    outcomes = []
    for number, case in enumerate(cases):
        before(number, case)
        try:
            chosen = inputs.choose(version.manifest, case.study, image=case.image, by_hand=case.by_hand)
        except PredictionError as error:
            outcome = _failed(case, error)
        else:
            if (found := already(version, chosen)) is not None:
                outcome = CaseOutcome(case.name, case.study.pk, ALREADY, found.pk)
            else:
                model = warm_model(version)
                if batch is None:
                    batch = open_batch(version.model.project, ImportBatch.Source.MODEL, by)
                outcome = _predict_one(
                    version, model, case, chosen, job=job, batch=batch, by=by, tick=tick, transact=transact
                )
        outcomes.append(outcome)
        after(outcome)
    return outcomes


def already(version: ModelVersion, chosen: Sequence[Series]) -> Prediction | None:
    """What this version said about these series before."""
    return Prediction.objects.filter(version=version, image=chosen[0]).first()


def _predict_one(
    version: ModelVersion,
    model: engine.LoadedModel,
    case: Target,
    chosen: Sequence[Series],
    *,
    job: Job | None,
    batch: ImportBatch,
    by: User | None,
    tick: Callable[[], None],
    transact: Callable[[], AbstractContextManager[Any]],
) -> CaseOutcome:
    from inference.prediction import engine

    started = time.monotonic()
    try:
        for place, series in enumerate(chosen):
            engine.check_modality(model.bundle.manifest, series.modality, number=place)
        loaded = inputs.load(model.bundle.manifest, chosen)
        output = model.predict(loaded.volume, others=loaded.others, tick=tick)
        objects = results.write(version, chosen[0], output, model.bundle.manifest, headers=loaded.headers)
    except (InferenceError, ImageError) as error:
        return _failed(case, error)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        short = PredictionError(f"The {short_device(error)} ran out of memory on this image.", LESS_MEMORY)
        return _failed(case, short)
    seconds = time.monotonic() - started
    try:
        with transact():
            prediction = results.store(
                version,
                chosen[0],
                output,
                objects,
                loaded.volume,
                seconds=seconds,
                job=job,
                batch=batch,
                by=by,
                inputs=loaded.how,
            )
    except PredictionError as error:
        return _failed(case, error)
    except IntegrityError:  # another job was quicker; what this one stored is rolled back
        found = already(version, chosen)
        if found is None:
            raise
        return CaseOutcome(case.name, case.study.pk, ALREADY, found.pk)
    return CaseOutcome(case.name, case.study.pk, STORED, prediction.pk, round(seconds, 3))


def _failed(case: Target, error: InferenceError | ImageError) -> CaseOutcome:
    """The outcome of a case that could not be run. Whatever broke while its study went is told as just that."""
    cause, next_step = error.cause, error.next_step
    if not Study.objects.filter(pk=case.study.pk).exists():
        cause, next_step = results.DELETED
    return CaseOutcome(case.name, case.study.pk, FAILED, cause=cause, next_step=next_step)


def forget(study: Study) -> int:
    """Delete what versions said about a study that leaves its project or the archive; returns how many results."""
    found = Prediction.objects.filter(study=study)
    for prediction in found:
        trail.record("prediction.delete", prediction, project=study.project_id, patient=study.patient_id)
    count = found.count()
    found.delete()
    return count


def counts(outcomes: Iterable[CaseOutcome]) -> dict[str, int]:
    states = [outcome.state for outcome in outcomes]
    return {"stored": states.count(STORED), "already_there": states.count(ALREADY), "failed": states.count(FAILED)}


def _same_project(project: Project, found: Iterable[int]) -> None:
    if any(number != project.pk for number in found):
        raise PredictionError(
            f"The model belongs to the project {project.slug}, the images to another one.",
            "Choose images of the model's project.",
        )
