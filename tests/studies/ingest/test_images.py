"""Pictures with labels: pixels that arrive as they were, rows that are refused one by one, folds without a leak."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pydicom
import pytest
from django.core.management import CommandError, call_command
from PIL import Image, ImageOps
from pydicom.encaps import generate_frames

from studies.cohorts.clinical import ClinicalValue
from studies.cohorts.models import Cohort, ReferenceStandard
from studies.dicom import picture
from studies.dicom.errors import PixelError
from studies.ingest.image_labels import Plan
from studies.ingest.images import import_images
from studies.ingest.store import absolute_path
from studies.models import Instance, Refusal, Series, Study
from tests.conftest import SHARED
from tests.factories import ProjectFactory


@pytest.fixture(autouse=True)
def media(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path / "media"


@pytest.fixture
def project():
    return ProjectFactory(slug="chest")


def noise(seed: int, shape=(40, 50), dtype=np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def save(path: Path, array: np.ndarray, **how) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **how)
    return path.read_bytes()


def table(folder: Path, text: str) -> Path:
    path = folder / "labels.csv"
    path.write_text(text)
    return path


def stored(study: Study) -> pydicom.Dataset:
    return pydicom.dcmread(absolute_path(Instance.objects.get(series__study=study).file))


@pytest.mark.parametrize(
    ("how", "photometric"),
    [({}, "YBR_FULL_422"), ({"subsampling": 0}, "YBR_FULL")],
)
def test_a_baseline_jpeg_is_kept_byte_for_byte(how, photometric):
    stream = io.BytesIO()
    Image.fromarray(noise(1, (33, 47, 3))).save(stream, "JPEG", **how)
    read = picture.read(stream.getvalue())
    assert (read.jpeg, read.photometric) == (stream.getvalue(), photometric)


@pytest.mark.parametrize(
    "how",
    [
        {"progressive": True},
        {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"},
        {"keep_rgb": True},
    ],
)
def test_other_jpegs_are_decoded_and_stored_without_loss(how):
    """A progressive one, one that is to be shown turned, and one of RGB values."""
    stream = io.BytesIO()
    Image.fromarray(noise(1, (33, 47, 3))).save(stream, "JPEG", **how)
    read = picture.read(stream.getvalue())
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(stream.getvalue()))))
    assert read.photometric == "RGB"
    assert np.array_equal(read.array, expected)


@pytest.mark.parametrize(
    "array",
    [noise(1), noise(2, dtype=np.uint16), noise(3, (40, 50, 3)), noise(4, (41, 51))],
    ids=["8", "16", "rgb", "odd"],
)
@pytest.mark.django_db
def test_the_pixels_of_a_png_do_not_change(project, tmp_path, array):
    save(tmp_path / "a.png", array)
    save(tmp_path / "b.png", noise(9))
    import_images(Plan(project, table(tmp_path, "file,label,patient\na.png,x,P1\nb.png,y,P2\n"), "A"))
    dataset = stored(Study.objects.get(patient__patient_id="P1"))
    assert np.array_equal(dataset.pixel_array, array)
    assert dataset.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert dataset.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"  # secondary capture


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda: b"no picture", "not_an_image"),
        (lambda: png(noise(1))[:300], "damaged"),
        (lambda: png(noise(1, (8, 8, 4))), "transparent"),
        (lambda: png16(), "depth"),
        (lambda: jpeg_cmyk(), "colour_model"),
    ],
)
def test_what_cannot_be_kept_is_refused(make, code):
    with pytest.raises(PixelError) as refused:
        picture.read(make())
    assert refused.value.code == code


def png(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def png16() -> bytes:
    """An RGB PNG whose header says 16 bits, as Pillow reads but does not write them."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    lines = b"".join(b"\0" + bytes(range(24)) for _ in range(4))
    head = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def jpeg_cmyk() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(noise(1, (8, 8, 4)), "CMYK").save(stream, "JPEG")
    return stream.getvalue()


@pytest.mark.django_db
def test_a_radiograph_keeps_what_the_table_says(project, tmp_path):
    data = save(tmp_path / "images" / "a.jpg", noise(1, (64, 48)), quality=80)
    save(tmp_path / "images" / "b.jpg", noise(2))
    text = (
        "file,label,patient,source,view,sex,age,dup_group,ward\n"
        "images/a.jpg,covid,P1,cohen,AP Supine,Male,34,d1,7\nimages/b.jpg,none,P2,nih,PA,,,,8\n"
    )
    summary = import_images(Plan(project, table(tmp_path, text), "A", body_part="chest", synthetic=True))
    assert (summary.stored, summary.refused, summary.classes) == (2, [], {"covid": 1, "none": 1})
    study = Study.objects.get(patient__patient_id="P1")
    dataset = stored(study)
    assert dataset.SOPClassUID == "1.2.840.10008.5.1.4.1.1.1"  # computed radiography
    assert (dataset.Modality, dataset.ViewPosition, dataset.PatientSex, dataset.PatientAge) == ("CR", "AP", "M", "034Y")
    assert (dataset.BodyPartExamined, dataset.SyntheticData, dataset.SeriesDescription) == ("CHEST", "YES", "AP Supine")
    (fragment,) = generate_frames(dataset.PixelData, number_of_frames=1)
    assert fragment[: len(data)] == data
    assert len(fragment) - len(data) in (0, 1)
    assert study.synthetic
    values = dict(ClinicalValue.objects.filter(study=study).values_list("variable__name", "text"))
    assert values == {"source": "cohen", "dup_group": "d1", "ward": "7"}
    assert set(ClinicalValue.objects.values_list("variable__role", "variable__name")) == {
        ("source", "source"), ("group", "dup_group"), ("", "ward"),
    }  # fmt: skip
    assert ReferenceStandard.objects.get().kind == "classification"


@pytest.mark.django_db
def test_one_bad_row_never_stops_the_rest_and_each_is_named(project, tmp_path):
    save(tmp_path / "good.png", noise(1))
    save(tmp_path / "other.png", noise(2))
    (tmp_path / "text.png").write_text("no picture")
    secret = tmp_path.parent / "secret.png"
    save(secret, noise(3))
    (tmp_path / "link.png").symlink_to(secret)
    rows = [
        "good.png,a,P1,", "gone.png,a,P1,", "text.png,a,P1,", "../secret.png,a,P1,", "link.png,a,P1,", ",a,P1,",
        "other.png,b,,", "./good.png,a,P1,", "other.png,b,P2,old", "other.png,b,P2,51",
    ]  # fmt: skip
    path = table(tmp_path, "file,label,patient,age\n" + "\n".join(rows) + "\n")
    summary = import_images(Plan(project, path, "A"))
    assert [(refused.row, refused.code) for refused in summary.refused] == [
        (3, "not_found"), (4, "not_an_image"), (5, "unsafe_path"), (6, "unsafe_path"), (7, "no_file"),
        (8, "no_patient"), (9, "same_file"), (10, "age"),
    ]  # fmt: skip
    assert summary.stored == 2
    assert Cohort.objects.get().cases.count() == 2
    assert Refusal.objects.filter(batch=summary.batch).count() == 8


@pytest.mark.django_db
def test_importing_again_adds_nothing_and_a_new_class_makes_the_next_version(project, tmp_path):
    for n in range(4):
        save(tmp_path / f"{n}.png", noise(n))
    text = "file,label,patient\n0.png,a,P0\n1.png,b,P1\n2.png,a,P2\n"
    first = import_images(Plan(project, table(tmp_path, text), "A"))
    again = import_images(Plan(project, table(tmp_path, text), "A"))
    assert (first.stored, again.stored, again.duplicate) == (3, 0, 3)
    assert (again.reference, again.reference_version) == (first.reference, 1)
    more = import_images(Plan(project, table(tmp_path, text + "3.png,c,P3\n"), "A"))
    assert (more.stored, more.reference_version, more.classes) == (1, 2, {"a": 2, "b": 1, "c": 1})
    assert Study.objects.count() == 4


@pytest.mark.django_db
def test_pictures_of_unknown_patients_are_patients_of_their_own_where_the_table_has_no_such_column(project, tmp_path):
    save(tmp_path / "a.png", noise(1)), save(tmp_path / "b.png", noise(2))
    summary = import_images(Plan(project, table(tmp_path, "filename;class\na.png;x\nb.png;y\n"), "A"))
    assert (summary.cases, summary.patients) == (2, 2)


@pytest.mark.django_db
def test_the_command_freezes_and_says_what_is_wrong(tmp_path):
    for n in range(6):
        save(tmp_path / f"{n}.png", noise(n))
    text = "file,label,patient\n" + "".join(f"{n}.png,{'ab'[n % 2]},P{n}\n" for n in range(6)) + "7.png,a,P7\n"
    path = table(tmp_path, text)
    with pytest.raises(CommandError, match="no project"):
        call_command("import_images", str(path), project="new", cohort="A")
    out = io.StringIO()
    call_command(
        "import_images", str(path), project="new", cohort="A", create_project=True, folds=3, json=True, stdout=out
    )
    told = json.loads(out.getvalue())
    assert (told["stored"], told["frozen"], told["splits"]) == (6, True, {"fold 0": 2, "fold 1": 2, "fold 2": 2})
    assert [(refused["row"], refused["code"]) for refused in told["refused"]] == [(8, "not_found")]
    out = io.StringIO()
    call_command("import_images", str(path), project="new", cohort="A", stdout=out)
    assert "0 stored, 6 already there, 1 refused" in out.getvalue()
    with pytest.raises(CommandError, match="No column says which file"):
        call_command("import_images", str(table(tmp_path, "a,b\n1,2\n")), project="new", cohort="B")


@pytest.mark.shared
@pytest.mark.django_db
def test_real_radiographs_in_five_stratified_folds_do_not_leak(tmp_path):
    path = SHARED / "data/cxr/labels.csv"
    out = io.StringIO()
    call_command(
        "import_images", str(path), project="cxr", cohort="Chests", create_project=True, folds=5, json=True, stdout=out
    )
    told = json.loads(out.getvalue())
    rows = list(csv.DictReader(path.open()))
    assert (told["stored"], told["refused"], told["cases"]) == (len(rows), [], len(rows))
    assert told["classes"] == dict(Counter(row["label"] for row in rows))
    assert told["patients"] == len({row["patient"] for row in rows}) == 314
    assert set(Series.objects.values_list("modality", flat=True)) == {"CR"}
    # The folds, put beside the table itself: which picture lies where is found by its bytes.
    by_bytes = {(path.parent / row["file"]).read_bytes(): row for row in rows}
    folds: dict[str, set] = defaultdict(set)
    shares = Counter()
    for case in Cohort.objects.get().cases.select_related("cohort_patient"):
        (fragment,) = generate_frames(stored(case.study).PixelData, number_of_frames=1)
        row = by_bytes.get(fragment) or by_bytes[fragment[:-1]]
        fold = case.cohort_patient.fold
        folds["patient " + row["patient"]].add(fold)
        if row["dup_group"]:
            folds["group " + row["dup_group"]].add(fold)
        shares[row["label"], fold] += 1
    assert all(len(found) == 1 for found in folds.values())
    for label, n in Counter(row["label"] for row in rows).items():
        assert max(abs(shares[label, fold] - n / 5) for fold in range(5)) <= 3
