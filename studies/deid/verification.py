"""The second pass: look for the original values anywhere in what is about to leave.

It knows nothing of the profile. It takes the identifying values of the originals, and reads the written files again:
every element of every depth as text, everything outside the pixels as bytes in the usual encodings.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field

import pydicom
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset

from studies.deid.datasets import PIXELS, STANDARD_ROOT
from studies.deid.vocabulary import harmless

# Who the patient is: their values are searched for even where they are short or look like ordinary words.
DIRECT = {
    "PatientID", "OtherPatientIDs", "AccessionNumber", "PatientBirthDate", "PatientTelephoneNumbers", "PatientAddress",
    "MilitaryRank", "MedicalRecordLocator", "AdmissionID", "InsurancePlanIdentification", "StudyID",
}  # fmt: skip
TEXTS = ("LO", "SH", "ST", "LT", "UT", "UC", "AE", "UR")
ENCODINGS = ("utf-8", "latin-1", "utf-16-le", "utf-16-be")
_MADE = re.compile(r"[\x00-\x1f^=\\ ,;]+")
# Coded or made by the manufacturer; an original value that occurs there by chance tells nothing.
_COMMON = {"Manufacturer", "ManufacturerModelName", "DeidentificationMethod", "CodeMeaning", "CodingSchemeDesignator"}


@dataclass
class Originals:
    """Identifying values of a patient's original files."""

    words: set[str] = field(default_factory=set)  # whole words, of names and identifiers
    texts: set[str] = field(default_factory=set)  # whole values, found also inside longer ones
    uids: set[str] = field(default_factory=set)

    def collect(self, before: Dataset) -> None:
        """Add the identifying values of an original data set; call it before anything is changed."""
        for element in before.iterall():
            if element.tag in PIXELS or element.VR == "SQ" or element.is_empty:
                continue
            values = element.value if element.VM > 1 else [element.value]
            keyword = keyword_for_tag(element.tag)
            for value in values:
                self._add(element.VR, keyword, element.tag.is_private, value)

    def _add(self, vr: str, keyword: str, private: bool, value: object) -> None:
        text = str(value).strip("\0 ")
        if vr == "PN":
            for part in _MADE.split(text):
                self._word(part)
        elif vr == "UI":
            if not text.startswith(STANDARD_ROOT):
                self.uids.add(text)
        elif keyword in DIRECT:
            self._word(text)
        elif vr in TEXTS and len(text) >= 5 and not harmless(text) and keyword not in _COMMON:
            self.texts.add(text.lower())
        elif private and isinstance(value, bytes):
            for found in re.findall(rb"[\x20-\x7e]{6,64}", value):
                self.texts.add(found.decode().strip().lower())

    def _word(self, text: str) -> None:
        """Short numbers and pairs of letters occur everywhere; finding them would tell nothing."""
        if len(text) >= (5 if text.isdecimal() else 3):
            self.words.add(text.lower())

    def settle(self, kept: set[str]) -> None:
        """Leave out what options keep on purpose (UIDs, device names); names and identifiers are always looked for."""
        self.texts -= kept
        self.uids -= kept


@dataclass(frozen=True)
class Leak:
    """Where an original value was found: an attribute, or "bytes". Never the value."""

    attribute: str
    kind: str  # name or identifier, text, UID


def leaks(written: bytes, originals: Originals) -> list[Leak]:
    """Every place of a Part 10 file in which an original value occurs."""
    dataset = pydicom.dcmread(io.BytesIO(written))
    search = _Search(originals)
    found: list[Leak] = []
    for element in [*dataset.file_meta, *dataset.iterall()]:
        if element.tag in PIXELS or element.VR == "SQ":
            continue
        name = keyword_for_tag(element.tag) or f"({element.tag.group:04X},{element.tag.element:04X})"
        if isinstance(element.value, bytes):
            text = " ".join(element.value.decode(encoding, "ignore") for encoding in ENCODINGS)
        else:
            text = str(element.value)
        found += [Leak(name, kind) for kind in search.kinds(text)]
    found += [Leak("bytes", kind) for kind in search.in_bytes(_without_pixels(dataset))]
    return list(dict.fromkeys(found))


def leaks_in_text(text: str, originals: Originals) -> list[Leak]:
    """The same for a file name or a header that is not DICOM."""
    return [Leak("name or header", kind) for kind in _Search(originals).kinds(text)]


class _Search:
    def __init__(self, originals: Originals) -> None:
        self.originals = originals
        alternatives = "|".join(re.escape(word) for word in sorted(originals.words, key=len, reverse=True))
        self.words = re.compile(rf"(?<![^\W_])(?:{alternatives})(?![^\W_])", re.IGNORECASE) if alternatives else None
        self.long = [word for word in originals.words if len(word) >= 6]

    def kinds(self, text: str) -> list[str]:
        lower = text.lower()
        kinds = []
        if (self.words and self.words.search(text)) or any(word in lower for word in self.long):
            kinds.append("name or identifier")
        if any(value in lower for value in self.originals.texts):
            kinds.append("text")
        if any(uid in text for uid in self.originals.uids):
            kinds.append("UID")
        return kinds

    def in_bytes(self, data: bytes) -> list[str]:
        lower = data.lower()

        def occurs(values: set[str] | list[str]) -> bool:
            return any(
                encoded in lower
                for value in values
                for encoding in ENCODINGS
                if (encoded := value.encode(encoding, "ignore"))
                # A short string occurs in bytes by chance; as a word it was looked for in every element.
                and len(value) >= 6
            )

        kinds = []
        if occurs(self.long):
            kinds.append("name or identifier")
        if occurs(self.originals.texts):
            kinds.append("text")
        if occurs(self.originals.uids):
            kinds.append("UID")
        return kinds


def _without_pixels(dataset: Dataset) -> bytes:
    """The file's bytes with the pixel data left out."""
    for tag in PIXELS:
        if tag in dataset:
            del dataset[tag]
    if dataset.file_meta.TransferSyntaxUID.is_compressed:
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()
