"""Transfer syntaxes, value representations and SOP classes, as far as reading a file's structure needs them."""

from __future__ import annotations

from functools import lru_cache

from pydicom.datadict import dictionary_VR, private_dictionary_VR
from pydicom.uid import UID, UID_dictionary

IMPLICIT_LE = "1.2.840.10008.1.2"
EXPLICIT_LE = "1.2.840.10008.1.2.1"
DEFLATED_LE = "1.2.840.10008.1.2.1.99"
EXPLICIT_BE = "1.2.840.10008.1.2.2"
DEFLATED = frozenset({DEFLATED_LE, "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"})

LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
KNOWN_VRS = LONG_VRS | frozenset(
    vr.encode()
    for vr in "AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()  # noqa: SIM905
)
VR_NAMES = {vr: vr.decode() for vr in KNOWN_VRS}


@lru_cache(maxsize=8192)
def vr_of(tag: int) -> str:
    """The VR of PS3.6; several ("US or SS") where it depends on the data set; "UN" where the tag is unknown."""
    if tag & 0xFFFF == 0:
        return "UL"
    if (tag >> 16) & 1:
        return "LO" if 0x10 <= (tag & 0xFFFF) <= 0xFF else "UN"
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"


@lru_cache(maxsize=8192)
def private_vr(tag: int, creator: str) -> str:
    try:
        return private_dictionary_VR(tag, creator)
    except KeyError:
        return "UN"


@lru_cache(maxsize=1024)
def is_image_class(sop_class_uid: str) -> bool:
    """Whether objects of this SOP class must have pixel data."""
    name = UID(sop_class_uid).name if sop_class_uid in UID_dictionary else ""
    return "Image Storage" in name or name in {
        "Segmentation Storage",
        "Parametric Map Storage",
        "Label Map Segmentation Storage",
    }
