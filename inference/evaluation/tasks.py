"""The evaluation job."""

from __future__ import annotations

from typing import Any

from inference.errors import EvaluationError
from inference.evaluation import services
from inference.evaluation.models import Evaluation
from inference.jobs.run import Run
from inference.jobs.task import job_task
from inference.prediction import services as prediction
from studies.dicom.errors import ImageError

PREDICTION_SHARE = 0.7  # of the progress bar, where predictions are missing


@job_task(queue="infer", max_attempts=3)
def evaluate(run: Run) -> dict[str, Any]:
    """Run the model on the cases that it has not seen yet, then compare each with the reference standard."""
    evaluation = Evaluation.objects.select_related("version__model__project", "reference__cohort").get(
        pk=run.parameters["evaluation"]
    )
    if evaluation.finished_at:
        return services.report(evaluation)
    version, reference = evaluation.version, evaluation.reference
    structures = services.structures_of(version, reference)
    absent = [label["name"] for label in version.manifest["labels"] if label["name"] not in structures]
    if absent:
        run.log(f"Not in the reference standard, so not evaluated: {', '.join(absent)}", "warning")
    entries = services.labelled_cases(reference, evaluation.split, structures)
    failed = _predict_missing(run, evaluation, entries)
    predictions = services.predictions_of(version, entries)
    ready = [entry for entry in entries if entry.case_id in predictions]
    measured = []
    for number, entry in enumerate(ready):
        run.check()
        share = PREDICTION_SHARE + (1 - PREDICTION_SHARE) * number / len(ready)
        run.progress(share, f"measuring case {number + 1} of {len(ready)}")
        try:
            figures = services.measure(version, entry, predictions[entry.case_id], structures)
        except ImageError as error:
            failed.append({"case": entry.case.name, "cause": error.cause, "next_step": error.next_step})
            run.log(f"{entry.case.name}: {error.cause}", "warning")
            continue
        measured.append((entry, figures))
    if not measured:
        cause = failed[0]["cause"] if failed else "There is nothing to compare."
        raise EvaluationError(
            f"None of the {len(entries)} cases could be evaluated. {cause}", failed[0]["next_step"] if failed else ""
        )
    with run.owned():
        services.finish(evaluation, measured, failed, structures)
        result = services.report(evaluation)
        run.finish({key: value for key, value in result.items() if key not in ("cases", "summary")})
    for name, figures in evaluation.summary.items():
        metric = services.headline_of(evaluation)
        services.logger.info("evaluation %s: %s %s %s", evaluation.pk, name, metric, figures[metric]["estimate"])
    return result


def _predict_missing(run: Run, evaluation: Evaluation, entries: list[Any]) -> list[dict[str, Any]]:
    """Run the model where it has no prediction yet; returns the cases that it could not be run on."""
    version = evaluation.version
    done = services.predictions_of(version, entries)
    missing = [
        prediction.Target(entry.case.study, entry.case.image, entry.case.name)
        for entry in entries
        if entry.case_id not in done
    ]
    if not missing:
        run.log(f"All {len(entries)} cases have predictions of this version")
        return []
    run.log(f"{len(missing)} of {len(entries)} cases have no prediction yet: running the model on them first")

    def before(number: int, case: prediction.Target) -> None:
        run.check()
        run.progress(PREDICTION_SHARE * number / len(missing), f"running on case {number + 1} of {len(missing)}")

    def after(outcome: prediction.CaseOutcome) -> None:
        if outcome.state == prediction.FAILED:
            run.log(f"{outcome.name}: {outcome.cause} {outcome.next_step}".strip(), "warning")

    outcomes = prediction.predict_all(
        version,
        missing,
        job=run.job,
        by=run.job.created_by,
        tick=run.check,
        before=before,
        after=after,
        transact=run.owned,
    )
    return [
        {"case": outcome.name, "cause": outcome.cause, "next_step": outcome.next_step}
        for outcome in outcomes
        if outcome.state == prediction.FAILED
    ]
