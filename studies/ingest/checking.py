"""The archive held against itself: files without rows, rows without files, counts, and what interrupted imports left.

Everything here may run beside imports. Files younger than `grace` seconds are left alone, because an import that is
under way has not written its rows yet. Reports carry numbers and random file names, never identity.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from django.contrib.postgres.aggregates import ArrayAgg
from django.db import transaction
from django.db.models import Count, F, Q
from django.db.models.functions import Coalesce

from portal.accounts.models import Project
from studies import removal
from studies.ingest import header, store
from studies.ingest.outcome import Refused
from studies.ingest.staging import media, quarantine, quarantined
from studies.models import ImportBatch, Instance, Origin, Refusal, Series, Study

CHUNK = 1 << 20
SETTLED = (Refusal.State.STORED, Refusal.State.DISCARDED)


@dataclass(slots=True)
class Finding:
    """`kind` for programs, `what` for people; `repaired` says what was done, "" where nothing was."""

    kind: str
    where: str
    what: str
    repaired: str = ""


@dataclass
class Report:
    instances: int = 0
    files: int = 0
    studies: int = 0
    under_way: int = 0  # files too young to judge
    findings: list[Finding] = field(default_factory=list)

    @property
    def left(self) -> list[Finding]:
        return [finding for finding in self.findings if not finding.repaired]


def check(*, repair: bool = False, deep: bool = False, grace: float = 3600.0) -> Report:
    """Compare rows and files. `deep` reads every stored byte; `repair` does what cannot lose anything."""
    removal.finish()  # a file whose study was deleted is not a lost one
    checker = _Checker(Report(), repair, deep, time.time() - grace)
    checker.stored_files(checker.rows())
    checker.left_overs()
    checker.quarantine_files()
    checker.counts()
    return checker.report


class _Checker:
    def __init__(self, report: Report, repair: bool, deep: bool, before: float) -> None:
        self.report = report
        self.repair = repair
        self.deep = deep
        self.before = before
        self.batches: dict[int, ImportBatch] = {}

    def note(self, kind: str, where: str, what: str) -> Finding:
        finding = Finding(kind, where, what)
        self.report.findings.append(finding)
        return finding

    def rows(self) -> set[str]:
        """Look for the file of every row; returns the places of all files that should be there."""
        places: set[str] = set()
        found = Instance.objects.order_by("pk").values_list("pk", "file", "file_size", "sha256")
        for pk, file, size, sha256 in found.iterator(chunk_size=5000):
            self.report.instances += 1
            places.add(file)
            where = f"instance {pk}: {file}"
            try:
                held = os.lstat(media(file))
            except (FileNotFoundError, NotADirectoryError):
                self.note(
                    "file_missing", where, "The file is gone. Send the same file again: it goes back to its place."
                )
                continue
            if not stat.S_ISREG(held.st_mode):
                self.note("unexpected", where, "This is not a plain file.")
            elif held.st_size != size:
                self.note("wrong_size", where, f"The file has {held.st_size:,} bytes, {size:,} were stored.")
            elif self.deep and digest(media(file)) != sha256:
                self.note(
                    "wrong_digest", where, "The bytes are not those that were stored. Restore them from a backup."
                )
        return places

    def stored_files(self, places: set[str]) -> None:
        for path in _files(media("instances")):
            self.report.files += 1
            place = path.relative_to(media()).as_posix()
            if place in places:
                continue
            if self._young(path) or Instance.objects.filter(file=place).exists():
                self.report.under_way += 1
                continue
            project = _project_of(path.relative_to(media("instances")))
            if project is None or path.is_symlink() or path.suffix != ".dcm":
                self.note("unexpected", place, "Nothing of this name belongs here.")
                continue
            finding = self.note("orphan_file", place, "No row points to this file; its import was interrupted.")
            if self.repair:
                finding.repaired = self._take_in(path, project)

    def _take_in(self, path: Path, project: Project) -> str:
        """An orphan goes through the store once more, as a copy: an import that still lives loses nothing."""
        if Instance.objects.filter(project=project, sha256=digest(path)).exists():
            path.unlink()
            return "removed: the same bytes are stored"
        try:
            derived = header.read(path).derived_object
        except Refused as refused:
            return self._set_aside(path, project, refused.code, refused.reason)
        if derived:  # whose work it is was not recorded any more, and nobody's drawing may become an image
            reason = "The import of this object was interrupted before it was recorded as whose work it is."
            return self._set_aside(path, project, "interrupted", reason)
        outcome = store.store_file(path, batch=self._batch(project), name=path.name)
        path.unlink()
        return f"{outcome.state.value} by another run through the store"

    def _set_aside(self, path: Path, project: Project, code: str, reason: str) -> str:
        size = path.stat().st_size
        self._record(project, quarantine(path, project.pk), size, code, reason)
        return "moved to the quarantine"

    def _record(self, project: Project, place: str, size: int, code: str, reason: str) -> None:
        uid, origin = "", Origin.ACQUIRED
        try:
            found = header.read(quarantined(place))
            uid, origin = found.sop_instance_uid, Origin.ANNOTATION if found.derived_object else Origin.ACQUIRED
        except Refused as refused:
            code, reason = refused.code, refused.reason
        batch = self._batch(project)
        with transaction.atomic():
            Refusal.objects.create(
                batch=batch,
                name=Path(place).name,
                code=code,
                reason=store.storable(reason),
                file=place,
                size=size,
                sop_instance_uid=uid,
                origin=origin,
            )
            ImportBatch.objects.filter(pk=batch.pk).update(refused=F("refused") + 1)

    def _batch(self, project: Project) -> ImportBatch:
        if project.pk not in self.batches:
            self.batches[project.pk] = store.open_batch(project, ImportBatch.Source.REPAIR)
        return self.batches[project.pk]

    def left_overs(self) -> None:
        """Files that never left the incoming folder: nobody was told that they are safe."""
        for path in _files(media("incoming")):
            if self._young(path):
                self.report.under_way += 1
                continue
            finding = self.note("left_over", path.relative_to(media()).as_posix(), "An interrupted import left this.")
            if self.repair:
                path.unlink(missing_ok=True)
                finding.repaired = "removed"

    def quarantine_files(self) -> None:
        held = dict(Refusal.objects.exclude(file="").order_by().values_list("file", "state"))
        for path in _files(media("quarantine")):
            place = path.relative_to(media("quarantine")).as_posix()
            if place not in held:
                self._unrecorded(path, place)
            elif held.pop(place) in SETTLED:
                finding = self.note(
                    "settled_file", f"quarantine/{place}", "Its refusal is settled; the bytes are not needed."
                )
                if self.repair:
                    path.unlink(missing_ok=True)
                    finding.repaired = "removed"
        for place, state in held.items():
            # asked again, because a file may have been retried or discarded meanwhile
            if state not in SETTLED and Refusal.objects.filter(file=place).exclude(state__in=SETTLED).exists():
                self.note("quarantine_missing", f"quarantine/{place}", "The kept bytes of a refused file are gone.")

    def _unrecorded(self, path: Path, place: str) -> None:
        if self._young(path) or Refusal.objects.filter(file=place).exists():
            self.report.under_way += 1
            return
        project = _project_of(Path(place))
        if project is None or path.is_symlink():
            self.note("unexpected", f"quarantine/{place}", "Nothing of this name belongs here.")
            return
        finding = self.note("unrecorded_refusal", f"quarantine/{place}", "A refused file without a record.")
        if self.repair:
            reason = "The import was interrupted before the reason of the refusal was recorded. Try it again."
            self._record(project, place, path.stat().st_size, "interrupted", reason)
            finding.repaired = "listed in the quarantine"

    def counts(self) -> None:
        """Numbers and lists that rows repeat. One statement sees whole transactions only, so imports do not disturb."""
        self.report.studies = Study.objects.count()
        wrong: dict[int, str] = {}
        series = Series.objects.annotate(n=Count("instances")).exclude(number_of_instances=F("n"))
        for pk, study_id, held, n in series.order_by("pk").values_list("pk", "study_id", "number_of_instances", "n"):
            wrong.setdefault(study_id, f"Series {pk} says {held} objects and has {n}.")
        for counted, n_series, n_instances, modalities, parts in _counted():
            if (counted.number_of_series, counted.number_of_instances) != (n_series, n_instances):
                wrong.setdefault(
                    counted.pk,
                    f"It says {counted.number_of_series} series and {counted.number_of_instances} objects, and has "
                    f"{n_series} and {n_instances}.",
                )
            elif set(counted.modalities_in_study) != modalities or set(counted.body_parts_examined) != parts:
                wrong.setdefault(counted.pk, "Its list of modalities or body parts is not that of its series.")
            if n_instances == 0:
                self.note("empty_study", f"study {counted.pk}", "It has no object. Delete it if nothing refers to it.")
        for pk, what in sorted(wrong.items()):
            finding = self.note("wrong_counts", f"study {pk}", what)
            if self.repair:
                recount(pk)
                finding.repaired = "counted again"

    def _young(self, path: Path) -> bool:
        """Whether a file was written or moved too lately to be called abandoned, or has just gone."""
        try:
            return os.lstat(path).st_ctime > self.before
        except FileNotFoundError:
            return True


def _counted() -> Iterator[tuple[Study, int, int, set[str], set[str]]]:
    rows = (
        Study.objects.annotate(
            n_series=Count("series", distinct=True),
            n_instances=Count("series__instances"),
            modalities=Coalesce(ArrayAgg("series__modality", distinct=True, filter=~Q(series__modality="")), []),
            parts=Coalesce(
                ArrayAgg("series__body_part_examined", distinct=True, filter=~Q(series__body_part_examined="")), []
            ),
        )
        .order_by("pk")
        .iterator(chunk_size=2000)
    )
    for row in rows:
        yield row, row.n_series, row.n_instances, set(row.modalities), set(row.parts)


def recount(study_id: int) -> None:
    """Set what the rows of a study repeat to what is there."""
    with transaction.atomic():
        study = Study.objects.select_for_update().get(pk=study_id)
        modalities: list[str] = []
        parts: list[str] = []
        total = number = 0
        for series in study.series.annotate(n=Count("instances")).order_by("pk"):
            if series.number_of_instances != series.n:
                Series.objects.filter(pk=series.pk).update(number_of_instances=series.n)
            total, number = total + series.n, number + 1
            for value, values in ((series.modality, modalities), (series.body_part_examined, parts)):
                if value and value not in values:
                    values.append(value)
        study.number_of_instances, study.number_of_series = total, number
        study.modalities_in_study, study.body_parts_examined = modalities, parts
        study.save()


def digest(path: Path) -> str:
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(CHUNK):
            found.update(piece)
    return found.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    """Everything below a folder that is no folder; symbolic links are not followed."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        links = [name for name in folders if Path(parent, name).is_symlink()]
        for name in sorted(names + links):
            yield Path(parent, name)


def _project_of(place: Path) -> Project | None:
    number = place.parts[0] if place.parts else ""
    return Project.objects.filter(pk=int(number)).first() if number.isdecimal() and len(number) < 10 else None
