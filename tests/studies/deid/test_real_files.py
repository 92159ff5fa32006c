"""Real files from many machines: exported, and the export searched for every original value by other means.

The search here shares no code with the second pass: it reads the originals with pydicom's own walk and looks for their
values in the bytes that were written.
"""

from __future__ import annotations

import re
from pathlib import Path

import pydicom
import pydicom.data
import pytest

from studies.deid import pixels
from studies.deid.errors import DeidError
from studies.deid.profile import Profile
from studies.deid.writing import LeakFound, Order, questions, write
from studies.ingest import store
from studies.models import ImportBatch
from tests.factories import ProjectFactory, member

pytestmark = pytest.mark.django_db
SHARED = Path(__file__).resolve().parents[4] / "shared" / "data" / "dicom"
SAMPLES = Path(pydicom.data.__file__).parent
PIXELS = {"PixelData", "FloatPixelData", "DoubleFloatPixelData"}
IDENTIFYING = {
    "PatientID", "OtherPatientIDs", "AccessionNumber", "InstitutionName", "InstitutionAddress", "StationName",
    "DeviceSerialNumber", "PatientAddress", "AdmissionID", "IssuerOfPatientID", "PatientComments", "ImageComments",
}  # fmt: skip
DESCRIBING = {"StudyDescription", "SeriesDescription", "ProtocolName", "RequestedProcedureDescription"}
PLACEHOLDERS = {"removed", "patient", "unknown", "anonymous", "anonymized"}  # of files that were de-identified before
TECHNICAL = {"Manufacturer", "ManufacturerModelName", "SoftwareVersions", "CodeMeaning"}


@pytest.fixture(autouse=True)
def media(settings, tmp_path_factory):
    settings.MEDIA_ROOT = tmp_path_factory.mktemp("media")


def values_of(datasets: list[pydicom.Dataset], *, descriptions: bool) -> tuple[set[str], set[str]]:
    """Names, identifiers, descriptions and UIDs that are long enough to be told from chance; and full dates."""
    found, dates, kept = set(), set(), set()
    for element in (element for dataset in datasets for element in dataset.iterall()):
        for value in [element.value] if element.VM < 2 else element.value or []:
            text = str(value).strip()
            if element.VR == "CS" or element.keyword in TECHNICAL:
                kept.add(text.lower())
            elif element.VR in ("DA", "DT") and re.match(r"\d{8}", text) and not text.startswith("19000101"):
                dates.add(text[:8])
            elif element.VR == "UI" and text.count(".") > 4 and not text.startswith("1.2.840.10008."):
                if not re.search("Class|Scheme", element.keyword):
                    found.add(text)
            elif element.VR == "PN":
                found |= {
                    part for part in re.split(r"[\^= ,]+", text) if len(part) >= 6 and part.lower() not in PLACEHOLDERS
                }
            elif element.keyword in IDENTIFYING or (descriptions and element.keyword in DESCRIBING):
                found |= {text} if len(text) >= 6 and text.lower() not in PLACEHOLDERS else set()
    return {text for text in found if not any(text.lower() in one for one in kept)}, dates


def without_pixels(path: Path) -> tuple[bytes, pydicom.Dataset]:
    dataset = pydicom.dcmread(path)
    whole = path.read_bytes()
    for keyword in PIXELS & set(dataset.dir()):
        whole = whole.replace(bytes(dataset[keyword].value), b"")
    return whole.lower(), dataset


def found_in(text: str, held: bytes) -> bool:
    """A UID is another where more digits follow."""
    return (
        re.search(re.escape(text.lower().encode()) + (rb"(?![0-9.])" if text[0].isdigit() else b""), held) is not None
    )


def exported(paths: list[Path], tmp_path: Path, profile: str) -> tuple[int, set[str], list[str]]:
    """Imports and exports the files study by study. Returns the number of files written, attributes for which the
    second pass refused a study, and where original values were found in what left."""
    project = ProjectFactory()
    manager = member(project)
    batch = store.open_batch(project, ImportBatch.Source.COMMAND)
    list(store.store_files([(path, path.name) for path in paths], batch=batch))
    chosen = Profile.parse(profile)
    n, refused, hits = 0, set(), []
    for study in project.studies.select_related("patient", "project"):
        order = Order(project, [study], chosen, nifti=False)
        for review in questions(order):
            pixels.sign(review, decision="clear", by=manager)
        out = tmp_path / str(study.pk)
        try:
            write(order, out)
        except LeakFound as leak:
            refused |= {hit["attribute"] for hit in leak.hits}
            continue
        except DeidError as error:
            if error.code == "nothing":  # reports without the option, for instance
                continue
            raise
        files = [file for series in study.series.all() for file in series.instances.values_list("file", flat=True)]
        originals = [pydicom.dcmread(pixels.media(file), stop_before_pixels=True) for file in files]
        values, dates = values_of(originals, descriptions="clean-descriptors" not in profile)
        for path in sorted(out.rglob("*.dcm")):
            n += 1
            held, dataset = without_pixels(path)
            assert dataset.PatientIdentityRemoved == "YES"
            hits += [f"{path.name} of study {study.pk}" for text in values if found_in(text, held)]
            if "dates" not in profile:
                written = {
                    str(value)[:8]
                    for element in dataset.iterall()
                    if element.VR in ("DA", "DT")
                    for value in ([element.value] if element.VM < 2 else element.value or [])
                }
                hits += [f"a date in {path.name} of study {study.pk}" for day in dates & written]
    return n, refused, hits


# Some of these patients are called like a maker or a program, or numbered like a series.
BY_CHANCE = {"Manufacturer", "ManufacturerModelName", "SegmentAlgorithmName", "SeriesNumber", "ContentLabel", "StackID",
             "bytes"}  # fmt: skip
PROFILES = [
    "basic",
    "basic,shift-dates,clean-descriptors,clean-structured-content,clean-graphics,retain-patient,retain-safe-private",
]


@pytest.mark.parametrize("profile", PROFILES)
def test_nothing_of_pydicoms_samples_is_left(tmp_path, profile):
    paths = [path for path in SAMPLES.rglob("*") if path.is_file() and path.stat().st_size < 2_000_000]
    n, refused, hits = exported(paths, tmp_path, profile)
    assert hits == []
    assert n >= 10
    assert refused <= BY_CHANCE


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the development data are not beside the checkout")
def test_nothing_of_real_examinations_is_left(tmp_path):
    paths = sorted(path for path in SHARED.rglob("*") if path.is_file() and path.stat().st_size < 1_500_000)
    n, refused, hits = exported(paths, tmp_path, PROFILES[1])
    assert hits == []
    assert n >= 100
    assert refused <= BY_CHANCE
