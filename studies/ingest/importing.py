"""Folders, files and zip archives on their way to the store: one service for the command and the upload page."""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from portal.accounts.models import User
from studies.ingest import limits
from studies.ingest.outcome import Outcome, Refused, State, not_read
from studies.ingest.staging import Source
from studies.ingest.store import store_files
from studies.models import ImportBatch, Origin, Study

Entry = tuple[Source | Refused, str]
_ZIP = b"PK\x03\x04"


@dataclass
class Summary:
    """What an import came to; `outcomes` has one entry for each file."""

    batch: ImportBatch
    outcomes: list[Outcome] = field(default_factory=list)

    def count(self, state: State) -> int:
        return sum(outcome.state is state for outcome in self.outcomes)

    def as_json(self) -> dict[str, Any]:
        """For programs: counts, studies, and each file with its state and, where refused, code and reason."""
        uids = {outcome.study_instance_uid for outcome in self.outcomes if not outcome.refused}
        studies = Study.objects.filter(project_id=self.batch.project_id, study_instance_uid__in=uids).order_by("pk")
        return {
            "batch": self.batch.pk,
            "project": self.batch.project.slug,
            **{state.value: self.count(state) for state in State},
            "studies": [
                {
                    "id": study.pk,
                    "study_instance_uid": study.study_instance_uid,
                    "number_of_series": study.number_of_series,
                    "number_of_instances": study.number_of_instances,
                }
                for study in studies
            ],
            "files": [
                {
                    "name": outcome.name,
                    "state": outcome.state.value,
                    "code": outcome.code,
                    "reason": outcome.reason,
                    "sop_instance_uid": outcome.sop_instance_uid,
                }
                for outcome in self.outcomes
            ],
        }


def import_paths(
    paths: Iterable[Path], *, batch: ImportBatch, on_outcome: Callable[[Outcome], None] | None = None
) -> Summary:
    """Import files, folders (with all below) and zip archives. One bad file never stops the rest."""
    return _run((entry for path in paths for entry in _of_path(path)), batch, Origin.ACQUIRED, None, on_outcome)


def import_uploads(files: Iterable[tuple[IO[bytes], str]], *, batch: ImportBatch, by: User | None = None) -> Summary:
    """Import open, seekable binary files with the names that the browser gave them."""
    return _run((entry for file, name in files for entry in _of_file(file, name)), batch, Origin.ACQUIRED, by, None)


def _run(
    entries: Iterable[Entry],
    batch: ImportBatch,
    origin: Origin,
    by: User | None,
    on_outcome: Callable[[Outcome], None] | None,
) -> Summary:
    summary = Summary(batch)
    for outcome in store_files(entries, batch=batch, origin=origin, created_by=by):
        summary.outcomes.append(outcome)
        if on_outcome is not None:
            on_outcome(outcome)
    batch.refresh_from_db()
    return summary


def _of_path(path: Path) -> Iterator[Entry]:
    if path.is_dir():
        for folder, folders, names in os.walk(path):
            folders.sort()
            for name in sorted(names + [name for name in folders if Path(folder, name).is_symlink()]):
                inside = Path(folder, name)
                shown = str(inside.relative_to(path))
                if inside.is_symlink():
                    yield (
                        Refused("unsafe_path", "This is a symbolic link; import what it leads to.", keep=False),
                        shown,
                    )
                else:
                    yield from _of_regular(inside, shown)
        return
    if not path.exists():
        yield Refused("not_found", "There is no file or folder of this name.", keep=False), str(path)
        return
    yield from _of_regular(path, path.name)


def _of_regular(path: Path, name: str) -> Iterator[Entry]:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            yield Refused("not_a_file", "This is neither a file nor a folder.", keep=False), name
            return
        with open(path, "rb") as file:
            is_zip = file.read(4) == _ZIP
            if is_zip:
                yield from zip_entries(file, name)
    except OSError as error:
        yield not_read(error), name
        return
    if not is_zip:
        yield path, name


def _of_file(file: IO[bytes], name: str) -> Iterator[Entry]:
    file.seek(0)
    is_zip = file.read(4) == _ZIP
    file.seek(0)
    if is_zip:
        yield from zip_entries(file, name)
    else:
        yield file, name


class _Bounded:
    """An archive entry read as a stream that stops when it grows out of proportion."""

    def __init__(self, stream: IO[bytes], packed: int, budget: int) -> None:
        self.stream = stream
        self.allowed = min(budget, max(limits.ZIP_RATIO_FROM, packed * limits.MAX_ZIP_RATIO))
        self.given = 0

    def read(self, size: int = -1) -> bytes:
        try:
            piece = self.stream.read(size)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
            raise Refused("bad_zip", f"The archive is damaged at this entry: {error}.", keep=False) from error
        self.given += len(piece)
        if self.given > self.allowed:
            raise Refused("zip_bomb", f"The entry unpacks to more than {self.allowed:,} bytes.", keep=False)
        return piece


def zip_entries(file: IO[bytes], name: str) -> Iterator[Entry]:
    """The entries of an archive as streams that may be read once, in order; what is unsafe as a `Refused`."""
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        yield Refused("bad_zip", f"The zip archive cannot be opened: {error}.", keep=False), name
        return
    with archive:
        entries = archive.infolist()
        if len(entries) > limits.MAX_ZIP_ENTRIES:
            reason = f"The archive has {len(entries):,} entries; {limits.MAX_ZIP_ENTRIES:,} are allowed."
            yield Refused("zip_bomb", reason, keep=False), name
            return
        budget = limits.MAX_ZIP_TOTAL
        for entry in entries:
            if entry.is_dir():
                continue
            shown = f"{name}/{entry.filename}"
            refusal = _entry_refusal(entry)
            if refusal is not None:
                yield refusal, shown
                continue
            try:
                stream = archive.open(entry)
            except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, zlib.error) as error:
                yield Refused("bad_zip", f"The archive is damaged at this entry: {error}.", keep=False), shown
                continue
            with stream:
                head = stream.read(4) if entry.file_size >= 4 and entry.filename.lower().endswith(".zip") else b""
                if head == _ZIP:
                    yield (
                        Refused(
                            "nested_archive", "An archive inside an archive is not opened; unpack it first.", keep=False
                        ),
                        shown,
                    )
                    continue
                if head:
                    stream.seek(0)
                bounded = _Bounded(stream, entry.compress_size, budget)
                yield bounded, shown  # type: ignore[misc]  # read() is all that staging asks for
                budget = max(0, budget - bounded.given)


def _entry_refusal(entry: zipfile.ZipInfo) -> Refused | None:
    path = PurePosixPath(entry.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
        return Refused("unsafe_path", "The entry's path leads outside the archive.", keep=False)
    if stat.S_ISLNK(entry.external_attr >> 16):
        return Refused("unsafe_path", "The entry is a symbolic link.", keep=False)
    if entry.flag_bits & 0x1:
        return Refused("encrypted", "The entry is encrypted; unpack the archive first.", keep=False)
    return None
