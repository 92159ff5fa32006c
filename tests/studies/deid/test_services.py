"""Exports as a whole: files, names, zip, sign-off, geometry against dcm2niix."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import zipfile

import nibabel
import numpy as np
import pydicom
import pytest
from django.core.management import CommandError, call_command
from PIL import Image, ImageDraw, ImageFont

from studies.cohorts import services as cohorts
from studies.deid import pixels, services
from studies.deid.errors import DeidError
from studies.deid.models import Export, Lookup, PixelReview
from studies.deid.profile import Profile
from studies.dicom import phantom
from tests.factories import ProjectFactory, UserFactory, ct_datasets, ct_slice, member, store_datasets
from tests.studies.deid.test_datasets import planted

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return ProjectFactory()


NAMED = {"PatientName": "Zubkov^Wilhelmina"}  # the tests' usual name also stands in their manufacturer's


def phantom_of(project, number=1, **values):
    datasets = phantom.make(number).datasets()
    for dataset in datasets:
        for keyword, value in values.items():
            setattr(dataset, keyword, value)
    return store_datasets(project, datasets)


def test_planted_identifiers_leave_no_trace_in_the_export(project, tmp_path):
    study = store_datasets(project, [planted()]).study
    services.write([study], tmp_path, Profile.parse("basic,shift-dates,clean-descriptors"), project=project)
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()).lower()
    names = " ".join(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")).lower()
    for secret in ("zubkov", "wilhelmina", "774411", "19310704", study.study_instance_uid):
        assert secret.encode() not in everything
        assert secret not in names


def test_a_leak_fails_the_export_and_leaves_nothing(project, tmp_path):
    # A kept, unlisted attribute that somebody wrote the name into.
    study = store_datasets(project, [ct_slice(PatientName="Zubkov^W", Manufacturer="Zubkov")]).study
    with pytest.raises(DeidError, match=r"Manufacturer \(name or identifier\)") as failed:
        services.write([study], tmp_path, Profile(), project=project)
    assert "zubkov" not in str(failed.value).lower()
    assert list(tmp_path.iterdir()) == []
    services.write([study], tmp_path, Profile.parse("basic", [0x00080070]), project=project)


def test_one_patient_is_one_pseudonym_over_time_and_only_administrators_go_back(project, tmp_path):
    first = store_datasets(project, ct_datasets(1, **NAMED, PatientID="P7")).study
    second = store_datasets(project, ct_datasets(1, **NAMED, PatientID="P7", StudyDate="20250101")).study
    other = store_datasets(project, ct_datasets(1, **NAMED, PatientID="P8")).study
    reports = [
        services.write([study], tmp_path / str(study.pk), Profile(), project=project)["studies"][0]["patient"]
        for study in (first, second, other)
    ]
    assert reports[0] == reports[1] != reports[2]
    with pytest.raises(DeidError):
        services.reidentify(project, reports[0], by=member(project))
    assert not Lookup.objects.exists()
    admin = UserFactory(is_superuser=True)
    assert services.reidentify(project, reports[0], by=admin).patient == first.patient
    assert Lookup.objects.get().by == admin


def lettered(text="DOE JOHN 1960"):
    """A CT slice with text burned in at (10, 20)."""
    image = Image.fromarray(np.full((128, 256), 300, np.int32), mode="I")
    ImageDraw.Draw(image).text((20, 10), text, fill=2000, font=ImageFont.load_default(size=16))
    ramp = np.add.outer(np.arange(128), np.arange(256))
    array = np.asarray(image) + ramp
    return ct_slice(
        **NAMED, rows=128, columns=256, PixelData=array.astype("<i2").tobytes(), WindowCenter=None, WindowWidth=None
    )


def test_text_in_the_pixels_waits_for_a_person(project, tmp_path):
    series = store_datasets(project, [lettered()])
    with pytest.raises(DeidError) as waiting:
        services.write([series.study], tmp_path, Profile(), project=project)
    assert waiting.value.code == "sign_off"
    review = PixelReview.objects.get(series=series)
    assert "lines of text" in review.reasons[-1]
    manager = member(project)
    pixels.sign(review, decision="blank", by=manager)
    report = services.write([series.study], tmp_path, Profile.parse("basic,clean-pixels"), project=project)
    assert report["studies"][0]["series"][0]["pixels"]["by"] == manager.username
    written = pydicom.dcmread(next(tmp_path.rglob("*.dcm")))
    before, after = lettered().pixel_array, written.pixel_array
    assert (before[10:30, 20:140] > 1500).sum() > 100
    assert (after[10:30, 20:140] > 1500).sum() == 0
    assert np.array_equal(before[60:], after[60:])
    assert written.BurnedInAnnotation == "NO"


def test_a_series_that_is_kept_back_is_not_exported(project, tmp_path):
    study = store_datasets(project, [ct_slice(**NAMED, Modality="US")]).study
    pixels.sign(services.questions([study])[0], decision="withhold", by=member(project))
    report = services.write([study], tmp_path, Profile(), project=project)
    assert report["studies"][0]["series"][0]["left_out"]
    assert not list(tmp_path.rglob("*.dcm"))


def test_more_images_ask_for_the_sign_off_again(project):
    datasets = ct_datasets(2, Modality="US")
    series = store_datasets(project, datasets[:1])
    pixels.sign(pixels.look(series), decision="clear", by=member(project))
    assert pixels.look(series).decision == "clear"
    store_datasets(project, datasets[1:])
    series.refresh_from_db()
    assert pixels.look(series).decision == ""


def test_an_export_becomes_a_zip(project):
    series = phantom_of(project)
    cohort = cohorts.create(project=project, name="All", by=None)
    cohorts.add_studies(cohort, [series.study])
    export = services.order(project=project, profile=Profile(), by=member(project), cohort=cohort, nifti=True)
    services.make(export)
    assert export.state == Export.State.DONE
    with services.read_zip(export) as file, zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        assert sum(name.endswith(".dcm") for name in names) == series.number_of_instances
        assert sum(name.endswith(".nii.gz") for name in names) == 1
        report = json.loads(archive.read("deidentified/report.json"))
    assert report["profile"] == "basic"
    assert not any("phantom" in name.lower() for name in names)


@pytest.mark.skipif(shutil.which("dcm2niix") is None, reason="Debian's dcm2niix is not installed")
@pytest.mark.parametrize("orientation", ["axial", "coronal", "sagittal", "oblique"])
def test_nifti_geometry_equals_dcm2niix(project, tmp_path, orientation):
    axes = {
        "axial": ([1, 0, 0, 0, 1, 0], [0, 0, 1]),
        "coronal": ([1, 0, 0, 0, 0, -1], [0, 1, 0]),
        "sagittal": ([0, 1, 0, 0, 0, -1], [-1, 0, 0]),
        "oblique": ([0.96, 0.28, 0, -0.28, 0.96, 0], [0, 0, 1]),
    }
    cosines, normal = axes[orientation]
    shared = {"ImageOrientationPatient": cosines, "PatientName": "Zubkov^W", "ProtocolName": "Zubkov"}
    datasets = ct_datasets(7, **shared)
    for k, dataset in enumerate(datasets):
        dataset.ImagePositionPatient = [a + 2.5 * k * b for a, b in zip([-31.3, 12.7, 88.1], normal, strict=True)]
    study = store_datasets(project, datasets).study
    services.write([study], tmp_path / "ours", Profile(), project=project, nifti=True)
    path = next((tmp_path / "ours").rglob("*.nii.gz"))
    ours = nibabel.load(path)
    folder = tmp_path / "theirs"
    folder.mkdir()
    source = next((tmp_path / "ours").rglob("*.dcm")).parent
    subprocess.run(["dcm2niix", "-o", folder, "-f", "x", "-z", "n", source], check=True, capture_output=True)
    theirs = nibabel.load(next(folder.glob("*.nii")))
    assert ours.shape == theirs.shape
    # Each may count slices from either end: the same voxel lies at the same place.
    ours, theirs = nibabel.as_closest_canonical(ours), nibabel.as_closest_canonical(theirs)
    assert np.abs(ours.affine - theirs.affine).max() < 1e-3
    assert np.array_equal(np.asanyarray(ours.dataobj), np.asanyarray(theirs.dataobj))
    assert b"zubkov" not in nibabel.load(path).header.binaryblock.lower()


def test_the_command(project, tmp_path):
    study = store_datasets(project, ct_datasets(2, **NAMED)).study
    out = io.StringIO()
    call_command("export_deidentified", project=project.slug, study=[study.study_instance_uid], out=tmp_path / "x",
                 profile="basic,shift-dates", json=True, nifti=True, stdout=out)  # fmt: skip
    report = json.loads(out.getvalue())
    assert report["profile"] == "basic,shift-dates"
    assert report["studies"][0]["series"][0]["files"] == 2
    with pytest.raises(CommandError, match="is not empty"):
        call_command("export_deidentified", project=project.slug, study=[study.study_instance_uid],
                     out=tmp_path / "x")  # fmt: skip
    with pytest.raises(CommandError, match="either a cohort or studies"):
        call_command("export_deidentified", project=project.slug, out=tmp_path / "y")
