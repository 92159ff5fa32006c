"""Exports as a whole: files, names, zip, sign-off, the way back."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pydicom
import pytest
from django.conf import settings as configured
from django.core.management import CommandError, call_command
from PIL import Image, ImageDraw, ImageFont

from portal.accounts.audit.models import AuditEvent
from portal.settings.environment import kept_deid_key
from studies.cohorts import services as cohorts
from studies.deid import keys, pixels, services
from studies.deid.burned_in import Box
from studies.deid.errors import DeidError
from studies.deid.models import Export, PixelReview
from studies.deid.profile import Profile
from studies.deid.writing import LeakFound, Order, questions, write
from studies.dicom import phantom
from studies.dicom.segmentation import Algorithm
from studies.dicom.segmentation import write as segmentation
from studies.dicom.volume import from_datasets
from studies.models import Origin
from tests.factories import ProjectFactory, UserFactory, ct_datasets, ct_slice, member, store_datasets
from tests.studies.deid.test_datasets import planted, report

pytestmark = pytest.mark.django_db

NAMED = {"PatientName": "Zubkov^Wilhelmina"}  # the tests' usual name also stands in their manufacturer's


@pytest.fixture(autouse=True)
def media(settings, tmp_path_factory):
    settings.MEDIA_ROOT = tmp_path_factory.mktemp("media")


@pytest.fixture
def project():
    return ProjectFactory()


def out_of(studies, tmp_path, profile="basic", **order):
    """The report of an export into `tmp_path`."""
    chosen = profile if isinstance(profile, Profile) else Profile.parse(profile)
    return write(Order(studies[0].project, studies, chosen, **order), tmp_path)


def written_in(folder):
    return [pydicom.dcmread(path) for path in sorted(folder.rglob("*.dcm"))]


def test_planted_identifiers_leave_no_trace_in_the_export(project, tmp_path):
    study = store_datasets(project, [planted()]).study
    out_of([study], tmp_path, "basic,shift-dates,clean-descriptors")
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()).lower()
    names = " ".join(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")).lower()
    for secret in ("zubkov", "wilhelmina", "774411", "19310704", study.study_instance_uid):
        assert secret.encode() not in everything
        assert secret not in names


def test_a_leak_names_file_and_attribute_and_leaves_nothing(project, tmp_path):
    # A kept, unlisted attribute that somebody wrote the name into.
    study = store_datasets(project, [ct_slice(PatientName="Zubkov^W", Manufacturer="Zubkov")]).study
    with pytest.raises(LeakFound, match=r"Manufacturer \(name or identifier\)") as failed:
        out_of([study], tmp_path)
    assert "zubkov" not in str(failed.value).lower()
    assert {(hit["file"].rpartition("/")[2], hit["attribute"]) for hit in failed.value.hits} >= {
        ("0001.dcm", "Manufacturer")
    }
    assert list(tmp_path.iterdir()) == []
    out_of([study], tmp_path, Profile.parse("basic", ["Manufacturer"]))


def test_an_identifier_in_a_private_attribute_that_was_called_safe_stops_the_export(project, tmp_path):
    source = ct_slice(**NAMED, PatientID="4711-0815")
    source.private_block(0x0029, "ACME", create=True).add_new(0x20, "DS", ["1.5", "2"])
    source.private_block(0x0029, "ACME").add_new(0x21, "SH", "4711-0815")
    study = store_datasets(project, [source]).study
    safe = Profile.parse("basic,retain-safe-private", keep_private=["(0029,xx20) ACME"])
    assert out_of([study], tmp_path / "safe", safe)["private_kept"] == ["(0029,xx20) ACME"]
    assert written_in(tmp_path / "safe")[0][0x00291020].value == [1.5, 2]
    wrong = Profile.parse("basic,retain-safe-private", keep_private=["(0029,xx20) ACME", "(0029,xx21) ACME"])
    with pytest.raises(LeakFound) as failed:
        out_of([study], tmp_path / "wrong", wrong)
    assert "(0029,1021)" in failed.value.cause
    assert "0001.dcm" in failed.value.cause
    assert "4711" not in str(failed.value)
    assert not (tmp_path / "wrong" / "deidentified").exists()


def test_one_patient_is_one_pseudonym_over_time_and_only_administrators_go_back(project, tmp_path):
    first = store_datasets(project, ct_datasets(1, **NAMED, PatientID="P7")).study
    second = store_datasets(project, ct_datasets(1, **NAMED, PatientID="P7", StudyDate="20250101")).study
    other = store_datasets(project, ct_datasets(1, **NAMED, PatientID="P8")).study
    found = [out_of([study], tmp_path / str(study.pk))["studies"][0]["patient"] for study in (first, second, other)]
    assert found[0] == found[1] != found[2]
    with pytest.raises(DeidError):
        keys.reidentify(project, found[0], by=member(project))
    assert not AuditEvent.objects.filter(action="pseudonym.reveal").exists()
    admin = UserFactory(is_superuser=True)
    assert keys.reidentify(project, found[0], by=admin) == first.patient
    asked = AuditEvent.objects.get(action="pseudonym.reveal")
    assert (asked.user, asked.patient, asked.project) == (admin, first.patient_id, project)
    with pytest.raises(DeidError, match="No patient"):
        keys.reidentify(ProjectFactory(), found[0], by=admin)


def test_the_key_lies_in_a_private_file_and_stays(tmp_path):
    key = kept_deid_key(tmp_path)
    assert (tmp_path / "deid_key").stat().st_mode & 0o777 == 0o600
    assert kept_deid_key(tmp_path) == key
    assert len(key) > 40


def test_another_key_or_project_gives_other_pseudonyms(project, settings):
    mine = keys.keyed(project).patient("P1")
    assert mine == keys.keyed(project).patient("P1")
    assert keys.keyed(ProjectFactory()).patient("P1") != mine
    settings.DEID_KEY = configured.DEID_KEY + "x"
    assert keys.keyed(project).patient("P1") != mine


def test_segmentations_and_reports_go_along_under_the_same_identity(project, tmp_path):
    datasets = ct_datasets(3, **NAMED, PatientID="MRN-774411")
    study = store_datasets(project, datasets).study
    label_map = np.zeros(from_datasets(datasets).shape, np.uint8)
    label_map[1, 4:9, 5:10] = 1
    mask = segmentation(datasets, label_map, [{"number": 1, "name": "Liver"}], algorithm=Algorithm("test", "1"))
    mask.PatientID = "BLINDED-7"
    store_datasets(project, [mask], origin=Origin.MODEL)
    words = report()
    words.StudyInstanceUID, words.PatientID = study.study_instance_uid, "MRN-774411"
    words.ContentSequence = pydicom.Sequence(item for item in words.ContentSequence if item.ValueType != "CODE")
    store_datasets(project, [words], origin=Origin.MODEL)
    manager = member(project)
    first = out_of([study], tmp_path / "images", by=manager)
    assert [row["modality"] for row in first["studies"][0]["series"]] == ["CT"]
    second = out_of([study], tmp_path / "more", by=manager, results=True)
    assert second["studies"][0]["left_out"] == [
        {"modality": "SR", "left_out": "needs the option clean-structured-content"}
    ]
    out_of([study], tmp_path / "all", "basic,clean-structured-content", by=manager, results=True)
    held = {one.Modality: one for one in written_in(tmp_path / "all")}
    images = {str(one.SOPInstanceUID) for one in written_in(tmp_path / "all") if one.Modality == "CT"}
    assert set(held) == {"CT", "SEG", "SR"}
    assert len({(str(one.PatientID), str(one.StudyInstanceUID)) for one in held.values()}) == 1
    referenced = held["SEG"].ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {str(item.ReferencedSOPInstanceUID) for item in referenced} <= images
    assert held["SEG"].SegmentSequence[0].SegmentLabel == "Liver"
    assert b"BLINDED" not in b"".join(path.read_bytes() for path in (tmp_path / "all").rglob("*.dcm"))


def lettered(text="DOE JOHN 1960"):
    """A CT slice with text burned in at (10, 20)."""
    image = Image.fromarray(np.full((128, 256), 300, np.int32), mode="I")
    ImageDraw.Draw(image).text((20, 10), text, fill=2000, font=ImageFont.load_default(size=16))
    ramp = np.add.outer(np.arange(128), np.arange(256))
    array = np.asarray(image) + ramp * (np.asarray(image) < 1000)
    return ct_slice(
        **NAMED, rows=128, columns=256, PixelData=array.astype("<i2").tobytes(), WindowCenter=None, WindowWidth=None
    )


def test_text_in_the_pixels_waits_for_a_person(project, tmp_path):
    series = store_datasets(project, [lettered()])
    with pytest.raises(DeidError) as waiting:
        out_of([series.study], tmp_path)
    assert waiting.value.code == "sign_off"
    review = PixelReview.objects.get(series=series)
    assert "lines of text" in review.reasons[-1]
    crop = pixels.picture(review, 0, 0)
    assert crop.shape[0] < 128
    assert crop.max() == 255
    manager = member(project)
    pixels.sign(review, decision="blank", by=manager)
    done = out_of([series.study], tmp_path, "basic,clean-pixels")
    assert done["studies"][0]["series"][0]["pixels"]["by"] == manager.username
    told = json.loads((tmp_path / "deidentified" / "report.json").read_text())
    assert "by" not in told["studies"][0]["series"][0]["pixels"]  # names of the staff stay here
    (written,) = written_in(tmp_path)
    before, after = lettered().pixel_array, written.pixel_array
    assert (before[10:30, 20:140] > 1500).sum() > 100
    assert (after[10:30, 20:140] > 1500).sum() == 0
    assert np.array_equal(before[60:], after[60:])
    assert written.BurnedInAnnotation == "NO"
    assert "113101" in [item.CodeValue for item in written.DeidentificationMethodCodeSequence]


def test_places_that_a_person_drew_are_blanked_in_every_frame(project, tmp_path):
    pixel_data = np.full((3, 40, 50, 3), 200, np.uint8)
    source = ct_slice(
        **NAMED, Modality="US", SOPClassUID="1.2.840.10008.5.1.4.1.1.3.1", SamplesPerPixel=3, NumberOfFrames=3,
        PhotometricInterpretation="RGB", PlanarConfiguration=0, BitsAllocated=8, BitsStored=8, HighBit=7,
        PixelRepresentation=0, rows=40, columns=50, PixelData=pixel_data.tobytes(), RescaleSlope=None,
        RescaleIntercept=None, WindowCenter=None, WindowWidth=None, FrameTime="40",
    )  # fmt: skip
    study = store_datasets(project, [source]).study
    (review,) = questions(Order(project, [study]))
    assert review.pictures
    manager = member(project)
    for wrong in ([Box(5, 5, 5, 9)], [Box(9, 5, 5, 9)], []):
        with pytest.raises(DeidError):
            pixels.sign(review, decision="blank", by=manager, blanked=wrong)
    pixels.sign(review, decision="blank", by=manager, blanked=[Box(10, 20, 15, 30)])
    out_of([study], tmp_path)
    after = written_in(tmp_path)[0].pixel_array
    assert (after[:, 10:15, 20:30] == 0).all()
    assert (after[:, 25:] == 200).all()


def test_a_series_that_is_kept_back_is_not_exported(project, tmp_path):
    kept_back = store_datasets(project, [ct_slice(**NAMED, Modality="US")])
    pixels.sign(pixels.look(kept_back), decision="withhold", by=member(project))
    with pytest.raises(DeidError, match="Every series of these studies is left out"):
        out_of([kept_back.study], tmp_path / "alone")
    other = store_datasets(project, ct_datasets(2, **NAMED, StudyInstanceUID=kept_back.study.study_instance_uid))
    done = out_of([other.study], tmp_path / "both")
    assert [row.get("left_out", "") for row in done["studies"][0]["series"]] == ["kept back by sign-off", ""]
    assert {one.Modality for one in written_in(tmp_path / "both")} == {"CT"}


def test_other_images_ask_for_the_sign_off_again(project):
    datasets = ct_datasets(2, **NAMED, Modality="US")
    series = store_datasets(project, datasets[:1])
    pixels.sign(pixels.look(series), decision="clear", by=member(project))
    assert pixels.look(series).decision == "clear"
    assert pixels.look(series, every_frame=True).decision == "clear"
    store_datasets(project, datasets[1:])
    assert pixels.look(series).decision == ""


def test_an_export_becomes_a_zip_and_may_be_deleted(project):
    series = store_datasets(project, phantom.make(1).datasets())
    cohort = cohorts.create(project=project, name="All", by=None)
    cohorts.add_studies(cohort, [series.study])
    export = services.order(project=project, profile=Profile(), by=member(project), cohort=cohort, nifti=True)
    services.make(export)
    assert export.state == Export.State.DONE
    with services.read_zip(export) as file, zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        assert sum(name.endswith(".dcm") for name in names) == series.number_of_instances
        assert sum(name.endswith(".nii.gz") for name in names) == 1
        told = json.loads(archive.read("deidentified/report.json"))
    assert told["profile"] == "basic"
    assert not any("phantom" in name.lower() for name in names)
    services.discard(export, by=export.created_by)
    with pytest.raises(DeidError, match="has no file"):
        services.read_zip(export)
    kinds = ("export.order", "export.write", "study.deidentify", "export.discard")
    told = AuditEvent.objects.filter(action__in=kinds).order_by("pk")
    assert [(event.action, event.user) for event in told] == [(kind, export.created_by) for kind in kinds]


@pytest.mark.parametrize("stops", [KeyboardInterrupt, DeidError("leak", "Found.")])
def test_an_export_that_stops_leaves_no_file(project, stops):
    series = store_datasets(project, ct_datasets(2, **NAMED))
    export = services.order(project=project, profile=Profile(), by=member(project), studies=[series.study])

    def report(fraction, text):
        if fraction > 0:
            raise stops

    with pytest.raises(type(stops) if isinstance(stops, Exception) else stops):
        services.make(export, report)
    export.refresh_from_db()
    assert export.state == Export.State.FAILED
    assert export.failure
    assert list(services.media("exports").iterdir()) == []
    services.queued(export)
    services.make(export)
    assert [path.suffix for path in services.media("exports").iterdir()] == [".zip"]


def test_studies_of_another_project_are_refused(project):
    foreign = store_datasets(ProjectFactory(), ct_datasets(1)).study
    with pytest.raises(DeidError, match="another project"):
        services.order(project=project, profile=Profile(), by=None, studies=[foreign])
    with pytest.raises(DeidError, match="no study"):
        services.order(project=project, profile=Profile(), by=None)


def test_the_command(project, tmp_path):
    study = store_datasets(project, ct_datasets(2, **NAMED)).study
    out = io.StringIO()
    call_command("export_deidentified", project=project.slug, study=[study.study_instance_uid], out=tmp_path / "x",
                 profile="basic,shift-dates", json=True, nifti=True, stdout=out)  # fmt: skip
    told = json.loads(out.getvalue())
    assert told["profile"] == "basic,shift-dates"
    assert told["studies"][0]["series"][0]["files"] == 2
    with pytest.raises(CommandError, match="is not empty"):
        call_command("export_deidentified", project=project.slug, study=[study.study_instance_uid],
                     out=tmp_path / "x")  # fmt: skip
    with pytest.raises(CommandError, match="either a cohort or studies"):
        call_command("export_deidentified", project=project.slug, out=tmp_path / "y")
    with pytest.raises(CommandError, match="no DICOM keyword"):
        call_command("export_deidentified", project=project.slug, study=[study.study_instance_uid], remove=["Nmae"],
                     out=tmp_path / "y")  # fmt: skip


def test_the_command_signs_for_a_manager_only(project, tmp_path):
    study = store_datasets(project, [ct_slice(**NAMED, Modality="US")]).study
    call = {"project": project.slug, "study": [study.study_instance_uid], "out": tmp_path / "x", "sign_off": "clear"}
    with pytest.raises(CommandError, match="--sign-off clear"):
        call_command("export_deidentified", **(call | {"sign_off": None}))
    with pytest.raises(CommandError, match="manager of the project"):
        call_command("export_deidentified", **call, by=UserFactory().username)
    call_command("export_deidentified", **call, by=member(project).username, stdout=io.StringIO())
    assert written_in(tmp_path)[0].Modality == "US"
    assert AuditEvent.objects.get(action="study.deidentify").patient == study.patient_id
