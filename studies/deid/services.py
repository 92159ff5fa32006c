"""De-identified copies of studies: the only writers of keys, pseudonyms, lookups and exports."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tempfile
import uuid
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
from django.db import transaction
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from portal.accounts.models import Project, User
from studies.cohorts.models import Cohort
from studies.deid import pixels
from studies.deid.burned_in import blanked
from studies.deid.datasets import Changes, Deidentifier
from studies.deid.errors import DeidError
from studies.deid.models import Export, Lookup, PixelReview, ProjectKey, Pseudonym
from studies.deid.profile import Option, Profile
from studies.deid.pseudonyms import Keyed
from studies.deid.verification import Originals, leaks, leaks_in_text
from studies.dicom.errors import ImageError
from studies.dicom.volume import Volume, from_datasets
from studies.ingest.staging import media
from studies.models import Origin, Series, Study

# Objects made of words; their content would be empty, or would carry what nobody can check.
NOT_EXPORTED = ("SR", "PR", "KO", "DOC", "RTSTRUCT", "RTPLAN", "RTDOSE", "REG", "ECG", "AU")
Report = Callable[[float, str], None]


def keyed(project: Project) -> Keyed:
    """The project's pseudonyms; its key is made when it is first needed."""
    row, _ = ProjectKey.objects.get_or_create(project=project)
    return Keyed(bytes(row.key))


@transaction.atomic
def order(
    *, project: Project, profile: Profile, by: User | None, cohort: Cohort | None = None, studies: Iterable[Study] = (),
    nifti: bool = False,
) -> Export:  # fmt: skip
    """Write down what is to be exported. Raises `DeidError` (`empty`, `other_project`)."""
    wanted = list(studies) if cohort is None else [case.study for case in cohort.cases.select_related("study")]
    if not wanted:
        raise DeidError("empty", "There is no study to export.", "Choose a cohort with cases, or studies.")
    if any(study.project_id != project.pk for study in wanted):
        raise DeidError("other_project", "A study belongs to another project.", "Export each project by itself.")
    export = Export.objects.create(project=project, cohort=cohort, profile=str(profile), nifti=nifti, created_by=by)
    export.studies.set(wanted)
    return export


def queued(export: Export) -> None:
    """The export waits for a worker, for the first time or again."""
    export.state, export.failure = Export.State.QUEUED, ""
    export.save(update_fields=["state", "failure"])


def make(export: Export, report: Report | None = None) -> Export:
    """Write the zip archive of an export. Raises `DeidError`; the export then says why, and no file is left."""
    try:
        with tempfile.TemporaryDirectory(dir=_folder()) as temporary:
            folder = Path(temporary)
            summary = write(list(export.studies.order_by("pk")), folder, Profile.parse(export.profile),
                            project=export.project, nifti=export.nifti, report=report)  # fmt: skip
            path = f"exports/{uuid.uuid4().hex}.zip"
            _zip(folder, media(path))
    except DeidError as error:
        blocked = error.code == "sign_off"
        export.state = Export.State.BLOCKED if blocked else Export.State.FAILED
        export.failure = str(error)
        export.save(update_fields=["state", "failure"])
        raise
    export.state, export.failure, export.report, export.file = Export.State.DONE, "", summary, path
    export.size = media(path).stat().st_size
    with media(path).open("rb") as file:
        export.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    export.save()
    return export


def write(
    studies: list[Study], out: Path, profile: Profile, *, project: Project, nifti: bool = False,
    report: Report | None = None,
) -> dict[str, Any]:  # fmt: skip
    """De-identified DICOM (and NIfTI) files of `studies` below `out`, and `report.json`; returns the report.

    Nothing is left in `out` where it fails. Raises `DeidError` with code `sign_off` (text in pixels that nobody has
    judged), `leak` (an original value was found in what was written) or `unreadable`.
    """
    _refuse_unsigned(studies)
    keys = keyed(project)
    written: list[dict[str, Any]] = []
    target = out / "deidentified"
    target.mkdir(parents=True)
    try:
        for number, study in enumerate(studies):
            if report:
                report(number / len(studies), f"study {number + 1} of {len(studies)}")
            written.append(_study(study, target, profile, keys, nifti))
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    summary = {
        "profile": str(profile),
        "codes": [{"code": code, "meaning": meaning} for code, meaning in profile.codes()],
        "verified": "every file was searched for the original values after it was written",
        "studies": written,
    }
    (target / "report.json").write_text(json.dumps(summary, indent=2))
    return summary


def reidentify(project: Project, value: str, *, by: User) -> Pseudonym:
    """Who is behind a pseudonym; the question is recorded. Raises `DeidError` (`not_allowed`, `unknown`)."""
    if not by.is_superuser:
        raise DeidError("not_allowed", "Only an administrator may go back from a pseudonym to a patient.")
    found = Pseudonym.objects.filter(project=project, value=value.strip()).select_related("patient").first()
    if found is None:
        raise DeidError("unknown", "The project exported no patient under this pseudonym.", "Check its letters.")
    Lookup.objects.create(pseudonym=found, by=by)
    return found


def series_of(study: Study) -> list[Series]:
    """The series of a study that an export takes: acquired images that are not made of words."""
    acquired = study.series.filter(origin=Origin.ACQUIRED, number_of_instances__gt=0)
    return list(acquired.exclude(modality__in=NOT_EXPORTED).order_by("series_number", "pk"))


def questions(studies: Iterable[Study]) -> list[PixelReview]:
    """Signed and open questions about text in the pixels of these studies."""
    found = [pixels.look(series) for study in studies for series in series_of(study)]
    return [review for review in found if review is not None]


def _refuse_unsigned(studies: list[Study]) -> None:
    waiting = [review for review in questions(studies) if not review.decision]
    if waiting:
        raise DeidError(
            "sign_off",
            f"{len(waiting)} series may have text in their pixels that says who the patient is.",
            "A manager looks at them on the export page and signs each.",
        )


def _study(study: Study, out: Path, profile: Profile, keys: Keyed, nifti: bool) -> dict[str, Any]:
    patient = study.patient
    originals, changes = Originals(), Changes()
    person = Deidentifier(profile, keys, patient.patient_id, patient.issuer_of_patient_id, originals.words)
    Pseudonym.objects.get_or_create(project=study.project, value=person.pseudonym, defaults={"patient": patient})
    study_name = hashlib.sha256(keys.uid(study.study_instance_uid).encode()).hexdigest()[:8]
    folder = out / person.pseudonym / f"study-{study_name}"
    rows, kept = [], {person.pseudonym.lower()}
    for number, series in enumerate(series_of(study), start=1):
        review = PixelReview.objects.filter(series=series).first()
        row: dict[str, Any] = {"series": number, "modality": series.modality}
        if review is not None:
            row["pixels"] = {"decision": review.decision, "by": str(review.by), "at": review.at.isoformat()}  # type: ignore[union-attr]
        rows.append(row)
        if review is not None and review.decision == PixelReview.Decision.WITHHOLD:
            row["left_out"] = "kept back by sign-off"
            continue
        place = folder / f"series-{number:02d}"
        place.mkdir(parents=True, exist_ok=True)
        row["files"] = _series(series, place, person, review, originals, changes, kept)
        if nifti:
            row["nifti"] = _nifti(place, folder.parent / f"{person.pseudonym}_{study_name}_series-{number:02d}.nii.gz")
    originals.settle(kept)
    _verify(out, folder, originals)
    left_out = study.series.filter(origin=Origin.ACQUIRED, modality__in=NOT_EXPORTED).count()
    return {
        "patient": person.pseudonym,
        "study": f"study-{study_name}",
        "series": rows,
        "left_out_series_of_text": left_out,
        "changes": changes.as_json(),
        "searched_values": len(originals.words) + len(originals.texts) + len(originals.uids),
    }


def _series(
    series: Series, place: Path, person: Deidentifier, review: PixelReview | None, originals: Originals,
    changes: Changes, kept: set[str],
) -> int:  # fmt: skip
    instances = series.instances.only("pk", "file").order_by("instance_number", "pk")
    n = 0
    for n, instance in enumerate(instances, start=1):
        try:
            dataset = pydicom.dcmread(media(instance.file))
            originals.collect(dataset)
        except Exception as error:
            raise DeidError(
                "unreadable", f"The file of instance {instance.pk} cannot be read ({type(error).__name__}).",
                "Import it again, or export without its study.",
            ) from error  # fmt: skip
        if review is not None and review.decision == PixelReview.Decision.BLANK:
            _blank(dataset, review)
        person.apply(dataset, changes)
        if review is not None:
            dataset.BurnedInAnnotation = "NO"
        kept |= _kept_by_options(dataset, person.profile)
        dataset.save_as(place / f"{n:04d}.dcm", enforce_file_format=True)
    return n


def _kept_by_options(dataset: Dataset, profile: Profile) -> set[str]:
    """Values that options keep on purpose, so that they are no leaks."""
    kept: set[str] = set()
    for element in dataset.iterall():
        if profile.action(element.tag) == "K" and element.VR != "SQ" and not element.is_empty:
            values = element.value if element.VM > 1 else [element.value]
            kept |= {str(value).strip() if element.VR == "UI" else str(value).strip().lower() for value in values}
        elif element.VR == "UI" and Option.RETAIN_UIDS in profile:
            kept |= {str(value) for value in (element.value if element.VM > 1 else [element.value])}
    return kept


def _blank(dataset: Dataset, review: PixelReview) -> None:
    """Fill the marked places of every frame with the darkest value; the object becomes uncompressed."""
    try:
        if dataset.file_meta.TransferSyntaxUID.is_compressed:
            dataset.decompress()
        array = dataset.pixel_array
    except Exception as error:
        raise DeidError(
            "unreadable", "The pixels of a series that is to be blanked cannot be decoded.", "Keep the series back."
        ) from error
    inverted = str(dataset.get("PhotometricInterpretation", "")) == "MONOCHROME1"
    value = int(array.max() if inverted else array.min())
    frames = array if int(dataset.get("NumberOfFrames") or 1) > 1 else array[None]
    filled = np.stack([blanked(frame, pixels.boxes_of(review), value) for frame in frames]).reshape(array.shape)
    if dataset.file_meta.TransferSyntaxUID != ExplicitVRLittleEndian:
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if filled.ndim > 2 and int(dataset.get("SamplesPerPixel") or 1) > 1:
        dataset.PlanarConfiguration = 0
    data = np.ascontiguousarray(filled).tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OW" if int(dataset.BitsAllocated) > 8 else "OB"


def _nifti(place: Path, path: Path) -> str:
    """A volume of the written images, rows turned as dcm2niix does. Returns the name, or why there is none."""
    try:
        volume = from_datasets(pydicom.dcmread(file) for file in sorted(place.glob("*.dcm")))
    except ImageError as error:
        return f"no volume: {error.cause}"
    nibabel.save(nifti_image(volume), path)  # type: ignore[attr-defined]
    return path.name


def nifti_image(volume: Volume) -> nibabel.Nifti1Image:
    """RAS millimetres; rows are turned over so that the second axis points to the patient's front in axial images."""
    flip = np.diag([1.0, -1.0, 1.0, 1.0])
    flip[1, 3] = volume.shape[1] - 1
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine @ flip
    image = nibabel.Nifti1Image(np.ascontiguousarray(volume.array.transpose(2, 1, 0)[:, ::-1]), affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"de-identified"
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    return image


def _verify(out: Path, folder: Path, originals: Originals) -> None:
    """Raises `DeidError` (`leak`) with the attributes in which an original value was found."""
    found: dict[str, str] = {}
    for path in sorted([*folder.rglob("*.dcm"), *folder.parent.glob("*.nii.gz")]):
        for leak in leaks_in_text(str(path.relative_to(out)), originals):
            found.setdefault("the file name", leak.kind)
        if path.suffix == ".dcm":
            for leak in leaks(path.read_bytes(), originals):
                found.setdefault(leak.attribute, leak.kind)
        else:
            header = nibabel.load(path).header.binaryblock.decode("latin-1")  # type: ignore[attr-defined]
            for leak in leaks_in_text(header, originals):
                found.setdefault("the NIfTI header", leak.kind)
    if found:
        places = "; ".join(f"{attribute} ({kind})" for attribute, kind in sorted(found.items()))
        raise DeidError(
            "leak",
            f"Original values would have left the archive in {places}. Nothing was exported.",
            "Have these attributes removed, too (--remove KEYWORD), or leave out the option that keeps them.",
        )


def _folder() -> Path:
    folder = media("exports")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _zip(folder: Path, target: Path) -> None:
    part = target.with_suffix(".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                # A fixed date: when a file was made says nothing to the receiver.
                entry = zipfile.ZipInfo(str(path.relative_to(folder)), (1980, 1, 1, 0, 0, 0))
                entry.compress_type = zipfile.ZIP_DEFLATED
                with path.open("rb") as source, archive.open(entry, "w", force_zip64=True) as file:
                    shutil.copyfileobj(source, file)
    part.replace(target)


def read_zip(export: Export) -> io.BufferedReader:
    """The archive of a finished export. Raises `DeidError` (`not_ready`)."""
    if export.state != Export.State.DONE or not media(export.file).is_file():
        raise DeidError("not_ready", "The export has no file.", "Start it again.")
    return media(export.file).open("rb")
