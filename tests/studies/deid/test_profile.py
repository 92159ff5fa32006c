"""The table of attributes against the standard's text, and against pydicom's dictionary."""

from __future__ import annotations

import pytest
from pydicom._dicom_dict import DicomDictionary  # type: ignore[attr-defined]
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian

from studies.deid.datasets import Changes, Deidentifier
from studies.deid.errors import DeidError
from studies.deid.options import Option, change
from studies.deid.profile import PrivateAttribute, Profile, table
from studies.deid.pseudonyms import Keyed, shifted

KEY = Keyed(b"k" * 32)


def tag(keyword: str) -> Tag:
    return Tag(tag_for_keyword(keyword))


# Rows of PS3.15 table E.1-1 as printed: Basic Profile, then the options that its columns name.
ROWS = {
    "AccessionNumber": ("Z", {}),
    "AcquisitionDateTime": ("X/Z/D", {Option.RETAIN_DATES: "K", Option.SHIFT_DATES: "C"}),
    "Allergies": ("X", {Option.RETAIN_PATIENT: "C", Option.CLEAN_DESCRIPTORS: "C"}),
    "ClinicalTrialSiteName": ("Z", {Option.RETAIN_INSTITUTION: "K"}),
    "ContentSequence": ("D", {Option.CLEAN_STRUCTURED: "C"}),
    "DateOfLastCalibration": (
        "X", {Option.RETAIN_DEVICE: "K", Option.RETAIN_DATES: "K", Option.SHIFT_DATES: "C"}),
    "DeviceSerialNumber": ("X/Z/D", {Option.RETAIN_DEVICE: "K"}),
    "DeviceUID": ("U", {Option.RETAIN_UIDS: "K", Option.RETAIN_DEVICE: "K"}),
    "FrameOfReferenceUID": ("U", {Option.RETAIN_UIDS: "K"}),
    "GraphicAnnotationSequence": ("D", {Option.CLEAN_GRAPHICS: "C"}),
    "InstitutionName": ("X/Z/D", {Option.RETAIN_INSTITUTION: "K"}),
    "OperatorsName": ("X/Z/D", {}),
    "PatientAge": ("X", {Option.RETAIN_PATIENT: "K"}),
    "PatientBirthDate": ("Z", {}),
    "PatientID": ("Z/D", {}),
    "PatientName": ("Z", {}),
    "PatientSex": ("Z", {Option.RETAIN_PATIENT: "K"}),
    "ProtocolName": ("X/D", {Option.CLEAN_DESCRIPTORS: "C"}),
    "ReferencedImageSequence": ("X/Z/U*", {Option.RETAIN_UIDS: "K"}),
    "ReferringPhysicianName": ("Z", {}),
    "SOPInstanceUID": ("U", {Option.RETAIN_UIDS: "K"}),
    "SeriesDescription": ("X", {Option.CLEAN_DESCRIPTORS: "C"}),
    "SeriesTime": ("X/D", {Option.RETAIN_DATES: "K", Option.SHIFT_DATES: "C"}),
    "StationAETitle": ("X", {Option.RETAIN_DEVICE: "C"}),
    "StationName": ("X/Z/D", {Option.RETAIN_DEVICE: "K"}),
    "StudyDate": ("Z", {Option.RETAIN_DATES: "K", Option.SHIFT_DATES: "C"}),
    "StudyDescription": ("X", {Option.CLEAN_DESCRIPTORS: "C"}),
    "UID": ("U", {}),
}  # fmt: skip


@pytest.mark.parametrize("keyword", ROWS)
def test_rows_of_the_standard(keyword):
    basic, columns = ROWS[keyword]
    assert table()[int(tag(keyword))] == basic
    assert {option: found for option in Option if (found := change(option, tag(keyword)))} == columns


def test_the_table_has_as_many_rows_in_each_column_as_the_standard():
    # Counted in table E.1-1 of edition 2025a, which the package's later edition contains whole.
    assert len(table()) >= 617
    counts = {option: sum(bool(change(option, Tag(row))) for row in table()) for option in Option}
    assert counts[Option.RETAIN_DATES] == counts[Option.SHIFT_DATES] == 165
    assert counts[Option.RETAIN_DEVICE] == 57
    assert counts[Option.RETAIN_INSTITUTION] == 10
    assert counts[Option.RETAIN_PATIENT] == 13
    assert counts[Option.CLEAN_STRUCTURED] == 3
    # Edition 2026c has one more UID and three more descriptions.
    assert counts[Option.RETAIN_UIDS] == 59 + 1
    assert counts[Option.CLEAN_DESCRIPTORS] == 125 + 4


KEPT_UIDS = {
    "SOPClassUID", "ReferencedSOPClassUID", "RelatedGeneralSOPClassUID", "OriginalSpecializedSOPClassUID",
    "SOPClassesInStudy",
    "SOPClassesSupported", "PertinentSOPClassesInStudy", "PertinentSOPClassesInSeries", "CodingSchemeUID", "ContextUID",
    "ContextGroupExtensionCreatorUID", "MappingResourceUID",
    "StoredInstanceTransferSyntaxUID", "AvailableTransferSyntaxUID", "FlowTransferSyntaxUID",
    "MACCalculationTransferSyntaxUID", "EncryptedContentTransferSyntaxUID",
}  # fmt: skip
VALUES = {"PN": "Zubkov^W", "UI": "1.2.3.4", "DA": "20240315", "DT": "20240315101500", "AE": "ZUBKOV"}


def every(vr: str) -> list[str]:
    """Keywords of pydicom's dictionary with a VR, outside the command and file meta groups."""
    return [entry[4] for number, entry in DicomDictionary.items() if entry[0] == vr and number >> 16 >= 8]


def holding(keyword: str, vr: str) -> tuple[Dataset, Dataset]:
    """An object with one attribute, and the same attribute inside a sequence that no table names."""
    dataset, item = Dataset(), Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3"
    for one in (dataset, item):
        one.add_new(tag(keyword), vr, VALUES[vr])
    dataset.SharedFunctionalGroupsSequence = Sequence([item])
    return dataset, item


def left(keyword: str, vr: str, profile: str) -> list[str]:
    dataset, item = holding(keyword, vr)
    Deidentifier(Profile.parse(profile), KEY, "P1").apply(dataset, Changes())
    held = [dataset[keyword]] if keyword in dataset else []
    held += [item[keyword]] if keyword in item else []
    return [str(element.value) for element in held]


def test_no_name_of_a_person_is_left_in_any_attribute():
    pseudonym = KEY.patient("P1")
    for keyword in every("PN"):
        assert {*left(keyword, "PN", "basic")} <= {"", "Removed", pseudonym}, keyword


def test_every_uid_that_names_a_thing_is_replaced():
    kept = {keyword for keyword in every("UI") if VALUES["UI"] in left(keyword, "UI", "basic")}
    assert kept == KEPT_UIDS
    assert KEY.uid("1.2.3.4") in left("FrameOfReferenceUID", "UI", "basic")


@pytest.mark.parametrize("vr", ["DA", "DT"])
def test_every_date_goes_or_moves(vr):
    moved = shifted(VALUES[vr], KEY.shift("P1"))
    for keyword in every(vr):
        assert VALUES[vr] not in left(keyword, vr, "basic"), keyword
        assert {*left(keyword, vr, "basic,shift-dates")} <= {moved, ""}, keyword
    assert moved in left("StudyDate", vr, "basic,shift-dates") or vr == "DT"
    assert left("PatientBirthDate", "DA", "basic,retain-dates")[0] == ""


def test_no_title_of_an_application_entity_is_left():
    for keyword in every("AE"):
        assert VALUES["AE"] not in left(keyword, "AE", "basic,retain-device"), keyword


def test_a_profile_is_read_and_written():
    assert str(Profile.parse("basic, Retain-Device ,shift-dates")) == "basic,shift-dates,retain-device"
    assert str(Profile.parse("")) == "basic"
    attribute = PrivateAttribute.parse("(0019,xx0c) SIEMENS MR HEADER")
    assert attribute == PrivateAttribute(0x0019, 0x0C, "SIEMENS MR HEADER")
    assert PrivateAttribute.parse("0019,100C SIEMENS MR HEADER") == attribute == PrivateAttribute.parse(str(attribute))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("basic,retain-name",), "no option “retain-name”"),
        (("basic,shift-dates,retain-dates",), "both shifted and kept"),
        (("basic", ["PatientsName"]), "“PatientsName” is no DICOM keyword"),
        (("basic", ["SOPInstanceUID"]), "Without SOPInstanceUID no object is left"),
        (("basic", [], ["(0019,xx0C) ACME"]), "Retain Safe Private only"),
        (("basic,retain-safe-private", [], ["(0018,xx0C) ACME"]), "names no private attribute"),
        (("basic,retain-safe-private", [], ["everything"]), "names no private attribute"),
    ],
)
def test_a_profile_that_makes_no_sense_says_why(arguments, words):
    with pytest.raises(DeidError, match=words):
        Profile.parse(*arguments)
