"""The patient's identity out of what a blinded reader is served, and back into what a blinded reader stores.

What identifies the patient, the site and the people around them is emptied or replaced by the case's pseudonym (the
direct identifiers of PS3.15 table E.1-1). UIDs, study dates and everything that shows or measures the image stay, as
the viewer needs them. Text burned into the pixels is not removed.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

# Kept with an empty value, because an object without the attribute is not valid (type 2) or viewers ask for it.
EMPTIED = [
    "AccessionNumber",
    "PatientBirthDate",
    "ReferringPhysicianName",
    "StudyID",
]
REMOVED = [
    "AcquisitionComments", "AdditionalPatientHistory", "AdmittingDate", "AdmittingDiagnosesCodeSequence",
    "AdmittingDiagnosesDescription", "AdmittingTime", "AdmissionID", "Allergies", "BranchOfService",
    "ConsultingPhysicianName", "ConsultingPhysicianIdentificationSequence", "CountryOfResidence",
    "CurrentPatientLocation", "DeviceSerialNumber", "DetectorID", "EthnicGroup",
    "FillerOrderNumberImagingServiceRequest",
    "GantryID", "HumanPerformerName", "HumanPerformerOrganization", "ImageComments", "InstitutionAddress",
    "InstitutionCodeSequence", "InstitutionName", "InstitutionalDepartmentName", "InsurancePlanIdentification",
    "IssuerOfAccessionNumberSequence", "IssuerOfAdmissionIDSequence", "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence", "MedicalAlerts", "MedicalRecordLocator", "MilitaryRank",
    "NameOfPhysiciansReadingStudy", "Occupation", "OperatorIdentificationSequence", "OperatorsName",
    "OriginalAttributesSequence", "OtherPatientIDs", "OtherPatientIDsSequence", "OtherPatientNames", "PatientAddress",
    "PatientBirthName", "PatientBirthTime", "PatientComments", "PatientInstitutionResidence",
    "PatientInsurancePlanCodeSequence", "PatientMotherBirthName", "PatientPrimaryLanguageCodeSequence",
    "PatientReligiousPreference", "PatientState", "PatientTelecomInformation", "PatientTelephoneNumbers",
    "PerformedLocation", "PerformedProcedureStepID", "PerformedStationAETitle", "PerformedStationName",
    "PerformingPhysicianIdentificationSequence", "PerformingPhysicianName", "PersonAddress", "PersonName",
    "PersonTelephoneNumbers", "PhysiciansOfRecord", "PhysiciansOfRecordIdentificationSequence",
    "PhysiciansReadingStudyIdentificationSequence", "PlacerOrderNumberImagingServiceRequest",
    "ReferringPhysicianAddress", "ReferringPhysicianIdentificationSequence", "ReferringPhysicianTelephoneNumbers",
    "RegionOfResidence", "RequestAttributesSequence", "RequestingPhysician", "RequestingService",
    "ResponsibleOrganization", "ResponsiblePerson", "ScheduledProcedureStepID", "ScheduledStationName",
    "ServiceEpisodeID", "SpecialNeeds", "StationName", "StudyComments", "VisitComments",
    "IssuerOfServiceEpisodeIDSequence", "PatientBirthDateInAlternativeCalendar",
    "PatientDeathDateInAlternativeCalendar", "SourcePatientGroupIdentificationSequence",
    "GroupOfPatientsIdentificationSequence", "ReferencedPatientSequence", "ReferencedPatientPhotoSequence",
    "PatientBreedDescription", "IdentifyingComments", "InterpretationRecorder", "InterpretationAuthor",
    "InterpretationTranscriber", "InterpretationApproverSequence", "ResultsDistributionListSequence",
    "VerifyingOrganization", "CustodialOrganizationSequence", "ParticipantSequence", "AuthorObserverSequence",
    "VerifyingObserverSequence", "VerifyingObserverName", "ContentCreatorIdentificationCodeSequence",
    "EncryptedAttributesSequence", "DigitalSignaturesSequence", "MACParametersSequence",
]  # fmt: skip
PSEUDONYM = ["PatientName", "PatientID"]
# What a stored object takes over from the archive's own images of the study.
RESTORED = [
    *PSEUDONYM, *EMPTIED, "IssuerOfPatientID", "PatientSex", "PatientAge", "OtherPatientIDs",
]  # fmt: skip


def _tag(keyword: str) -> int:
    found = tag_for_keyword(keyword)
    if found is None:
        raise ValueError(f"{keyword} is not a DICOM keyword")
    return found


_EMPTIED = {f"{_tag(keyword):08X}" for keyword in EMPTIED}
_REMOVED = {f"{_tag(keyword):08X}" for keyword in REMOVED}
_NAME, _ID = (f"{_tag(keyword):08X}" for keyword in PSEUDONYM)


@dataclass(frozen=True)
class Blinding:
    """Serves a case under `name`, its pseudonym."""

    name: str

    def dataset(self, dataset: dict[str, Any]) -> dict[str, Any]:
        """A DICOM JSON object without identity; the given one is left as it is."""
        return self._json(dataset, top=True)

    def _json(self, dataset: dict[str, Any], *, top: bool) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        for tag, element in dataset.items():
            if tag in _REMOVED or _private(tag):
                continue
            if tag == _NAME:
                kept[tag] = {"vr": "PN", "Value": [{"Alphabetic": self.name}]}
            elif tag == _ID:
                kept[tag] = {"vr": "LO", "Value": [self.name]}
            elif tag in _EMPTIED:
                kept[tag] = {"vr": element.get("vr", "LO")}
            elif isinstance(element, dict) and element.get("vr") == "SQ":
                items = [self._json(item, top=False) for item in element.get("Value") or []]
                kept[tag] = {**element, "Value": items} if items else element
            else:
                kept[tag] = element
        if top and _NAME in dataset:
            kept.setdefault(_ID, {"vr": "LO", "Value": [self.name]})
        return kept

    def part10(self, path: Path) -> bytes:
        """A stored file without identity, in its own transfer syntax; pixel data is copied unread."""
        with pydicom.dcmread(path) as dataset:
            self.strip(dataset)
            dataset.PatientName = dataset.PatientID = self.name
            dataset.PatientIdentityRemoved = "YES"
            dataset.DeidentificationMethod = "Readroom blinded reading"
            dataset.preamble = b"\0" * 128
            for element in ("SourceApplicationEntityTitle", "SendingApplicationEntityTitle"):
                if element in dataset.file_meta:
                    del dataset.file_meta[element]
            stream = io.BytesIO()
            dataset.save_as(stream, enforce_file_format=True)
        return stream.getvalue()

    def strip(self, dataset: Dataset) -> None:
        """Take identity out of a data set and all its sequences."""
        for tag in list(dataset.keys()):
            key = f"{int(tag):08X}"
            if key in _REMOVED or BaseTag(tag).is_private:
                del dataset[tag]
            elif key in (_NAME, _ID):
                dataset[tag].value = self.name
            elif key in _EMPTIED:
                dataset[tag].value = ""
            elif dataset[tag].VR == "SQ":
                for item in dataset[tag].value:
                    self.strip(item)


def restore(dataset: Dataset, source: Dataset) -> None:
    """Give an object that was made under a pseudonym the true identity of `source`, an image of the same study."""
    for keyword in RESTORED:
        tag = Tag(_tag(keyword))
        if tag in source:
            dataset[tag] = source[tag]
        elif tag in dataset and keyword not in PSEUDONYM:
            del dataset[tag]
    for keyword in ("PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence"):
        if keyword in dataset and keyword not in source:
            delattr(dataset, keyword)


def _private(tag: str) -> bool:
    try:
        return int(tag[:4], 16) % 2 == 1
    except ValueError:
        return False
