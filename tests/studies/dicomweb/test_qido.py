"""QIDO-RS: every kind of matching, at every level, and what each answer holds."""

from __future__ import annotations

import json

import pytest
from django.urls import include, path
from pydicom.dataset import Dataset

from studies.dicomweb import scope as scopes
from studies.dicomweb.urls import urls_for
from tests import factories

pytestmark = pytest.mark.django_db


@pytest.fixture
def three(project):
    """Three studies of three patients."""
    item = Dataset()
    item.CodeValue, item.CodeMeaning = "T-28000", "Lung"
    return [
        factories.make_ct_series(
            project, 2, PatientName="Smith^John", PatientID="A-001", AccessionNumber="X100", StudyDate="20200110",
            StudyDescription="CT Chest with contrast", StudyInstanceUID="1.2.1", SeriesInstanceUID="1.2.1.1",
            AnatomicRegionSequence=[item], KVP="100",
            AcquisitionDateTime="20200110101500.5", StudyTime="101500", FrameOfReferenceUID="1.2.1.7",
        ),
        factories.make_ct_series(
            project, 1, PatientName="Smithers^Joan", PatientID="A-002", AccessionNumber="X200", StudyDate="20210615",
            StudyDescription="100% body_scan", StudyInstanceUID="1.2.2", SeriesInstanceUID="1.2.2.1", Modality="MR",
            BodyPartExamined="BRAIN",
        ),
        factories.make_ct_series(
            project, 1, PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう", PatientID="B-001", AccessionNumber="Y1",
            StudyDate="20220301", StudyDescription="body scan", StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.1",
        ),
    ]  # fmt: skip


def uids(response, tag="0020000D"):
    assert response.status_code == 200, response.content
    return sorted(one[tag]["Value"][0].removeprefix("1.2.") for one in response.json())


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", "1 2 3"),
        ("PatientID=A-001", "1"),
        ("00100020=A-001", "1"),
        ("PatientID=A-*", "1 2"),
        ("PatientID=A-%2A", "1 2"),
        ("PatientID=?-001", "1 3"),
        ("PatientID=*", "1 2 3"),
        ("PatientID=", "1 2 3"),
        ("PatientID=a-0_1", ""),
        ("PatientName=smith^john", "1"),
        ("PatientName=Smith*", "1 2"),
        ("PatientName=Smith", "1"),
        ("PatientName=jo&fuzzymatching=true", "1 2"),
        ("PatientName=smi jo&fuzzymatching=true", "1 2"),
        ("PatientName=*mith*&fuzzymatching=true", "1 2"),
        ("PatientName=hn&fuzzymatching=true", ""),
        ("PatientName=*太郎*", "3"),
        ("StudyDate=20200110", "1"),
        ("StudyDate=20200101-20211231", "1 2"),
        ("StudyDate=20210101-", "2 3"),
        ("StudyDate=-20210101", "1"),
        ("StudyInstanceUID=1.2.1,1.2.3", "1 3"),
        ("StudyInstanceUID=1.2.1\\1.2.2", "1 2"),
        ("StudyInstanceUID=1.2.1&StudyInstanceUID=1.2.1", "1"),
        ("AccessionNumber=X*", "1 2"),
        ("ModalitiesInStudy=MR", "2"),
        ("ModalitiesInStudy=CT\\MR", "1 2 3"),
        ("StudyDescription=*chest*", "1"),
        ("StudyDescription=100%25 body_scan", "2"),
        ("StudyDescription=100%25*", "2"),
        ("StudyDescription=body?scan", "3"),
        ("PatientSex=F&PatientID=B*", "3"),
        ("PatientBirthDate=19600101", "1 2 3"),
        ("KVP=100", "1"),
        ("KVP=100.0", "1"),
        ("StudyTime=1010-1020&PatientID=A-001", "1"),
        ("StudyTime=1016-1020&PatientID=A-001", ""),
        ("AcquisitionDateTime=20200110-20200110", "1"),
        ("AcquisitionDateTime=202001101016-", ""),
        ("AcquisitionDateTime=-20200110101600", "1"),
        ("00080061=MR", "2"),
        ("Modality=MR", "2"),
        ("PatientName=%2Amith%2A&PatientID=%3F-002", "2"),
        ("AnatomicRegionSequence.CodeMeaning=l?ng", "1"),
        ("AnatomicRegionSequence.CodeValue=T-29*", ""),
        ("AnatomicRegionSequence.CodeValue=T-28*", "1"),
        ("00082218.00080100=T-28000", "1"),
        ("SOPClassUID=1.2.3", ""),
    ],
)
def test_matching_studies(three, root, query, expected):
    assert uids(root(f"/studies?{query}")) == expected.split()


def test_paging(three, root):
    assert uids(root("/studies?limit=2")) == ["2", "3"]
    rest = root("/studies?limit=2&offset=2")
    assert uids(rest) == ["1"]
    assert rest["X-Total-Count"] == root("/studies")["X-Total-Count"] == "3"
    assert "X-Total-Count" not in root("/studies?limit=2")  # how many there are would have to be counted
    assert root("/studies?limit=0").json() == []
    assert root("/studies?offset=9").json() == []


@pytest.mark.parametrize(
    "query",
    ["Nonsense=1", "StudyDate=2020", "StudyDate=20201340", "limit=-1", "limit=x", "SeriesNumber=x", "includefield=Nope",
     "PatientID=" + "*a" * 20],
)  # fmt: skip
def test_what_makes_no_sense_is_answered_with_400_and_words(three, root, query):
    answer = root(f"/series?{query}")
    assert answer.status_code == 400
    assert answer.json()["detail"]


def test_other_media_types_are_406(three, root):
    assert root("/studies", accept="application/json").status_code == 200
    assert root("/studies", accept="text/html").status_code == 406
    assert root("/studies?accept=application/dicom%2Bjson", accept="text/html").status_code == 200


def test_attributes_of_each_level(three, root):
    study = root("/studies?PatientID=A-001").json()[0]
    assert study["00100010"]["Value"] == [{"Alphabetic": "Smith^John"}]
    assert study["00201206"]["Value"] == [1]
    assert study["00201208"]["Value"] == [2]
    assert study["00081190"]["Value"] == ["http://testserver/dicomweb/studies/1.2.1"]
    assert "00180060" not in study
    assert root("/studies?PatientID=A-001&includefield=KVP").json()[0]["00180060"]["Value"] == [100]
    assert root("/studies?PatientID=A-001&includefield=all").json()[0]["00082218"]["Value"]
    series = root("/studies/1.2.1/series").json()[0]
    assert series["00201209"]["Value"] == [2]
    assert "00100020" not in series
    shown = root("/studies/1.2.1/series?includefield=FrameOfReferenceUID,KVP").json()[0]
    assert (shown["00200052"]["Value"], shown["00180060"]["Value"]) == (["1.2.1.7"], [100])
    assert uids(root("/series?SeriesInstanceUID=1.2.1.1,1.2.2.1"), "0020000E") == ["1.1", "2.1"]
    assert "00080060" not in root("/studies?PatientID=A-001").json()[0]
    assert root("/studies?includefield=Modality&PatientID=A-002").json()[0]["00080060"]["Value"] == ["MR"]
    assert root("/series?SeriesInstanceUID=1.2.1.1").json()[0]["00100020"]["Value"] == ["A-001"]
    assert uids(root("/series?Modality=MR"), "0020000E") == ["2.1"]
    assert uids(root("/series?PatientName=Smith*&BodyPartExamined=CHEST"), "0020000E") == ["1.1"]
    (instance,) = root("/studies/1.2.1/series/1.2.1.1/instances?InstanceNumber=2").json()
    assert [instance[tag]["Value"] for tag in ("00200013", "00280010", "00280100")] == [[2], [32], [16]]
    assert len(root("/instances").json()) == 4
    assert len(root("/studies/1.2.1/instances").json()) == 2
    assert root("/instances?PatientID=B-001").json()[0]["00100020"]["Value"] == ["B-001"]
    names = root("/studies?PatientID=B-001").json()[0]["00100010"]["Value"][0]
    assert names == {"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎", "Phonetic": "やまだ^たろう"}


def test_a_study_that_two_projects_hold_shows_once(three, root, alice, project):
    other = factories.ProjectFactory(slug="other")
    factories.MembershipFactory(project=other, user=alice)
    factories.make_ct_series(other, 1, StudyInstanceUID="1.2.1", SeriesInstanceUID="1.2.1.1", PatientID="A-001")
    assert uids(root("/studies")) == ["1", "2", "3"]
    assert len(root("/series?StudyInstanceUID=1.2.1").json()) == 1
    assert len(root("/studies/1.2.1/instances").json()) == 2
    assert len(root("/studies/1.2.1/instances", base="/dicomweb/projects/other").json()) == 1


def test_queries_do_not_grow_with_the_list(three, alice, client, django_assert_max_num_queries):
    client.force_login(alice)
    for address in ("/studies", "/series", "/instances", "/studies?includefield=all"):
        with django_assert_max_num_queries(8):  # one of them writes the audit trail
            assert len(client.get(f"/dicomweb{address}").json()) >= 3


class Pseudonyms:
    def dataset(self, dataset):
        name = {"vr": "PN", "Value": [{"Alphabetic": "C-7"}]}
        return dataset | {"00100010": name, "00100020": {"vr": "LO", "Value": ["C-7"]}}

    def part10(self, path):
        raise AssertionError("not asked for")


@pytest.fixture
def blinded(settings, three, alice):
    """The same archive under a root that replaces the patient."""

    def resolver(request):
        plain = scopes.general_scope(request)
        return scopes.Scope("/blind", plain.user, plain.visible_studies, plain.visible_series, rewrite=Pseudonyms())

    return (path("blind/", include(urls_for(resolver))),)


def test_a_rewriting_root_matches_what_it_shows(blinded, settings, root):
    settings.ROOT_URLCONF = blinded

    def found(query):
        return uids(root(f"/studies?{query}", base="/blind"))

    assert found("") == found("PatientID=C-7") == found("PatientName=c-7*") == ["1", "2", "3"]
    assert found("PatientID=A-001") == []  # whether a guess is right must not show
    assert found("PatientName=Smith*") == []
    assert found("StudyInstanceUID=1.2.1&PatientID=C-7") == ["1"]
    metadata = root("/studies/1.2.1/series/1.2.1.1/metadata", base="/blind")
    text = metadata.content.decode()
    assert "Smith" not in text
    assert "A-001" not in text
    assert json.loads(text)[0]["7FE00010"]["BulkDataURI"].startswith("http://testserver/blind/studies/1.2.1/")
