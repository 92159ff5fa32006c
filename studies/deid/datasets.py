"""A data set without identity: the profile applied to every element at every depth.

What table E.1-1 does not name is kept, except what can hold anything: private and unknown attributes, names of persons,
long text, and UIDs that are not the standard's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import timedelta

from pydicom.datadict import dictionary_has_tag, keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag

from studies.deid.profile import Option, Profile
from studies.deid.pseudonyms import Keyed, shifted
from studies.deid.vocabulary import cleaned

STANDARD_ROOT = "1.2.840.10008."
DATES, TEXTS = ("DA", "DT", "TM"), ("LO", "SH", "ST", "LT", "UT", "UC")
LONG_TEXT = ("ST", "LT", "UT", "UC", "PN", "UN", "UR")
NUMBERS = ("IS", "DS", "FL", "FD", "SS", "US", "SL", "UL", "CS")
PATIENT_ID, PATIENT_NAME, PATIENT_AGE = Tag(0x00100020), Tag(0x00100010), Tag(0x00101010)
PIXELS = {Tag(0x7FE00010), Tag(0x7FE00008), Tag(0x7FE00009)}
OLDEST = 89  # years; older people are few
DUMMY = {"DA": "19000101", "TM": "000000", "DT": "19000101000000", "AS": "000Y", "UI": "", "PN": "Removed",
         "IS": "0", "DS": "0", "CS": "REMOVED", "AE": "REMOVED", "UR": ""}  # fmt: skip
# Numeric private attributes of PS3.15 table E.3.10-1: creator → elements (last two digits).
SAFE_PRIVATE = {
    "SIEMENS MR HEADER": {0x0C, 0x0D, 0x0E, 0x27, 0x28},
    "Philips Imaging DD 001": {0x03, 0x04},
    "Philips MR Imaging DD 001": {0x0E},
    "Philips PET Private Group": {0x00, 0x09},
    "GEMS_PARM_01": {0x39},
}


@dataclass
class Changes:
    """What was done, counted by attribute: action → keyword → times. Never holds a value."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, action: str, tag: BaseTag) -> None:
        name = "private attribute" if tag.is_private else keyword_for_tag(tag) or f"({tag.group:04X},{tag.element:04X})"
        self.counts.setdefault(action, Counter())[name] += 1

    def as_json(self) -> dict[str, dict[str, int]]:
        return {action: dict(sorted(names.items())) for action, names in sorted(self.counts.items())}


@dataclass(frozen=True)
class Deidentifier:
    """Takes identity out of the objects of one patient."""

    profile: Profile
    keyed: Keyed
    patient_id: str
    issuer: str = ""
    names: Collection[str] = ()  # words in small letters that no description keeps: somebody may be called Head

    @property
    def pseudonym(self) -> str:
        return self.keyed.patient(self.patient_id, self.issuer)

    @property
    def shift(self) -> timedelta:
        return self.keyed.shift(self.patient_id, self.issuer)

    def apply(self, dataset: Dataset, changes: Changes) -> Dataset:
        """Change `dataset` in place, pixel data left alone, and give it a new file meta group."""
        syntax, sop_class = dataset.file_meta.TransferSyntaxUID, dataset.SOPClassUID
        self._walk(dataset, changes, text_only=False)
        dataset.PatientName = dataset.PatientID = self.pseudonym
        dataset.PatientIdentityRemoved = "YES"
        dataset.DeidentificationMethod = f"Readroom: PS3.15 {self.profile}"[:64]
        dataset.DeidentificationMethodCodeSequence = Sequence([_code(*code) for code in self.profile.codes()])
        dates = "MODIFIED" if Option.SHIFT_DATES in self.profile else "REMOVED"
        dataset.LongitudinalTemporalInformationModified = dates
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, dataset.SOPInstanceUID
        meta.TransferSyntaxUID = syntax
        dataset.file_meta = meta
        dataset.preamble = b"\0" * 128
        return dataset

    def _walk(self, dataset: Dataset, changes: Changes, *, text_only: bool) -> None:
        private = _private_kept(dataset) if Option.RETAIN_SAFE_PRIVATE in self.profile else set()
        for tag in list(dataset.keys()):
            if tag in PIXELS:
                continue
            if tag.is_private:
                if tag not in private:
                    del dataset[tag]
                    changes.add("removed", tag)
                continue
            if tag.element == 0 or not (dictionary_has_tag(tag) or self.profile.action(tag)):
                del dataset[tag]
                changes.add("removed", tag)
                continue
            self._element(dataset, dataset[tag], changes, text_only)

    def _element(self, dataset: Dataset, element: DataElement, changes: Changes, in_cleaned: bool) -> None:
        action = self.profile.action(element.tag) or self._unnamed(element)
        if action == "C":
            action = self._clean(element, changes)
        if action == "K" and in_cleaned and element.VR in TEXTS:
            action = self._clean(element, changes)
        if action == "K":
            if element.VR == "SQ":
                for item in element.value:
                    self._walk(item, changes, text_only=in_cleaned)
            elif element.tag == PATIENT_AGE and _older(element.value):
                element.value = "090Y"
                changes.add("replaced", element.tag)
        elif action == "X" or (element.tag.group >> 8 == 0x60 and element.tag.element == 0x3000):
            del dataset[element.tag]
            changes.add("removed", element.tag)
        elif action == "Z":
            element.value = Sequence() if element.VR == "SQ" else None if element.VR in NUMBERS else ""
            changes.add("emptied", element.tag)
        elif action == "U" and element.VR == "UI":
            self._uids(element, changes)
        elif action == "U":  # a sequence of references: its UIDs are replaced inside
            for item in element.value:
                self._walk(item, changes, text_only=in_cleaned)
        elif action == "D":
            self._dummy(dataset, element, changes)

    def _unnamed(self, element: DataElement) -> str:
        """The action on an attribute that the table does not name."""
        if element.VR == "UI":
            return "K" if Option.RETAIN_UIDS in self.profile else "U"
        return "X" if element.VR in LONG_TEXT else "K"

    def _clean(self, element: DataElement, changes: Changes) -> str:
        """Clean in place and return "", or the basic action where there is no way to clean."""
        if element.VR in ("DA", "DT") and Option.SHIFT_DATES in self.profile:
            moved = [shifted(str(value), self.shift) for value in _values(element)]
            if not all(moved):
                return self.profile.basic(element.tag)
            element.value = moved if len(moved) > 1 else moved[0] if moved else ""
            changes.add("shifted", element.tag)
            return ""
        if element.VR == "TM" and Option.SHIFT_DATES in self.profile:
            return "K"  # whole days: times of day stay
        if element.VR in TEXTS and not element.is_empty:
            before = [str(value) for value in _values(element)]
            after = [cleaned(value, self.names) for value in before]
            if before != after:
                changes.add("cleaned", element.tag)
            element.value = after if len(after) > 1 else after[0]
            return ""
        if element.VR == "SQ":
            for item in element.value:
                self._walk(item, changes, text_only=True)
            return ""
        return self.profile.basic(element.tag) or "X"

    def _uids(self, element: DataElement, changes: Changes) -> None:
        values = [str(value) for value in _values(element)]
        new = [value if value.startswith(STANDARD_ROOT) or not value else self.keyed.uid(value) for value in values]
        if new != values:
            element.value = new if len(new) > 1 else new[0]
            changes.add("replaced", element.tag)

    def _dummy(self, dataset: Dataset, element: DataElement, changes: Changes) -> None:
        if element.VR == "SQ":
            element.value = Sequence()
        elif element.VR == "UI":
            self._uids(element, changes)
            return
        elif element.VR in DUMMY:
            element.value = DUMMY[element.VR]
        elif element.VR in TEXTS:
            element.value = "REMOVED"
        elif element.VR in NUMBERS:
            element.value = 0
        else:
            del dataset[element.tag]
        changes.add("replaced", element.tag)


def _values(element: DataElement) -> list:
    if element.value is None or element.value == "":
        return []
    return list(element.value) if element.VM > 1 else [element.value]


def _older(value: object) -> bool:
    text = str(value)
    return text.endswith("Y") and text[:-1].isdecimal() and int(text[:-1]) > OLDEST


def _private_kept(dataset: Dataset) -> set[BaseTag]:
    """Numeric private attributes that the standard lists as safe, and the creators that they need."""
    kept: set[BaseTag] = set()
    for tag in list(dataset.keys()):
        if not tag.is_private or tag.element < 0x1000:
            continue
        creator_tag = Tag(tag.group, tag.element >> 8)
        creator = str(dataset[creator_tag].value).strip() if creator_tag in dataset else ""
        if tag.element & 0xFF in SAFE_PRIVATE.get(creator, ()) and dataset[tag].VR in NUMBERS:
            kept |= {tag, creator_tag}
    return kept


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item
