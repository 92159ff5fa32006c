"""The PyPI dicomweb-client against a live server: what comes out is what went in."""

from __future__ import annotations

import copy
import io

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless, RLELossless

from portal.accounts.models import Role
from studies.models import ImportBatch, Instance, Series, Study
from tests import factories

pytestmark = pytest.mark.django_db(transaction=True)


def test_store_search_and_retrieve(web, project):
    slices = factories.ct_datasets(3, PatientName="Müller^Jürgen")
    answer = web.store_instances(datasets=slices)
    assert [item.ReferencedSOPInstanceUID for item in answer.ReferencedSOPSequence] == [
        d.SOPInstanceUID for d in slices
    ]
    assert "FailedSOPSequence" not in answer
    assert ImportBatch.objects.get().stored == 3

    (study,) = [pydicom.Dataset.from_json(d) for d in web.search_for_studies(search_filters={"PatientID": "P1"})]
    assert str(study.PatientName) == "Müller^Jürgen"
    assert study.ModalitiesInStudy == "CT"
    assert (study.NumberOfStudyRelatedSeries, study.NumberOfStudyRelatedInstances) == (1, 3)
    assert web.search_for_studies(search_filters={"PatientID": "P2"}) == []
    uids = (slices[0].StudyInstanceUID, slices[0].SeriesInstanceUID)
    (series,) = [pydicom.Dataset.from_json(d) for d in web.search_for_series(uids[0])]
    assert (series.SeriesInstanceUID, series.NumberOfSeriesRelatedInstances) == (uids[1], 3)
    found = web.search_for_instances(*uids, fields=["ImagePositionPatient"])
    assert [d["00200032"]["Value"][2] for d in found] == [0.0, 2.5, 5.0]

    for stored in web.retrieve_series(*uids):
        (sent,) = [d for d in slices if d.SOPInstanceUID == stored.SOPInstanceUID]
        assert stored == sent
    assert len(web.retrieve_study(uids[0])) == 3
    assert web.retrieve_instance(*uids, slices[1].SOPInstanceUID) == slices[1]

    metadata = [
        pydicom.Dataset.from_json(d, bulk_data_uri_handler=lambda *_: b"") for d in web.retrieve_series_metadata(*uids)
    ]
    for header, sent in zip(metadata, slices, strict=True):
        del header.PixelData
        expected = copy.deepcopy(sent)
        del expected.PixelData
        assert header == expected
    assert len(web.retrieve_study_metadata(uids[0])) == 3
    assert web.retrieve_instance_metadata(*uids, slices[2].SOPInstanceUID)["00200013"]["Value"] == [3]

    (frame,) = web.retrieve_instance_frames(*uids, slices[2].SOPInstanceUID, [1])
    assert frame == slices[2].PixelData
    address = web.retrieve_instance_metadata(*uids, slices[1].SOPInstanceUID)["7FE00010"]["BulkDataURI"]
    assert web.retrieve_bulkdata(address) == [slices[1].PixelData]

    picture = web.retrieve_instance_rendered(*uids, slices[0].SOPInstanceUID, media_types=("image/png",))
    assert picture.startswith(b"\x89PNG")
    assert (
        web.retrieve_instance_rendered(*uids, slices[0].SOPInstanceUID, media_types=("image/jpeg",))[:2] == b"\xff\xd8"
    )


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_compressed_frames_as_stored_and_decompressed(web, project, syntax):
    (dataset,) = factories.ct_datasets(1, PixelRepresentation=0)
    plain = dataset.PixelData
    dataset.compress(syntax, generate_instance_uid=False)
    web.store_instances(datasets=[dataset])
    uids = (dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID)
    (stored,) = web.retrieve_instance_frames(*uids, [1], media_types=(("application/octet-stream", "*"),))
    assert stored == pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
    (decoded,) = web.retrieve_instance_frames(
        *uids, [1], media_types=(("application/octet-stream", "1.2.840.10008.1.2.1"),)
    )
    assert decoded == plain
    kind = {RLELossless: "image/dicom-rle", JPEG2000Lossless: "image/jp2"}[syntax]
    if syntax == JPEG2000Lossless:
        assert web.retrieve_instance_frames(*uids, [1], media_types=((kind, syntax),)) == [stored]
    explicit = web.retrieve_instance(*uids, media_types=(("application/dicom", "1.2.840.10008.1.2.1"),))
    assert explicit.PixelData == plain
    assert web.retrieve_instance(*uids).file_meta.TransferSyntaxUID == syntax


def test_many_frames(web, project):
    rng = np.random.default_rng(7)
    volume = rng.integers(0, 255, (5, 16, 12), dtype=np.uint8)
    dataset = factories.ct_slice(
        Rows=16,
        Columns=12,
        NumberOfFrames=5,
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        PixelRepresentation=0,
        SOPClassUID="1.2.840.10008.5.1.4.1.1.7.2",
        PixelData=volume.tobytes(),
    )
    web.store_instances(datasets=[dataset])
    uids = (dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID)
    assert web.retrieve_instance_frames(*uids, [4, 1, 5]) == [
        volume[3].tobytes(),
        volume[0].tobytes(),
        volume[4].tobytes(),
    ]


def test_a_mixed_store_answers_for_each_object(web, project):
    good, clash = factories.ct_datasets(2)
    web.store_instances(datasets=[clash])
    clash.PatientSex = "M"
    session, address = web._session, f"{web.base_url}/studies"
    bodies = [factories.part10_bytes(good), factories.part10_bytes(clash), b"nonsense" * 40]
    mark = b"xxBOUNDARYxx"
    body = b"\r\n" + b"".join(
        b"--" + mark + b"\r\nContent-Type: application/dicom\r\n\r\n" + b + b"\r\n" for b in bodies
    )
    body += b"--" + mark + b"--\r\n"
    kind = f'multipart/related; type="application/dicom"; boundary="{mark.decode()}"'
    answer = session.post(address, data=body, headers={"Content-Type": kind})
    assert answer.status_code == 202
    found = answer.json()
    assert [i["00081155"]["Value"][0] for i in found["00081199"]["Value"]] == [good.SOPInstanceUID]
    failures = {
        i.get("00081155", {}).get("Value", [""])[0]: i["00081197"]["Value"][0] for i in found["00081198"]["Value"]
    }
    assert failures == {clash.SOPInstanceUID: 0x0111, "": 0xC000}
    assert session.post(address, data=io.BytesIO(body), headers={"Content-Type": kind}).status_code in (200, 202)
    assert session.post(address, data=body[:-40], headers={"Content-Type": kind}).status_code == 400
    assert session.post(address, data=body, headers={"Content-Type": "text/plain"}).status_code == 415
    other = session.post(f"{address}/1.2.3", data=body, headers={"Content-Type": kind})
    assert other.status_code == 409
    assert {i["00081197"]["Value"][0] for i in other.json()["00081198"]["Value"]} == {0xA900, 0xC000}
    alone = session.post(
        address, data=factories.part10_bytes(factories.ct_slice()), headers={"Content-Type": "application/dicom"}
    )
    assert alone.status_code == 200
    assert Instance.objects.count() == 3
    assert not list((factories.store.absolute_path("incoming")).iterdir())


def test_what_a_person_stores_through_dicomweb_is_theirs(web, project, alice):
    report = factories.ct_slice(SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11", Modality="SR", PixelData=None, Rows=None)
    image = factories.ct_slice(StudyInstanceUID=report.StudyInstanceUID)
    web.store_instances(datasets=[report, image])
    rows = {s.modality: (s.origin, s.created_by) for s in Series.objects.all()}
    assert rows == {"SR": ("annotation", alice), "CT": ("acquired", alice)}


def test_several_projects_need_the_project_root(web, alice, project):
    other = factories.ProjectFactory(slug="other")
    factories.MembershipFactory(project=other, user=alice, role=Role.ENGINEER)
    dataset = factories.ct_slice()
    body, kind = factories.part10_bytes(dataset), {"Content-Type": "application/dicom"}
    answer = web._session.post(f"{web.base_url}/studies", data=body, headers=kind)
    assert (answer.status_code, "/dicomweb/projects/" in answer.json()["detail"]) == (409, True)
    assert web._session.post(f"{web.base_url}/projects/other/studies", data=body, headers=kind).status_code == 200
    assert Study.objects.get().project == other
    again = factories.ct_slice(
        1, StudyInstanceUID=dataset.StudyInstanceUID, SeriesInstanceUID=dataset.SeriesInstanceUID
    )
    web.store_instances(datasets=[again])  # the project that holds the study is found
    assert Study.objects.get().number_of_instances == 2
