"""Identifiers planted in every kind of place are gone, and what a viewer needs is there."""

from __future__ import annotations

import io
import re
from datetime import timedelta

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import generate_uid

from studies.deid.datasets import Changes, Deidentifier
from studies.deid.errors import DeidError
from studies.deid.options import Option
from studies.deid.pixel_data import clear_overlay_bits
from studies.deid.profile import Profile
from studies.deid.pseudonyms import SHIFT, Keyed, shifted
from studies.deid.verification import Originals, Search
from studies.deid.vocabulary import cleaned
from tests.factories import ct_slice, part10_bytes

KEY = Keyed(b"k" * 32)
SECRET = "Zubkov"


def planted() -> Dataset:
    """A CT slice with the name, number and birth date of its patient wherever an object can hold them."""
    dataset = ct_slice(
        PatientName="Zubkov^Wilhelmina", PatientID="MRN-774411", PatientBirthDate="19310704", PatientAge="093Y",
        AccessionNumber="ACC774411", StudyDescription="CT chest for Zubkov", SeriesDescription="Axial lung ZUBKOV 3mm",
        InstitutionName="Zubkov Memorial Hospital", OperatorsName="Operator^Olga", PatientAddress="17 Zubkov Lane",
        ImageComments="patient Zubkov moved", ProtocolName="Zubkov protocol", StationName="ZUBKOV-CT1",
        DeviceSerialNumber="SN-99-1234", AdditionalPatientHistory="Wilhelmina Zubkov smokes",
    )  # fmt: skip
    item = Dataset()
    item.RequestedProcedureDescription = "chest, Zubkov"
    item.ScheduledProcedureStepDescription = "Zubkov MRN-774411"
    inner = Dataset()
    inner.PersonName = "Zubkov^Wilhelmina"
    item.VerifyingObserverSequence = Sequence([inner])
    dataset.RequestAttributesSequence = Sequence([item])
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = dataset.SOPClassUID, generate_uid()
    dataset.ReferencedImageSequence = Sequence([reference])
    block = dataset.private_block(0x0019, "ZUBKOV INC", create=True)
    block.add_new(0x01, "LO", "Zubkov^Wilhelmina")
    block.add_new(0x02, "OB", b"\0\1Zubkov MRN-774411\0")
    held = Dataset()
    held.PatientName = "Zubkov^Wilhelmina"
    block.add_new(0x03, "SQ", Sequence([held]))
    dataset.add_new(0x60000010, "US", 8)
    dataset.add_new(0x60000022, "LO", "Zubkov overlay")
    dataset.add_new(0x60003000, "OW", b"Zubkov  ")
    dataset.add_new(0x60004000, "LT", "Zubkov in comments")
    dataset.add_new(0x50000022, "LO", "Zubkov curve")
    dataset.add_new(0x00091001, "UN", b"Zubkov")
    dataset.add_new(0xFFFCFFFC, "OB", b"Zubkov padding")
    original = Dataset()
    modified = Dataset()
    modified.PatientID = "MRN-774411"
    original.ModifiedAttributesSequence = Sequence([modified])
    dataset.OriginalAttributesSequence = Sequence([original])
    dataset.preamble = b"MRN-774411 Zubkov".ljust(128, b"\0")
    dataset.file_meta.SourceApplicationEntityTitle = "ZUBKOV"
    return dataset


def run(
    dataset: Dataset, profile: str = "basic", keyed: Keyed = KEY, keep_private=(), remove=()
) -> tuple[Dataset, bytes, Originals, Changes]:
    chosen = Profile.parse(profile, remove, keep_private)
    originals, changes = Originals(chosen), Changes()
    originals.collect(dataset)
    done = Deidentifier(chosen, keyed, "MRN-774411", names=originals.words).apply(dataset, changes)
    return done, part10_bytes(done), originals, changes


def leaks(written: bytes, originals: Originals):
    chosen = originals.profile
    moved = KEY.shift("MRN-774411") if Option.SHIFT_DATES in chosen else None
    return Search(originals, moved=moved, dates_kept=Option.RETAIN_DATES in chosen).leaks(written)


@pytest.mark.parametrize("profile", ["basic", "basic,shift-dates", "basic,clean-descriptors", "basic,retain-patient",
                                     "basic,retain-safe-private", "basic,clean-descriptors,shift-dates",
                                     "basic,clean-structured-content,clean-graphics,clean-pixels"])  # fmt: skip
def test_nothing_planted_is_left(profile):
    _, written, originals, _ = run(planted(), profile)
    text = written.lower()
    for secret in (b"zubkov", b"wilhelmina", b"774411", b"19310704", b"operator", b"memorial", b"sn-99"):
        assert secret not in text
        assert secret.decode().encode("utf-16-le") not in text
    assert leaks(written, originals) == []


def test_every_uid_is_another_and_references_still_agree():
    source = planted()
    uid, study, referenced = (
        str(source.SOPInstanceUID),
        str(source.StudyInstanceUID),
        str(source.ReferencedImageSequence[0].ReferencedSOPInstanceUID),
    )
    done, written, *_ = run(source)
    assert not any(one.encode() in written for one in (uid, study, referenced))
    assert done.SOPInstanceUID == done.file_meta.MediaStorageSOPInstanceUID == KEY.uid(uid)
    assert done.ReferencedImageSequence[0].ReferencedSOPInstanceUID == KEY.uid(referenced)
    assert done.SOPClassUID == "1.2.840.10008.5.1.4.1.1.2"
    assert re.fullmatch(r"2\.25\.\d{1,39}", done.StudyInstanceUID)


def test_pixels_and_geometry_stay():
    source = planted()
    before = source.pixel_array.copy()
    _, written, *_ = run(source)
    again = pydicom.dcmread(io.BytesIO(written))
    assert np.array_equal(again.pixel_array, before)
    assert list(again.ImagePositionPatient) == [-14.0, -12.8, 0.0]
    assert (again.Modality, list(again.PixelSpacing), again.RescaleIntercept) == ("CT", [0.8, 0.7], -1024)


def test_the_object_says_what_was_done():
    done, *_ = run(planted(), "basic,shift-dates,clean-descriptors")
    assert done.PatientIdentityRemoved == "YES"
    codes = [item.CodeValue for item in done.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113107", "113105"]  # PS3.16 CID 7050
    assert done.LongitudinalTemporalInformationModified == "MODIFIED"
    assert done.PatientName == done.PatientID == KEY.patient("MRN-774411")


def test_dates_move_alike_and_times_stay():
    first, *_ = run(ct_slice(StudyDate="20240315", SeriesDate="20240316", AcquisitionDateTime="20240315101500.25"),
                    "basic,shift-dates")  # fmt: skip
    later, *_ = run(ct_slice(StudyDate="20240614"), "basic,shift-dates")
    shift = KEY.shift("MRN-774411")
    assert -shift.days in SHIFT
    assert first.StudyDate == shifted("20240315", shift)
    days = [pydicom.valuerep.DA(value) for value in (first.StudyDate, first.SeriesDate, later.StudyDate)]
    assert days[1] - days[0] == timedelta(days=1)
    assert days[2] - days[0] == timedelta(days=91)
    assert first.StudyTime == "101500"
    assert str(first.AcquisitionDateTime).endswith("101500.25")
    assert first.PatientBirthDate == ""
    basic, *_ = run(ct_slice())
    assert basic.StudyDate == ""
    assert basic.SeriesDate == "19000101"  # X/D: a dummy is valid in every object


def test_options_keep_what_they_name_only():
    device, *_ = run(planted(), "basic,retain-device")
    assert device.DeviceSerialNumber == "SN-99-1234"
    assert "InstitutionName" not in device or "Zubkov" not in str(device.InstitutionName)
    patient, *_ = run(planted(), "basic,retain-patient")
    assert patient.PatientSex == "F"
    assert patient.PatientAge == "090Y"  # the oldest are few
    described, *_ = run(planted(), "basic,clean-descriptors")
    assert described.SeriesDescription == "Axial lung 3mm"
    assert described.StudyDescription == "CT chest for"


def test_descriptions_keep_known_words_only():
    assert cleaned("MR Brain T2 FLAIR ax, Smith 12/03/1960") == "MR Brain T2 FLAIR ax"
    assert cleaned("CT head of Mr. Head.", {"head"}) == "CT of Mr."
    assert cleaned("Müller^Jörg thorax 1.5mm") == "thorax 1.5mm"


def test_private_attributes_stay_only_where_listed_and_numeric():
    source = ct_slice()
    safe = source.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    safe.add_new(0x0C, "IS", "1000")
    safe.add_new(0x08, "LO", "IMAGE NUM 4 SECRET")
    done, *_ = run(source, "basic,retain-safe-private")
    private = [element.tag for element in done if element.tag.is_private]
    assert private == [Tag(0x00190010), Tag(0x0019100C)]
    assert done[0x0019100C].value == 1000
    none, *_ = run(source, "basic")
    assert not [element for element in none if element.tag.is_private]


def test_the_same_key_gives_the_same_names_and_another_key_does_not():
    other = Keyed(b"x" * 32)
    assert KEY.patient("P1") == Keyed(b"k" * 32).patient("P1")
    assert len({KEY.patient("P1"), KEY.patient("P2"), KEY.patient("P1", "issuer"), other.patient("P1")}) == 4
    assert KEY.uid("1.2.3") != other.uid("1.2.3")


def test_attributes_that_somebody_calls_safe_stay_and_are_searched_as_well():
    source = planted()
    block = source.private_block(0x0019, "ZUBKOV INC")
    block.add_new(0x04, "LO", "harmless")
    done, written, originals, _ = run(
        source, "basic,retain-safe-private", keep_private=["(0019,xx01) ZUBKOV INC", "(0019,xx03) ZUBKOV INC"]
    )
    held = [element.tag for element in done if element.tag.is_private]
    assert held == [Tag(0x00190010), Tag(0x00191001)]  # a sequence could hold anything
    assert ("(0019,1001)", "name or identifier") in {(one.attribute, one.kind) for one in leaks(written, originals)}


def content(value_type: str, **values) -> Dataset:
    """An item of a content tree (PS3.3 C.17.3)."""
    item, name = Dataset(), Dataset()
    name.CodeValue, name.CodingSchemeDesignator, name.CodeMeaning = "121071", "DCM", "Finding"
    item.RelationshipType, item.ValueType, item.ConceptNameCodeSequence = "CONTAINS", value_type, Sequence([name])
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def report() -> Dataset:
    code, own = Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "39607008", "SCT", "Lung structure"
    own.CodeValue, own.CodingSchemeDesignator, own.CodeMeaning = "Z1", "99ZUBKOV", "as Zubkov says"
    image = Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3.4.5.6"
    number = Dataset()
    number.NumericValue = "12.5"
    return ct_slice(
        PatientName="Zubkov^Wilhelmina", PatientID="MRN-774411", Modality="SR",
        SOPClassUID="1.2.840.10008.5.1.4.1.1.88.22",
        PixelData=None, StudyDate="20240315",
        ContentSequence=Sequence([
            content("TEXT", TextValue="Nodule in the left lung of Wilhelmina Zubkov, seen 15.03.2024"),
            content("PNAME", PersonName="Operator^Olga"),
            content("CODE", ConceptCodeSequence=Sequence([code])),
            content("CODE", ConceptCodeSequence=Sequence([own])),
            content("NUM", MeasuredValueSequence=Sequence([number])),
            content("IMAGE", ReferencedSOPSequence=Sequence([image])),
            content("DATE", Date="20240315"),
            content("UIDREF", UID="1.2.3.4.5.7"),
        ]),
    )  # fmt: skip


def test_a_report_keeps_codes_numbers_and_references_and_loses_words_and_names():
    done, written, originals, _ = run(report(), "basic,clean-structured-content,shift-dates")
    text, person, code, own, number, image, date, uid = done.ContentSequence
    assert text.TextValue == "Nodule in the left lung of"
    assert text.ConceptNameCodeSequence[0].CodeMeaning == "Finding"
    assert person.PersonName == "Removed"
    assert code.ConceptCodeSequence[0].CodeMeaning == "Lung structure"
    assert own.ConceptCodeSequence[0].CodeMeaning == "REMOVED"
    assert number.MeasuredValueSequence[0].NumericValue == 12.5
    assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == KEY.uid("1.2.3.4.5.6")
    assert date.Date == shifted("20240315", KEY.shift("MRN-774411"))
    assert str(uid.UID) == KEY.uid("1.2.3.4.5.7")
    assert done.PatientID == KEY.patient("MRN-774411")
    # A coding scheme that is named after the patient cannot be told from another; the second pass finds it.
    assert {one.attribute for one in leaks(written, originals)} <= {"CodingSchemeDesignator", "bytes"}
    without, *_ = run(report(), "basic")
    assert len(without.ContentSequence) == 0


def test_drawings_of_a_presentation_state_stay_without_their_words():
    drawing, text, line = Dataset(), Dataset(), Dataset()
    text.UnformattedTextValue = "Zubkov left lung"
    line.GraphicData = [1.0, 2.0, 3.0, 4.0]
    drawing.TextObjectSequence, drawing.GraphicObjectSequence = Sequence([text]), Sequence([line])
    state = ct_slice(
        PatientName="Zubkov^W", PixelData=None, Modality="PR", GraphicAnnotationSequence=Sequence([drawing])
    )
    done, *_ = run(state, "basic,clean-graphics")
    assert done.GraphicAnnotationSequence[0].TextObjectSequence[0].UnformattedTextValue == "left lung"
    assert done.GraphicAnnotationSequence[0].GraphicObjectSequence[0].GraphicData == [1, 2, 3, 4]


def test_labels_of_segments_keep_known_words():
    segment, other = Dataset(), Dataset()
    segment.SegmentNumber, segment.SegmentLabel, segment.SegmentDescription = 1, "Liver Zubkov", "by Zubkov"
    segment.TrackingUID, segment.TrackingID = "1.2.3.9", "Zubkov-1"
    other.SegmentNumber, other.SegmentLabel = 2, "Zubkov"
    done, written, originals, _ = run(ct_slice(PatientName="Zubkov^W", SegmentSequence=Sequence([segment, other])))
    assert [item.SegmentLabel for item in done.SegmentSequence] == ["Liver", "REMOVED"]
    assert done.SegmentSequence[0].TrackingUID == KEY.uid("1.2.3.9")
    assert leaks(written, originals) == []


def test_encrypted_originals_go():
    item = Dataset()
    item.EncryptedContent = b"locked Zubkov"
    done, written, *_ = run(ct_slice(EncryptedAttributesSequence=Sequence([item])))
    assert "EncryptedAttributesSequence" not in done
    assert b"locked" not in written


def test_an_overlay_in_unused_bits_is_cleared():
    pixels = np.arange(32 * 40, dtype=np.uint16).reshape(32, 40) % 4096
    source = ct_slice(BitsStored=12, HighBit=11, PixelRepresentation=0, PixelData=(pixels | 0x8000).tobytes())
    source.add_new(0x60000010, "US", 32)
    source.add_new(0x60000102, "US", 15)
    assert clear_overlay_bits(source)
    assert np.array_equal(np.frombuffer(source.PixelData, "<u2").reshape(32, 40), pixels)
    assert not clear_overlay_bits(ct_slice())


def test_codes_of_an_earlier_de_identification_are_kept():
    earlier, foreign = Dataset(), Dataset()
    earlier.CodeValue, earlier.CodingSchemeDesignator, earlier.CodeMeaning = (
        "113109",
        "DCM",
        "Retain Device Identity Option",
    )
    foreign.CodeValue, foreign.CodingSchemeDesignator, foreign.CodeMeaning = "Z", "99ZUBKOV", "Zubkov"
    done, written, *_ = run(ct_slice(DeidentificationMethodCodeSequence=Sequence([earlier, foreign])))
    assert [item.CodeValue for item in done.DeidentificationMethodCodeSequence] == ["113109", "113100"]
    assert b"ZUBKOV" not in written


@pytest.mark.parametrize(
    ("plant", "attribute", "kind"),
    [
        (lambda d: setattr(d, "SeriesDescription", "seen by Zubkov"), "SeriesDescription", "name or identifier"),
        (lambda d: setattr(d, "Manufacturer", "ZUBKOV"), "Manufacturer", "name or identifier"),
        (lambda d: d.private_block(0x0019, "ACME", create=True).add_new(1, "OB", "xZubkov".encode("utf-16-le")),
         "(0019,1001)", "name or identifier"),
        (lambda d: setattr(d, "ImageComments", "MRN-774411"), "ImageComments", "name or identifier"),
        (lambda d: setattr(d, "FrameOfReferenceUID", "1.2.3.4.5.6.7"), "FrameOfReferenceUID", "UID"),
        (lambda d: setattr(d, "AcquisitionDate", "20240315"), "AcquisitionDate", "date"),
        (lambda d: setattr(d, "ContentTime", "101500"), "", ""),
        (lambda d: setattr(d, "ImageComments", "scanned 15.03.2024"), "ImageComments", "date"),
        (lambda d: setattr(d, "ProtocolName", "born 1931-07-04"), "ProtocolName", "date"),
        (lambda d: setattr(d, "SeriesDescription", "at the memorial"), "SeriesDescription", "word of a free text"),
        (lambda d: setattr(d, "SegmentLabel", "zubkov memorial hospital"), "SegmentLabel", "name or identifier"),
        (lambda d: setattr(d, "StationName", "ZUBKOV-CT1"), "StationName", "name or identifier"),
    ],
)  # fmt: skip
def test_the_second_pass_finds_what_the_first_one_missed(plant, attribute, kind):
    source = planted()
    source.FrameOfReferenceUID = "1.2.3.4.5.6.7"
    done, _, originals, _ = run(source)
    plant(done)
    found = {(one.attribute, one.kind) for one in leaks(part10_bytes(done), originals)}
    assert ((attribute, kind) in found) if attribute else found == set()


def test_words_of_manufacturers_and_shifted_dates_are_no_leaks():
    first = ct_slice(PatientName="Head^Tessa", Manufacturer="ACME Imaging", StudyDescription="ACME study of the head",
                     BodyPartExamined="HEAD")  # fmt: skip
    shift = KEY.shift("MRN-774411")
    second = ct_slice(PatientName="Head^Tessa", StudyDate=shifted("20240315", -shift))
    chosen = Profile.parse("basic,shift-dates,clean-descriptors")
    originals = Originals(chosen)
    for one in (first, second):
        originals.collect(one)
    originals.settle(set())
    for one in (first, second):
        done = Deidentifier(chosen, KEY, "MRN-774411", names=originals.words).apply(one, Changes())
        assert leaks(part10_bytes(done), originals) == []
    assert second.StudyDate == "20240315"  # moved onto the other examination's day


def test_the_report_counts_and_never_quotes():
    *_, changes = run(planted())
    report = changes.as_json()
    assert report["removed"]["private attribute"] >= 4
    assert report["removed"]["PatientAddress"] == 1
    assert "zubkov" not in str(report).lower()


def test_a_profile_with_an_unknown_option():
    with pytest.raises(DeidError, match="no option “retain-name”"):
        Profile.parse("basic,retain-name")
