"""Exports from the order to the file: the only writers of their rows."""

from __future__ import annotations

import hashlib
import io
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from django.db import transaction
from django.utils import timezone

from portal.accounts.audit import trail
from portal.accounts.models import Project, User
from studies.cohorts.models import Cohort
from studies.deid.errors import DeidError
from studies.deid.models import Export, PixelReview
from studies.deid.profile import Profile
from studies.deid.writing import LeakFound, Order, Report, write
from studies.ingest.staging import media
from studies.models import Study

KEPT_HITS = 200


@transaction.atomic
def order(
    *, project: Project, profile: Profile, by: User | None, cohort: Cohort | None = None, studies: Iterable[Study] = (),
    nifti: bool = False, results: bool = False,
) -> Export:  # fmt: skip
    """Write down what is to be exported. Raises `DeidError` (`empty`, `other_project`)."""
    wanted = list(studies) if cohort is None else [case.study for case in cohort.cases.select_related("study")]
    if not wanted:
        raise DeidError("empty", "There is no study to export.", "Choose a cohort with cases, or studies.")
    if any(study.project_id != project.pk for study in wanted):
        raise DeidError("other_project", "A study belongs to another project.", "Export each project by itself.")
    export = Export.objects.create(
        project=project,
        cohort=cohort,
        profile=str(profile),
        remove=profile.removed_keywords(),
        keep_private=sorted(str(attribute) for attribute in profile.keep_private),
        nifti=nifti,
        results=results,
        created_by=by,
    )
    export.studies.set({study.pk for study in wanted})
    trail.record("export.order", export, user=by, studies=len(wanted), options=export.profile.count(","))
    return export


def order_of(export: Export) -> Order:
    """What an export is to write."""
    return Order(
        project=export.project,
        studies=list(export.studies.select_related("patient", "project").order_by("pk")),
        profile=Profile.parse(export.profile, export.remove, export.keep_private),
        nifti=export.nifti,
        results=export.results,
        by=export.created_by,
    )


def queued(export: Export) -> None:
    """The export waits for a worker, for the first time or again."""
    export.state, export.failure, export.report = Export.State.QUEUED, "", {}
    export.save(update_fields=["state", "failure", "report"])


def make(export: Export, report: Report | None = None) -> Export:
    """Write the zip archive of an export. Raises `DeidError`; the export then says why, and no file is left."""
    folder = media("exports", f"{export.pk}.making")
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was killed
    folder.mkdir(parents=True, mode=0o700)
    path = f"exports/{export.pk}.zip"
    try:
        summary = write(order_of(export), folder, report)
        _zip(folder / "deidentified", folder / "export.zip")
        size, sha256 = _digest(folder / "export.zip")
        (folder / "export.zip").replace(media(path))
    except DeidError as error:
        blocked = error.code == "sign_off"
        hits = error.hits[:KEPT_HITS] if isinstance(error, LeakFound) else []
        _ended(export, Export.State.BLOCKED if blocked else Export.State.FAILED, str(error), {"hits": hits})
        raise
    except BaseException:
        _ended(export, Export.State.FAILED, "The export was stopped before it was complete. Nothing was written.", {})
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    export.file, export.size, export.sha256 = path, size, sha256
    try:
        _finished(export, summary)
    except BaseException:
        media(path).unlink()  # what cannot be told of does not exist
        raise
    return export


@transaction.atomic
def discard(export: Export, *, by: User) -> None:
    """Delete the file of an export; what was exported stays known. Raises `DeidError` (`not_ready`)."""
    if export.state != Export.State.DONE:
        raise DeidError("not_ready", "The export has no file.", "There is nothing to delete.")
    held = media(export.file)
    export.file, export.state = "", Export.State.DISCARDED
    export.save(update_fields=["file", "state"])
    trail.record("export.discard", export, user=by)
    transaction.on_commit(lambda: held.unlink(missing_ok=True))


def reviews_of(export: Export):
    """What is known about text in the pixels of an export's series."""
    return PixelReview.objects.filter(series__study__in=export.studies.all(), suspected=True)


def read_zip(export: Export) -> io.BufferedReader:
    """The archive of a finished export. Raises `DeidError` (`not_ready`)."""
    if export.state != Export.State.DONE or not media(export.file).is_file():
        raise DeidError("not_ready", "The export has no file.", "Start it again.")
    return media(export.file).open("rb")


@transaction.atomic
def _finished(export: Export, summary: dict[str, Any]) -> None:
    _ended(export, Export.State.DONE, "", summary)
    trail.record("export.write", export, user=export.created_by, bytes=export.size)
    for study in export.studies.order_by("pk"):
        trail.record("study.deidentify", study, user=export.created_by, export=export.pk)


def _ended(export: Export, state: Export.State, failure: str, report: dict) -> None:
    export.state, export.failure, export.report, export.finished_at = state, failure, report, timezone.now()
    export.save()


def _zip(folder: Path, target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                # A fixed date: when a file was made says nothing to the receiver.
                entry = zipfile.ZipInfo(str(path.relative_to(folder.parent)), (1980, 1, 1, 0, 0, 0))
                entry.compress_type = zipfile.ZIP_DEFLATED
                with path.open("rb") as source, archive.open(entry, "w", force_zip64=True) as file:
                    shutil.copyfileobj(source, file)


def _digest(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()
