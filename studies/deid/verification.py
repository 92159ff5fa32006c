"""The second pass: look for the original values anywhere in what is about to leave.

It knows nothing of the profile's actions. It takes the identifying values of the originals, and reads the written files
again: every element of every depth as text, everything outside the pixels as bytes in the usual encodings.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta

import pydicom
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from studies.deid.datasets import PIXELS, STANDARD_ROOT, is_free_text, name_of, names_a_kind
from studies.deid.options import TEXT
from studies.deid.profile import Profile
from studies.deid.pseudonyms import shifted
from studies.deid.vocabulary import allowed, harmless

# Who the patient is: their values are searched for even where they are short or look like ordinary words.
DIRECT = frozenset({
    "PatientID", "OtherPatientIDs", "AccessionNumber", "PatientTelephoneNumbers", "PatientAddress", "MilitaryRank",
    "MedicalRecordLocator", "AdmissionID", "InsurancePlanIdentification", "StudyID",
})  # fmt: skip
PLACES = frozenset({"InstitutionName", "StationName", "InstitutionalDepartmentName", "InstitutionAddress"})
ENCODINGS = ("utf-8", "latin-1", "utf-16-le", "utf-16-be")
DUMMY_DATE = "19000101"
_PARTS = re.compile(r"[\x00-\x1f^=\\ ,;]+")
_WORD = re.compile(r"[^\W_]+")
_UID = re.compile(r"[0-9]+(?:\.[0-9]+)+")
_UID_BYTES = re.compile(rb"[0-9]+(?:\.[0-9]+)+")
_DATE = re.compile(
    r"(?<![\d.])(?:(?P<y>(?:19|20)\d\d)(?P<s>[-/.]?)(?P<m>\d\d)(?P=s)(?P<d>\d\d)"
    r"|(?P<a>\d\d)[-/.](?P<b>\d\d)[-/.](?P<e>(?:19|20)\d\d))(?![\d.])"
)
# Defined terms and what manufacturers write: a word of a comment that occurs there tells nothing.
_TECHNICAL = frozenset({
    "Manufacturer", "ManufacturerModelName", "SoftwareVersions", "SequenceName", "PulseSequenceName",
    "ConvolutionKernel", "CodeMeaning", "CodeValue", "CodingSchemeDesignator", "DeidentificationMethod",
    "AlgorithmName", "SegmentAlgorithmName", "ReceiveCoilName", "TransmitCoilName",
})  # fmt: skip
# Codes that people write by hand; other code strings are defined by the standard or by manufacturers.
_TYPED_CODES = frozenset({"ContentLabel", "ImageType", "FrameType", "BodyPartExamined", "ScanOptions"})
# What earlier de-identification leaves in place of names.
_PLACEHOLDERS = frozenset({
    "anon", "anonymised", "anonymized", "anonymous", "deidentified", "dummy", "name", "noname", "none", "null",
    "patient", "removed", "test", "unknown", "unnamed", "unspecified",
})  # fmt: skip
NAME, TEXT_KIND, WORD, UID, DATE = "name or identifier", "text", "word of a free text", "UID", "date"


@dataclass
class Originals:
    """Identifying values of a patient's original files."""

    profile: Profile = field(default_factory=Profile)
    words: set[str] = field(default_factory=set)  # whole words, of names and identifiers
    places: set[str] = field(default_factory=set)  # names of institutions and stations
    ordinary: set[str] = field(default_factory=set)  # defined terms and names of products
    free: set[str] = field(default_factory=set)  # words of free texts that are not of radiology
    texts: set[str] = field(default_factory=set)  # whole values, found also inside longer ones
    uids: set[str] = field(default_factory=set)
    dates: set[str] = field(default_factory=set)  # YYYYMMDD
    birth: set[str] = field(default_factory=set)  # the patient's birth dates, which no option keeps

    def __len__(self) -> int:
        return sum(
            len(kind) for kind in (self.words, self.places, self.free, self.texts, self.uids, self.dates, self.birth)
        )

    def collect(self, before: Dataset) -> None:
        """Add the identifying values of an original data set; call it before anything is changed."""
        for element in before.iterall():
            if element.tag in PIXELS or element.VR == "SQ" or element.is_empty:
                continue
            for value in element.value if element.VM > 1 else [element.value]:
                self._add(element, value)

    def _add(self, element: DataElement, value: object) -> None:
        vr, keyword, text = element.VR, keyword_for_tag(element.tag), str(value).strip("\0 ")
        if vr == "PN":
            for part in _PARTS.split(text):
                self._word(part)
        elif vr == "UI":
            # One component is no UID, and names of kinds of things stay.
            if not names_a_kind(keyword):
                self._uid(text)
        elif vr in ("DA", "DT"):
            if len(day := _day(text)) == 8 and day != DUMMY_DATE:
                (self.birth if keyword == "PatientBirthDate" else self.dates).add(day)
        elif keyword in DIRECT:
            self._word(text)
        elif keyword in PLACES:
            if len(text) >= 3 and not harmless(text) and text.lower() not in _PLACEHOLDERS:
                self.places.add(text.lower())
            self._text(element, text)
        elif keyword in _TECHNICAL or vr == "CS":
            self.ordinary.add(text.lower())
        elif vr in TEXT or vr == "AE":
            self._text(element, text)
        elif element.tag.is_private and isinstance(value, bytes):
            for found in re.findall(rb"[\x20-\x7e]{6,64}", value):
                self._phrase(found.decode().strip())

    def _uid(self, text: str) -> None:
        # One component is no UID.
        if "." in text and not text.startswith(STANDARD_ROOT):
            self.uids.add(text)

    def _phrase(self, text: str) -> None:
        if _UID.fullmatch(text) and text.count(".") > 3:
            self._uid(text)
        elif len(text) >= 6 and re.search("[^\\W\\d_]{3}", text) and not harmless(text):
            self.texts.add(text.lower())

    def _text(self, element: DataElement, text: str) -> None:
        keyword, private = keyword_for_tag(element.tag), element.tag.is_private
        named = bool(self.profile.basic(element.tag)) or is_free_text(keyword, element.VR)
        if (private and element.tag.element < 0x0100) or not (named or private):
            self.ordinary.add(text.lower())  # creators of private blocks, and what a profile leaves alone
            return
        self._phrase(text)
        if named:
            for word in _WORD.findall(text.lower()):
                if len(word) >= 4 and not word.isdecimal() and not allowed(word):
                    self.free.add(word)

    def _word(self, text: str) -> None:
        """Short numbers and pairs of letters occur everywhere; finding them would tell nothing."""
        if len(text) >= (5 if text.isdecimal() else 3) and text.lower() not in _PLACEHOLDERS:
            self.words.add(text.lower())

    def settle(self, kept: set[str]) -> None:
        """Leave out what options keep on purpose (UIDs, devices, institutions) and what manufacturers write.

        Names of persons, their identifiers and birth dates are always looked for.
        """
        self.texts = {text for text in self.texts - kept if not any(text in one for one in self.ordinary)}
        self.uids -= kept
        self.places -= kept
        for value in kept:
            self.free -= set(_WORD.findall(value))


@dataclass(frozen=True)
class Leak:
    """Where an original value was found: an attribute, or "bytes". Never the value."""

    attribute: str
    kind: str


class Search:
    """Looks for the original values of a patient. `moved`: by how much dates were shifted; None where they were not."""

    def __init__(self, originals: Originals, *, moved: timedelta | None, dates_kept: bool = False) -> None:
        self.originals = originals
        everybody = originals.words | originals.places
        self.words = {word for word in everybody if _WORD.fullmatch(word)}
        self.phrases = [
            re.compile(rf"(?<![^\W_]){re.escape(phrase)}(?![^\W_])") for phrase in sorted(everybody - self.words)
        ]
        self.long = [word for word in everybody if len(word) >= 6]
        self.days = originals.birth | (set() if dates_kept else originals.dates)
        # Two examinations may lie as far apart as dates were shifted.
        self.fine = set() if moved is None else {shifted(day, moved) for day in originals.dates}

    def leaks(self, written: bytes) -> list[Leak]:
        """Every place of a Part 10 file in which an original value occurs."""
        dataset = pydicom.dcmread(io.BytesIO(written))
        rest = _without_pixels(dataset, written)
        found: list[Leak] = []
        ordinary: list[str] = []
        for element in _elements(dataset):
            name, keyword, vr = name_of(element.tag), keyword_for_tag(element.tag), element.VR
            if vr in ("DA", "DT"):
                days = {_day(str(value)) for value in (element.value if element.VM > 1 else [element.value])}
                if days & self.originals.birth or (days & self.days) - self.fine:
                    found.append(Leak(name, DATE))
                continue
            raw = isinstance(element.value, bytes)
            text = " ".join(element.value.decode(one, "ignore") for one in ENCODINGS) if raw else str(element.value)
            technical = keyword in _TECHNICAL or vr == "CS"
            if technical:
                ordinary.append(text.lower())
            if vr == "CS" and keyword not in _TYPED_CODES:
                continue
            kinds = self.kinds(text, technical=technical, numeric=vr in ("DS", "FL", "FD", "UI"), words=not raw)
            found += [Leak(name, kind) for kind in kinds]
        found += [Leak("bytes", kind) for kind in self._in_bytes(rest, ordinary)]
        return list(dict.fromkeys(found))

    def kinds(self, text: str, *, technical: bool = False, numeric: bool = False, words: bool = True) -> list[str]:
        """Kinds of original values in a text, a file name or a header that is not DICOM.

        technical: terms of the standard or of a manufacturer, in which words of radiology and of free texts are no
        finding. numeric: no dates. words: look for single words of free texts.
        """
        lower = text.lower()
        single = set(_WORD.findall(lower))
        names = single & self.words
        inside = [word for word in self.long if word in lower]
        if technical:
            names = {word for word in names if not allowed(word)}
            inside = [word for word in inside if not allowed(word)]
        kinds = []
        if names or inside or any(one.search(lower) for one in self.phrases):
            kinds.append(NAME)
        if not technical and any(value in lower for value in self.originals.texts):
            kinds.append(TEXT_KIND)
        if words and not technical and single & self.originals.free:
            kinds.append(WORD)
        if self.originals.uids.intersection(_UID.findall(text)):
            kinds.append(UID)
        if not numeric and (set(_dates(text)) & self.days) - self.fine:
            kinds.append(DATE)
        return kinds

    def _in_bytes(self, data: bytes, ordinary: list[str]) -> list[str]:
        """What occurs outside the pixels in any usual encoding; not what a technical attribute says anyway."""
        lower = data.lower()
        kinds = []
        for kind, values in ((NAME, self.long), (TEXT_KIND, self.originals.texts)):
            # A short string occurs in bytes by chance; as a word it is looked for in every element.
            sought = [value for value in values if len(value) >= 6 and not any(value in one for one in ordinary)]
            if any(value.encode(encoding, "ignore") in lower for value in sought for encoding in ENCODINGS):
                kinds.append(kind)
        if self.originals.uids.intersection(found.decode() for found in _UID_BYTES.findall(data)):
            kinds.append(UID)
        return kinds


def _elements(dataset: Dataset) -> Iterator[DataElement]:
    for element in [*dataset.file_meta, *dataset.iterall()]:
        if element.tag not in PIXELS and element.VR != "SQ" and not element.is_empty:
            yield element


def _day(value: str) -> str:
    """The day of a DA or DT value as YYYYMMDD; retired forms write YYYY.MM.DD."""
    return value.strip().replace(".", "", 2)[:8] if value.strip()[4:5] == "." else value.strip()[:8]


def _dates(text: str) -> Iterator[str]:
    for found in _DATE.finditer(text):
        if found["y"]:
            yield found["y"] + found["m"] + found["d"]
        else:
            yield found["e"] + found["b"] + found["a"]
            yield found["e"] + found["a"] + found["b"]


def _without_pixels(dataset: Dataset, written: bytes) -> bytes:
    """The file's bytes with the values of the pixel data left out."""
    for tag in PIXELS:
        raw = dataset.get_item(tag) if tag in dataset else None
        if raw is None:
            continue
        start, value = getattr(raw, "value_tell", None), raw.value
        if start is not None and isinstance(value, bytes):
            return written[:start] + written[start + len(value) :]
    return written
