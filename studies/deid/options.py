"""What the options of PS3.15 Annex E change: the option columns of table E.1-1, as rules where the column follows one.

The Basic Profile's column comes from a package (see `studies.deid.profile`); the rules here follow PS3.15 E.3.3 to
E.3.11 and the option columns of the table. K keeps the value, C cleans it.
"""

from __future__ import annotations

import re
from enum import StrEnum

from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.tag import BaseTag


class Option(StrEnum):
    """Named as on the command line and in the API."""

    SHIFT_DATES = "shift-dates"
    RETAIN_DATES = "retain-dates"
    CLEAN_DESCRIPTORS = "clean-descriptors"
    CLEAN_STRUCTURED = "clean-structured-content"
    CLEAN_GRAPHICS = "clean-graphics"
    CLEAN_PIXELS = "clean-pixels"
    RETAIN_PATIENT = "retain-patient"
    RETAIN_DEVICE = "retain-device"
    RETAIN_INSTITUTION = "retain-institution"
    RETAIN_UIDS = "retain-uids"
    RETAIN_SAFE_PRIVATE = "retain-safe-private"


BASIC_CODE = ("113100", "Basic Application Confidentiality Profile")
# PS3.16 CID 7050.
CODES = {
    Option.CLEAN_PIXELS: ("113101", "Clean Pixel Data Option"),
    Option.CLEAN_GRAPHICS: ("113103", "Clean Graphics Option"),
    Option.CLEAN_STRUCTURED: ("113104", "Clean Structured Content Option"),
    Option.CLEAN_DESCRIPTORS: ("113105", "Clean Descriptors Option"),
    Option.RETAIN_DATES: ("113106", "Retain Longitudinal Temporal Information Full Dates Option"),
    Option.SHIFT_DATES: ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    Option.RETAIN_PATIENT: ("113108", "Retain Patient Characteristics Option"),
    Option.RETAIN_DEVICE: ("113109", "Retain Device Identity Option"),
    Option.RETAIN_UIDS: ("113110", "Retain UIDs Option"),
    Option.RETAIN_SAFE_PRIVATE: ("113111", "Retain Safe Private Option"),
    Option.RETAIN_INSTITUTION: ("113112", "Retain Institution Identity Option"),
}

TEXT = ("LO", "SH", "ST", "LT", "UT", "UC")


def _keywords(text: str) -> frozenset[str]:
    return frozenset(text.split())


# E.3.7: sex, size, weight, age and what matters for the images; the words of four are cleaned.
PATIENT_KEPT = _keywords(
    "EthnicGroup PatientAge PatientSex PatientSexNeutered PatientSize PatientWeight PregnancyStatus SelectorASValue "
    "SmokingStatus"
)
PATIENT_CLEANED = _keywords("Allergies PatientState PreMedication SpecialNeeds")

# E.3.8: what tells one machine from another, with its calibration; titles of application entities are cleaned.
DEVICE = _keywords(
    "BeamHoldTransitionDateTime CalibrationDate CalibrationDateTime CalibrationTime CassetteID DateOfInstallation "
    "DateOfLastCalibration DateOfLastDetectorCalibration DateOfManufacture DateTimeOfLastCalibration DetectorID "
    "DeviceDescription DeviceLabel DeviceSerialNumber DeviceUID GantryID GeneratorID LensMake LensModel "
    "LensSerialNumber LensSpecification ManufacturerDeviceClassUID ManufacturerDeviceIdentifier ModifyingDeviceID "
    "ModifyingSystem PerformedStationGeographicLocationCodeSequence PerformedStationName "
    "PerformedStationNameCodeSequence PlateID ScheduledProcedureStepLocation "
    "ScheduledStationGeographicLocationCodeSequence ScheduledStationName ScheduledStationNameCodeSequence "
    "ScheduledStudyLocation SourceManufacturer SourceSerialNumber StationName TimeOfLastCalibration "
    "TimeOfLastDetectorCalibration TransducerIdentificationSequence TreatmentMachineName UDISequence "
    "UniqueDeviceIdentifier XRayDetectorID XRayDetectorLabel XRaySourceID"
)

# E.3.11: where the images were made.
INSTITUTION = _keywords(
    "ClinicalTrialCoordinatingCenterName ClinicalTrialProtocolEthicsCommitteeName ClinicalTrialSiteID "
    "ClinicalTrialSiteName InstitutionAddress InstitutionalDepartmentName InstitutionalDepartmentTypeCodeSequence "
    "InstitutionCodeSequence InstitutionName SourceOfPreviousValues"
)

# E.3.6: every date and time of the table but the patient's birth and the place's satellite clock.
NOT_LONGITUDINAL = _keywords("PatientBirthDate PatientBirthTime GPSTimeStamp")
ALSO_LONGITUDINAL = _keywords("CertifiedTimestamp FrameOriginTimestamp TimezoneOffsetFromUTC")

# E.3.9: every UID of the table but the two that stand for a signature and for a coded answer, and the references.
NOT_UIDS = _keywords("DigitalSignatureUID UID")
REFERENCES = _keywords(
    "ReferencedImageSequence ReferencedPatientSequence ReferencedPerformedProcedureStepSequence "
    "ReferencedStudySequence SourceImageSequence"
)

# E.3.5: free text about the examination. Names of persons, places and trials are no descriptions.
DESCRIPTIVE = re.compile(r"Description|Comment|Label|Notes|Reason|Text|Diagnos|Name|Narrative|History|Impressions")
NOT_DESCRIPTIVE = _keywords(
    "CameraOwnerName ClinicalTrialProtocolName ClinicalTrialSponsorName "
    "ConfidentialityConstraintOnPatientDataDescription ImagePresentationComments ModifiedImageDescription TextComments "
    "TextString UnformattedTextValue"
)
ALSO_DESCRIPTIVE = _keywords(
    "AdmittingDiagnosesCodeSequence Allergies ContrastBolusAgent DeviceSettingDescription MakerNote MedicalAlerts "
    "Occupation PatientState PrescriptionNotesSequence ReasonForRequestedProcedureCodeSequence "
    "ReasonForTheAttributeModification ReasonForVisitCodeSequence RequestAttributesSequence RequestedContrastAgent "
    "SelectorLOValue SelectorLTValue SelectorSHValue SelectorSTValue SelectorUTValue TreatmentSite TreatmentSites"
)

# E.3.4 and E.3.3: trees of coded content; drawings over the image. What is drawn as pixels cannot be cleaned.
STRUCTURED = _keywords("AcquisitionContextSequence ContentSequence SpecimenPreparationSequence")
GRAPHICS = _keywords("GraphicAnnotationSequence TextObjectSequence UnformattedTextValue")


def change(option: Option, tag: BaseTag) -> str:
    """K, C, or "" where the option leaves an attribute of the table to the Basic Profile."""
    keyword = keyword_for_tag(tag)
    vr = dictionary_VR(tag) if keyword else ""
    if option in (Option.SHIFT_DATES, Option.RETAIN_DATES):
        temporal = vr in ("DA", "TM", "DT") and keyword not in NOT_LONGITUDINAL
        if temporal or keyword in ALSO_LONGITUDINAL:
            return "K" if option is Option.RETAIN_DATES else "C"
    elif option is Option.RETAIN_UIDS:
        return "K" if (vr == "UI" and keyword not in NOT_UIDS) or keyword in REFERENCES else ""
    elif option is Option.RETAIN_PATIENT:
        return "K" if keyword in PATIENT_KEPT else "C" if keyword in PATIENT_CLEANED else ""
    elif option is Option.RETAIN_DEVICE:
        return "K" if keyword in DEVICE else "C" if vr == "AE" else ""
    elif option is Option.RETAIN_INSTITUTION:
        return "K" if keyword in INSTITUTION else ""
    elif option is Option.CLEAN_STRUCTURED:
        return "C" if keyword in STRUCTURED else ""
    elif option is Option.CLEAN_GRAPHICS:
        return "C" if keyword in GRAPHICS else ""
    elif option is Option.CLEAN_DESCRIPTORS:
        return "C" if _describes(keyword, vr) else ""
    return ""


def _describes(keyword: str, vr: str) -> bool:
    if keyword in ALSO_DESCRIPTIVE:
        return True
    known_otherwise = keyword in NOT_DESCRIPTIVE or keyword in DEVICE or keyword in INSTITUTION
    return vr in TEXT and not known_otherwise and bool(DESCRIPTIVE.search(keyword))
