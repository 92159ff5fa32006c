"""The job behind the demonstration. Every step leaves what is there: run again, it goes on where it stopped."""

from __future__ import annotations

from typing import Any

from inference.errors import InferenceError
from inference.jobs.errors import JobError
from inference.jobs.run import Run
from inference.jobs.task import job_task
from portal.annotation.errors import AnnotationError
from portal.demo import archive, model, reading
from portal.demo.services import Size
from studies.cohorts.errors import CohortError
from studies.cohorts.models import Split
from studies.dicom.errors import ImageError

# Where each step begins on the progress bar.
SAMPLES, PHANTOMS, TRAIN, PREDICT, EVALUATE, READ, AGREE, COMPARE = 0, 0.02, 0.2, 0.7, 0.8, 0.86, 0.96, 0.98


@job_task(queue="io", max_attempts=3)
def load_demo(run: Run) -> dict[str, Any]:
    """Samples, phantoms, a trained model, its results and evaluation, three synthetic readers and their consensus."""
    try:
        return _load(run)
    except (InferenceError, AnnotationError, CohortError, ImageError) as error:
        raise JobError(error.cause, error.next_step) from error


def _load(run: Run) -> dict[str, Any]:
    project, by = run.job.project, run.job.created_by
    if by is None:
        raise JobError("The user who asked for the demonstration is gone.", "Ask for it again.")

    size = Size(**run.parameters)

    def between(start: float, end: float):
        def stage(fraction: float, text: str) -> None:
            run.check()
            run.progress(start + (end - start) * fraction, text)

        return stage

    run.progress(SAMPLES, "sample files")
    samples = archive.load_samples(project, by, lambda text: run.log(text, "warning"))
    run.log(f"{samples} sample files of the pydicom package are in the archive")
    held = archive.load_phantoms(project, by, size, between(PHANTOMS, TRAIN))
    run.log(f"{held.cohort.cases.count()} synthetic phantoms with known truth are in the archive")

    version = model.train(project, held.cohort, held.reference, size.epochs, by, run, between(TRAIN, PREDICT))
    run.log(f"{version} is trained")
    model.predict(version, held.cohort, Split.TEST, by, run, between(PREDICT, EVALUATE))
    measured = model.evaluate(version, held.reference, by, run, between(EVALUATE, READ))
    run.log(f"{version} ran on the test phantoms and is evaluated")

    readers = reading.readers(project)
    campaign = reading.campaign(project, held.reading, reading.CAMPAIGN, readers, by)
    reads = reading.read_all(campaign, held.reference, between(READ, AGREE))
    run.log(f"{len(readers)} synthetic readers submitted {reads} reads")
    run.progress(AGREE, "consensus")
    published = reading.agree(campaign, by)
    model.predict(version, held.reading, Split.TEST, by, run, between(COMPARE, 1))
    second = model.evaluate(version, published.reference, by, run, between(COMPARE, 1))
    own = reading.campaign(project, held.own, reading.OWN_CAMPAIGN, [by], by)
    run.log("The consensus is a reference standard; cases wait for you under My reading")
    return {
        "project": project.slug,
        "cohort": held.cohort.pk,
        "reference": held.reference.pk,
        "version": version.pk,
        "evaluations": [measured.pk, second.pk],
        "campaigns": [campaign.pk, own.pk],
    }
