"""Previews of preprocessing: a job runs the steps on one series and keeps pictures of it for a day."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from django.conf import settings

from inference.errors import PreprocessingError
from inference.imaging import preprocessing, preview
from inference.imaging.preprocessing import Step
from inference.jobs.models import Job
from inference.jobs.run import Run
from inference.jobs.services import submit
from portal.accounts.models import User
from studies.dicom.volume import Volume
from studies.models import Series
from studies.volumes import load_image

MOST_SLICES = 32
KEPT = 24 * 3600  # seconds
SIDES = ("before", "after")


def start(series: Series, steps: Any, *, by: User | None) -> Job:
    """Queue a preview. steps: anything that `preprocessing.check` accepts. Raises `PreprocessingError`."""
    from inference.training.tasks import preview_preprocessing  # the task module imports this one

    checked = preprocessing.check(steps)
    if not checked:
        raise PreprocessingError("There is no step to preview.", "Write a [[preprocessing]] table for each step.")
    return submit(
        preview_preprocessing,
        project=series.study.project,
        title=f"Preview preprocessing of series {series.pk}",
        parameters={"series": series.pk, "steps": checked},
        by=by,
    )


def run(job: Run) -> dict[str, Any]:
    """The job's body: figures as its result, pictures in its folder."""
    series = Series.objects.select_related("study").get(pk=job.parameters["series"])
    steps: Sequence[Step] = job.parameters["steps"]
    for warning in preprocessing.unsuited(steps, [series.modality]):
        job.log(warning, "warning")
    job.progress(0, "loading the series")
    original = load_image(series)
    check_room(original)

    def tick(number: int) -> None:
        job.check()
        job.progress((number + 1) / (len(steps) + 2), f"step {number + 1} of {len(steps)}: {steps[number]['name']}")

    found, prepared, problem = preview.stages(original, steps, tick)
    job.progress((len(steps) + 1) / (len(steps) + 2), "drawing slices")
    slices = preview.chosen_slices(original.shape[0], MOST_SLICES)
    ranges = {"before": preview.grey_range(original.array), "after": preview.grey_range(prepared.array)}
    folder = folder_of(job.job.pk)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number, z in enumerate(slices):
        job.check()
        values = {"before": original.array[z], "after": preview.on_slice(prepared, original, z)}
        for side in SIDES:
            (folder / f"{side}-{number}.png").write_bytes(preview.picture(values[side], ranges[side]))
    rows, columns = original.shape[1] * original.spacing[1], original.shape[2] * original.spacing[2]
    return {
        "series": series.pk,
        "stages": [stage.as_dict() for stage in found],
        "slices": slices,
        "ranges": ranges,
        "ratio": round(columns / rows, 4),
        "unsuited": preprocessing.unsuited(steps, [series.modality]),
        "problem": {"cause": problem.cause, "next_step": problem.next_step} if problem else None,
    }


def check_room(volume: Volume) -> None:
    """Raise `PreprocessingError` where the steps will not fit into memory beside everything else."""
    needed, free = volume.array.size * preview.BYTES_PER_VOXEL, psutil.virtual_memory().available
    if needed > free:
        raise PreprocessingError(
            f"The steps may need {needed / 2**30:.1f} GB of memory for {volume.array.size / 1e6:.0f} million voxels; "
            f"{free / 2**30:.1f} GB are free.",
            "Preview a smaller series of the same kind, or wait until other jobs have ended.",
        )


def folder_of(job: int) -> Path:
    return Path(settings.MEDIA_ROOT) / "previews" / str(job)


def picture_of(job: Job, side: str, number: int) -> Path | None:
    """The file of a picture; None where it was not drawn or is gone."""
    path = folder_of(job.pk) / f"{side}-{number}.png"
    return path if side in SIDES and path.is_file() else None


def forget_old() -> int:
    """Delete the pictures of previews that are older than a day; returns how many previews."""
    forgotten = 0
    for folder in folder_of(0).parent.glob("*"):
        try:
            if time.time() - os.stat(folder).st_mtime > KEPT:
                shutil.rmtree(folder)
                forgotten += 1
        except OSError:  # another process was quicker
            continue
    return forgotten
