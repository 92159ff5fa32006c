"""SOP classes by their UIDs (PS3.6 annex A)."""

from __future__ import annotations

VERIFICATION = "1.2.840.10008.1.1"
STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"
STORAGE_COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
PATIENT_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.1.1"
PATIENT_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.1.2"
PATIENT_ROOT_GET = "1.2.840.10008.5.1.4.1.2.1.3"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.2.3"

_STORAGE = "1.2.840.10008.5.1.4.1.1."
# What C-GET asks for: the requester has to name every class beforehand, in 128 contexts at most.
IMAGES = [
    _STORAGE + tail
    for tail in (
        "1", "1.1", "1.1.1", "1.2", "1.2.1", "1.3",  # CR, DX, MG, intra-oral
        "2", "2.1", "2.2", "4", "4.1", "4.3", "4.4",  # CT, MR
        "3.1", "6.1", "6.2", "7", "7.1", "7.2", "7.3", "7.4",  # ultrasound, secondary capture
        "12.1", "12.1.1", "12.2", "12.2.1", "13.1.1", "13.1.2", "13.1.3",  # XA, XRF, tomosynthesis
        "20", "30", "128", "130", "128.1",  # NM, parametric map, PET
        "77.1.1", "77.1.2", "77.1.4", "77.1.5.1", "77.1.5.2", "77.1.5.4", "77.1.6",  # visible light, ophthalmology
        "481.1", "481.2",  # RT image, dose
    )
]  # fmt: skip
OTHERS = [
    _STORAGE + tail
    for tail in (
        "66", "66.1", "66.4", "66.5", "11.1", "11.2", "11.3", "88.11", "88.22", "88.33", "88.34", "88.50", "88.59",
        "88.65", "88.67", "104.1", "104.3", "481.3", "481.4", "481.5", "481.8", "9.1.1", "9.1.2", "4.2",
    )
]  # fmt: skip
