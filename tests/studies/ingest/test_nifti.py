"""NIfTI import, checked against nibabel and SimpleITK reading the same files."""

from __future__ import annotations

import gzip
import json
from io import StringIO
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from django.core.management import CommandError, call_command

from studies.cohorts.models import Case, Cohort, ReferenceStandard
from studies.models import Instance, Origin, Refusal, Series, Study
from studies.volumes import load_label_map, load_volume
from tests.factories import ProjectFactory
from tests.studies.dicom.slices import rotation

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data" / "hippocampus"
LABELS = "1=Anterior hippocampus,2=Posterior hippocampus"

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def media(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path / "media"


@pytest.fixture
def project():
    return ProjectFactory(slug="brains")


@pytest.fixture
def folder(tmp_path):
    """Five sound pairs with oblique affines."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for number in range(5):
        add_pair(tmp_path, f"sub-{number}", seed=number)
    return tmp_path


def oblique() -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = rotation(12, -25, 40) * [0.9, 1.1, 2.0]
    affine[:3, 3] = (-20.5, 33.25, -7)
    return affine


def add_pair(folder, name, *, seed=0, image=None, mask=None, affine=None, mask_affine=None, suffix=".nii.gz"):
    random = np.random.default_rng(seed)
    affine = oblique() if affine is None else affine
    image = random.integers(0, 900, (9, 8, 6)).astype(np.int16) if image is None else image
    mask = random.integers(0, 3, (9, 8, 6)).astype(np.uint8) if mask is None else mask
    nib.save(nib.Nifti1Image(image, affine), folder / "images" / f"{name}{suffix}")
    nib.save(
        nib.Nifti1Image(mask, affine if mask_affine is None else mask_affine), folder / "masks" / f"{name}{suffix}"
    )


def run(folder, *options, images="images", masks="masks"):
    out = StringIO()
    call_command(
        "import_nifti", str(folder / images), "--masks", str(folder / masks), "--labels", LABELS,
        "--project", "brains", "--cohort", "Crops", "--json", *options, stdout=out,
    )  # fmt: skip
    return json.loads(out.getvalue())


def test_images_masks_cohort_and_reference_arrive(folder, project):
    summary = run(folder)
    assert (summary["stored"], summary["duplicate"], summary["refused"]) == (5, 0, [])
    assert summary["splits"] == {"train": 3, "validation": 1, "test": 1}
    cohort = Cohort.objects.get(pk=summary["cohort"])
    assert cohort.frozen
    reference = ReferenceStandard.objects.get(pk=summary["reference"])
    assert reference.labels == [
        {"number": 1, "name": "Anterior hippocampus"},
        {"number": 2, "name": "Posterior hippocampus"},
    ]
    assert set(Study.objects.values_list("patient__patient_id", flat=True)) == {f"sub-{n}" for n in range(5)}
    assert set(Series.objects.values_list("modality", "origin")) == {("MR", "acquired"), ("SEG", "reference")}
    for label in reference.case_labels.select_related("case__study__patient", "case__image", "segmentation"):
        name = f"{label.case.study.patient.patient_id}.nii.gz"
        image, mask = nib.load(folder / "images" / name), nib.load(folder / "masks" / name)
        volume = load_volume(label.case.image)
        label_map = load_label_map(label.segmentation, volume, reference.labels)
        # Every voxel of the file, found by its place in the patient (RAS → LPS).
        index_of = np.linalg.inv(volume.affine) @ np.diag([-1, -1, 1, 1]) @ image.affine
        values, labels = np.asarray(image.dataobj), np.asarray(mask.dataobj)
        for i, j, k in np.ndindex(*values.shape):
            x, y, z, _ = index_of @ [i, j, k, 1]
            place = tuple(np.rint([z, y, x]).astype(int))
            np.testing.assert_allclose([z, y, x], place, atol=1e-3)
            assert volume.array[place] == values[i, j, k]
            assert label_map[place] == labels[i, j, k]


def test_the_same_files_make_a_second_cohort_in_folds(folder, project):
    first = run(folder)
    second = run(folder, "--cohort", "In folds", "--folds", "5")
    assert (second["stored"], second["duplicate"]) == (0, 5)
    patients = Cohort.objects.get(pk=second["cohort"]).patients
    assert sorted(patients.values_list("fold", flat=True)) == [0, 1, 2, 3, 4]
    masks = [
        set(ReferenceStandard.objects.get(pk=made["reference"]).case_labels.values_list("segmentation", flat=True))
        for made in (first, second)
    ]
    assert masks[0] == masks[1]


def test_importing_twice_adds_nothing(folder, project):
    first = run(folder)
    counts = [model.objects.count() for model in (Study, Series, Instance, Case, ReferenceStandard, Cohort)]
    second = run(folder)
    assert (second["stored"], second["duplicate"]) == (0, 5)
    assert [second[key] for key in ("cohort", "reference")] == [first[key] for key in ("cohort", "reference")]
    assert counts == [model.objects.count() for model in (Study, Series, Instance, Case, ReferenceStandard, Cohort)]


def test_an_import_that_was_cut_short_is_completed(folder, project):
    summary = run(folder, "--no-freeze")
    lost = Instance.objects.filter(series__modality="MR").first()
    lost.delete()
    again = run(folder, "--no-freeze")
    assert (again["stored"], again["duplicate"], again["cases"]) == (1, 4, 5)
    assert Instance.objects.filter(sop_instance_uid=lost.sop_instance_uid).exists()
    assert again["reference"] == summary["reference"]


def test_more_files_join_an_open_cohort_and_make_the_next_reference_version(folder, project):
    run(folder, "--no-freeze")
    add_pair(folder, "sub-9", seed=9)
    summary = run(folder)
    assert (summary["stored"], summary["cases"], summary["reference_version"]) == (1, 6, 2)
    assert ReferenceStandard.objects.get(pk=summary["reference"]).case_labels.count() == 6


def test_a_frozen_cohort_takes_no_more_files_and_says_so(folder, project):
    run(folder)
    add_pair(folder, "sub-9", seed=9)
    summary = run(folder)
    assert [(one["file"], one["code"]) for one in summary["refused"]] == [("sub-9.nii.gz", "cohort_frozen")]
    assert not Study.objects.filter(patient__patient_id="sub-9").exists()


def test_bad_pairs_are_refused_one_by_one_and_the_others_go_on(folder, project):
    grid = np.zeros((9, 8, 6), np.uint8)
    shifted, sheared = oblique(), oblique()
    shifted[0, 3] += 1
    sheared[:3, 2] += 0.3 * sheared[:3, 0]
    image = np.ones((9, 8, 6), np.float32)
    add_pair(folder, "a-shape", mask=np.zeros((9, 8, 5), np.uint8))
    add_pair(folder, "b-affine", mask=grid, mask_affine=shifted)
    add_pair(folder, "c-label", mask=grid + 7)
    add_pair(folder, "d-4d", image=np.zeros((9, 8, 6, 3), np.int16))
    add_pair(folder, "e-nan", image=np.where(np.arange(6) == 3, np.nan, image * 1.5))
    add_pair(folder, "f-shear", affine=sheared)
    add_pair(folder, "g-truncated")
    path = folder / "images" / "g-truncated.nii.gz"
    path.write_bytes(path.read_bytes()[:-200])
    (folder / "masks" / "h-text.nii.gz").write_bytes(gzip.compress(b"no NIfTI at all"))
    nib.save(nib.Nifti1Image(image, oblique()), folder / "images" / "h-text.nii.gz")
    nib.save(nib.Nifti1Image(image, oblique()), folder / "images" / "i-alone.nii.gz")
    nib.save(nib.Nifti1Image(grid, oblique()), folder / "masks" / "j-alone.nii.gz")
    add_pair(folder, "k-fraction", mask=grid + np.float32(0.5))
    (folder / "images" / "l-empty.nii.gz").write_bytes(b"")
    (folder / "masks" / "l-empty.nii.gz").write_bytes(b"")
    filled = np.random.default_rng(1).normal(size=(9, 8, 6))
    filled[0, 0, 0] = -1e37
    add_pair(folder, "m-fill", image=filled)
    (folder / "images" / "._sub-1.nii.gz").write_bytes(b"left by a Mac")
    summary = run(folder)
    assert summary["stored"] == 5
    assert {one["file"].split(".")[0]: one["code"] for one in summary["refused"]} == {
        "a-shape": "mask_shape",
        "b-affine": "mask_affine",
        "c-label": "unknown_label",
        "d-4d": "not_3d",
        "e-nan": "not_finite",
        "f-shear": "sheared",
        "g-truncated": "unreadable",
        "h-text": "unreadable",
        "i-alone": "missing_mask",
        "j-alone": "missing_image",
        "k-fraction": "unknown_label",
        "l-empty": "unreadable",
        "m-fill": "range",
    }
    assert all(len(one["reason"]) > 30 for one in summary["refused"])
    assert Refusal.objects.count() == 13
    assert Study.objects.count() == 5


def test_a_single_pair_of_files_cannot_be_split_but_is_kept(folder, project):
    with pytest.raises(CommandError, match="1 patient"):
        run(folder, images="images/sub-0.nii.gz", masks="masks/sub-1.nii.gz")
    assert Case.objects.count() == 1
    assert not Cohort.objects.get().frozen


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--labels", "Liver"], "not a label"),
        (["--labels", ""], "at least one label"),
        (["--fractions", "0.5,0.1,0.1"], "add up to 1"),
        (["--project", "nowhere"], "no project"),
        (["--masks", "/nowhere"], "no file or folder"),
        (["--user", "nobody"], "no user"),
    ],
)
def test_what_cannot_start_says_why_and_leaves_nothing(folder, project, options, words):
    with pytest.raises(CommandError, match=words):
        run(folder, *options)
    assert not Study.objects.exists()
    assert not Cohort.objects.exists()


def test_the_project_is_made_on_request(folder):
    assert run(folder, "--create-project")["project"] == "brains"


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.exists(), reason="needs the development data beside the checkout")
def test_hippocampus_crops_read_back_in_simpleitk_as_the_files_they_came_from(project, tmp_path):
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        for path in sorted((SHARED / kind).iterdir())[:4]:
            (tmp_path / kind / path.name).symlink_to(path)
    summary = run(tmp_path, masks="labels")
    assert summary["stored"] == 4
    for series in Series.objects.filter(origin=Origin.ACQUIRED).select_related("study__patient"):
        target = tmp_path / f"out-{series.pk}"
        target.mkdir()
        for instance in series.instances.all():
            source = tmp_path / "media" / instance.file
            (target / f"{instance.pk}.dcm").write_bytes(source.read_bytes())
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(target)))
        ours = reader.Execute()
        theirs = sitk.ReadImage(str(tmp_path / "images" / f"{series.study.patient.patient_id}.nii.gz"))
        assert ours.GetSize() == theirs.GetSize()
        for name in ("GetOrigin", "GetSpacing", "GetDirection"):
            np.testing.assert_allclose(getattr(ours, name)(), getattr(theirs, name)(), atol=1e-3)
        a, b = sitk.GetArrayFromImage(ours), sitk.GetArrayFromImage(theirs)
        np.testing.assert_allclose(a, b, atol=float(np.ptp(b)) / 65535 / 2 * 1.01 if b.dtype.kind == "f" else 0)
        header = pydicom.dcmread(next(target.iterdir()))
        assert header.PatientID == series.study.patient.patient_id


def test_when_everything_was_refused_the_command_says_so_in_words(tmp_path, project):
    (tmp_path / "images").mkdir()
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((3000, 3000, 3000))  # 54 GB unpacked, of which a packed file of some kB could be full
    start = header.binaryblock + b"\0\0\0\0" + bytes(1 << 20)
    (tmp_path / "images" / "bomb.nii.gz").write_bytes(gzip.compress(start))
    (tmp_path / "images" / "text.nii.gz").write_bytes(gzip.compress(b"no NIfTI at all"))
    out = StringIO()
    with pytest.raises(CommandError, match="every file was refused"):
        call_command(
            "import_nifti", str(tmp_path / "images"), "--project", "brains", "--cohort", "Crops", stdout=out
        )  # fmt: skip
    shown = out.getvalue()
    assert "[too_large] The volume has 54,000,000,000 bytes" in shown
    assert "0 stored, 0 already there, 2 refused · no cohort" in shown
    assert "None" not in shown
    assert not Cohort.objects.exists()
