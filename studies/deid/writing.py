"""De-identified copies of studies in a folder: first pass, second pass, and the report of both."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset

from portal.accounts.models import Project, User
from studies.deid import nifti, pixels
from studies.deid.burned_in import Box
from studies.deid.datasets import Changes, Deidentifier
from studies.deid.errors import DeidError
from studies.deid.keys import keyed
from studies.deid.models import PixelReview
from studies.deid.options import Option
from studies.deid.pixel_data import blank, clear_overlay_bits
from studies.deid.profile import EDITION, Profile
from studies.deid.pseudonyms import Keyed
from studies.deid.verification import Leak, Originals, Search
from studies.dicom.errors import ImageError
from studies.ingest.staging import media
from studies.models import Origin, Series, Study

# Modality → the option without which its content would be empty, or would carry what nobody checks.
NEEDS = {"SR": Option.CLEAN_STRUCTURED, "KO": Option.CLEAN_STRUCTURED, "PR": Option.CLEAN_GRAPHICS}
NOT_EXPORTED = ("DOC", "ECG", "EPS", "HD", "AU", "PLAN")  # documents, sound and curves
VERIFIED = (
    "Every written file was searched for the original names, identifiers, dates, UIDs, institutions and words of free "
    "texts: all attributes at every depth, private ones included, file names and NIfTI headers. Text inside the pixels "
    "was not read; it is judged by persons."
)
Report = Callable[[float, str], None]


@dataclass(frozen=True)
class Order:
    """What is to be written."""

    project: Project
    studies: list[Study]
    profile: Profile = field(default_factory=Profile)
    nifti: bool = False
    results: bool = False  # segmentations and reports that models and readers made, too
    by: User | None = None  # sees what goes out; None for the command line


def series_of(study: Study, order: Order) -> tuple[list[Series], list[dict[str, str]]]:
    """The series of a study that go out, and those that stay with the reason."""
    series = study.series.filter(number_of_instances__gt=0).exclude(origin=Origin.DRAFT)
    if order.by is not None:
        series = series.filter(pk__in=Series.objects.visible_to(order.by).filter(study=study))
    if not order.results:
        series = series.filter(origin=Origin.ACQUIRED)
    out, left = [], []
    for one in series.order_by("series_number", "pk"):
        option = NEEDS.get(one.modality)
        if one.modality in NOT_EXPORTED:
            left.append({"modality": one.modality, "left_out": "documents, sound and curves are never exported"})
        elif option is not None and option not in order.profile:
            left.append({"modality": one.modality, "left_out": f"needs the option {option.value}"})
        else:
            out.append(one)
    return out, left


def questions(order: Order) -> list[PixelReview]:
    """Signed and open questions about text in the pixels of what goes out."""
    every_frame = Option.CLEAN_PIXELS in order.profile
    found = [
        pixels.look(series, every_frame=every_frame) for study in order.studies for series in series_of(study, order)[0]
    ]
    return [review for review in found if review.suspected]


def write(order: Order, out: Path, report: Report | None = None) -> dict[str, Any]:
    """De-identified DICOM (and NIfTI) files in the new folder `out/deidentified`, and its `report.json`.

    Nothing is left there where it fails. Raises `DeidError` with code `sign_off` (text in pixels that nobody has
    judged), `leak` (an original value was found in what was written), `unreadable` or `nothing`.
    """
    tell = report or (lambda fraction, text: None)
    tell(0.0, "looking for text in the pixels")
    waiting = [review for review in questions(order) if not review.decision]
    if waiting:
        raise DeidError(
            "sign_off",
            f"{len(waiting)} series may have text in their pixels that says who the patient is.",
            "A manager looks at them on the page of the export and signs each.",
        )
    keys = keyed(order.project)
    target = out / "deidentified"
    target.mkdir(parents=True)
    try:
        studies = []
        for number, study in enumerate(order.studies):
            one = _Study(order, study, keys, target)
            studies.append(one.written(partial(_tell_share, tell, number, len(order.studies))))
        if not any(series.get("files") for study in studies for series in study["series"]):
            raise DeidError(
                "nothing",
                "Every series of these studies is left out.",
                "Reports need Clean Structured Content; a series that was kept back can be signed off anew.",
            )
        summary = {
            "profile": str(order.profile),
            "edition": f"PS3.15 {EDITION}, table E.1-1",
            "codes": [{"code": code, "meaning": meaning} for code, meaning in order.profile.codes()],
            "private_kept": sorted(str(attribute) for attribute in order.profile.keep_private),
            "verified": VERIFIED,
            "studies": studies,
        }
        (target / "report.json").write_text(json.dumps(_for_receivers(summary), indent=2))
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    return summary


def _tell_share(tell: Report, number: int, of: int, done: float, text: str) -> None:
    tell((number + done) / of, f"study {number + 1} of {of}: {text}")


class _Study:
    """One study on its way out."""

    def __init__(self, order: Order, study: Study, keys: Keyed, target: Path) -> None:
        patient = study.patient
        self.order, self.study, self.target = order, study, target
        self.originals, self.changes = Originals(order.profile), Changes()
        self.person = Deidentifier(
            order.profile, keys, patient.patient_id, patient.issuer_of_patient_id, self.originals.words
        )
        self.name = keys.label(study.study_instance_uid)
        self.folder = target / self.person.pseudonym / f"study-{self.name}"
        self.kept: set[str] = {self.person.pseudonym.lower()}

    def written(self, tell: Report) -> dict[str, Any]:
        series, left_out = series_of(self.study, self.order)
        # All originals are known before the first description is cleaned: one file may name whom another one quotes.
        for one in series:
            for file in one.instances.values_list("file", flat=True):
                self.originals.collect(_read(file, pixels_too=False))
        rows = []
        for number, one in enumerate(series, start=1):
            tell((number - 1) / len(series), f"series {number} of {len(series)}")
            rows.append(self._series(number, one))
        self.originals.settle(self.kept)
        tell(0.95, "second pass")
        self._verify()
        return {
            "patient": self.person.pseudonym,
            "study": f"study-{self.name}",
            "series": rows,
            "left_out": left_out,
            "changes": self.changes.as_json(),
            "searched_values": len(self.originals),
        }

    def _series(self, number: int, series: Series) -> dict[str, Any]:
        review = PixelReview.objects.filter(series=series, suspected=True).select_related("by").first()
        row: dict[str, Any] = {"series": number, "modality": series.modality}
        if review is not None:
            row["pixels"] = {"decision": review.decision, "by": str(review.by), "at": f"{review.at:%Y-%m-%d %H:%M}"}
            if review.decision == PixelReview.Decision.WITHHOLD:
                return row | {"left_out": "kept back by sign-off"}
        place = self.folder / f"series-{number:02d}"
        place.mkdir(parents=True)
        boxes = [Box(*box) for box in review.blanked] if review else []
        for n, file in enumerate(series.instances.order_by("instance_number", "pk").values_list("file", flat=True), 1):
            dataset = _read(file)
            if "PixelData" in dataset:
                self._pixels(dataset, boxes, series)
            self.person.apply(dataset, self.changes)
            if review is not None and "PixelData" in dataset:
                dataset.BurnedInAnnotation = "NO"
            self.kept |= _kept_by_options(dataset, self.order.profile)
            dataset.save_as(place / f"{n:04d}.dcm", enforce_file_format=True)
            row["files"] = n
        if self.order.nifti and series.modality not in pixels.WITHOUT_PICTURES:
            row["nifti"] = self._nifti(place, number)
        return row

    def _pixels(self, dataset: Dataset, boxes: list[Box], series: Series) -> None:
        try:
            if boxes:
                blank(dataset, boxes)
            if clear_overlay_bits(dataset):
                self.changes.add("removed", pydicom.tag.Tag(0x60003000))
        except DeidError as error:
            where = f"{series.modality} series {series.pk} of study {self.study.pk}"
            raise DeidError(error.code, f"{where}: {error.cause}", error.next_step) from error

    def _nifti(self, place: Path, number: int) -> str:
        """The name of the file, or why there is none."""
        path = self.folder.parent / f"{self.person.pseudonym}_{self.name}_series-{number:02d}.nii.gz"
        try:
            nifti.save((pydicom.dcmread(file) for file in sorted(place.glob("*.dcm"))), path)
        except ImageError as error:
            return f"no volume: {error.cause}"
        return path.name

    def _verify(self) -> None:
        """Raises `DeidError` (`leak`) with file and attribute of each place where an original value was found."""
        moved = self.person.shift if Option.SHIFT_DATES in self.order.profile else None
        search = Search(self.originals, moved=moved, dates_kept=Option.RETAIN_DATES in self.order.profile)
        found: list[dict[str, str]] = []
        volumes = self.folder.parent.glob(f"{self.person.pseudonym}_{self.name}_*.nii.gz")
        for path in sorted([*self.folder.rglob("*.dcm"), *volumes]):
            name = str(path.relative_to(self.target))
            places = [Leak("the file name", kind) for kind in search.kinds(name)]
            if path.suffix == ".dcm":
                places += search.leaks(path.read_bytes())
            else:
                places += [Leak("the NIfTI header", kind) for kind in search.kinds(nifti.header_text(path))]
            found += [{"file": name, "attribute": place.attribute, "kind": place.kind} for place in places]
        if found:
            raise LeakFound(found)


class LeakFound(DeidError):
    """`hits`: file, attribute and kind of each; never a value."""

    def __init__(self, hits: list[dict[str, str]]) -> None:
        self.hits = hits
        places = dict.fromkeys(f"{hit['attribute']} ({hit['kind']})" for hit in hits)
        super().__init__(
            "leak",
            f"Original values would have left the archive in {'; '.join(list(places)[:12])}; first in "
            f"{hits[0]['file']}. Nothing was exported.",
            "Have these attributes removed as well, or leave out the option that keeps them.",
        )


def _for_receivers(summary: dict[str, Any]) -> dict[str, Any]:
    """The report without who signed: the names of the staff stay in the portal."""
    told = copy.deepcopy(summary)
    for study in told["studies"]:
        for series in study["series"]:
            series.get("pixels", {}).pop("by", None)
    return told


def _read(file: str, *, pixels_too: bool = True) -> Dataset:
    try:
        return pydicom.dcmread(media(file), stop_before_pixels=not pixels_too)
    except Exception as error:  # whatever a damaged file raises
        raise DeidError(
            "unreadable", f"A stored file cannot be read ({type(error).__name__}).",
            "Import it again, or export without its study.",
        ) from error  # fmt: skip


def _kept_by_options(dataset: Dataset, profile: Profile) -> set[str]:
    """Values that options keep on purpose, so that they are no leaks."""
    kept: set[str] = set()
    for element in dataset.iterall():
        if element.VR == "SQ" or element.is_empty:
            continue
        values = element.value if element.VM > 1 else [element.value]
        if element.VR == "UI" and Option.RETAIN_UIDS in profile:
            kept |= {str(value).strip() for value in values}
        elif profile.action(element.tag) == "K" and element.VR != "UI":
            kept |= {str(value).strip().lower() for value in values}
    return kept
