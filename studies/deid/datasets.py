"""A data set without identity: the profile applied to every element at every depth.

What table E.1-1 does not name is kept, except what can hold anything: private and unknown attributes, names of persons,
application entities, dates, long text, overlays, encrypted attributes, UIDs that stand for no class or context; labels
and descriptions lose the words that are not of radiology.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import timedelta

from pydicom.datadict import dictionary_has_tag, keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from studies.deid.options import DESCRIPTIVE, TEXT, Option
from studies.deid.profile import CURVES, OVERLAYS, PrivateAttribute, Profile
from studies.deid.pseudonyms import Keyed, shifted
from studies.deid.vocabulary import cleaned

STANDARD_ROOT = "1.2.840.10008."
NUMBERS = ("IS", "DS", "FL", "FD", "SS", "US", "SL", "UL", "CS")
PATIENT_AGE = Tag(0x00101010)
PIXELS = frozenset({Tag(0x7FE00010), Tag(0x7FE00008), Tag(0x7FE00009)})
OLDEST = 89  # years; older people are few
_GONE = "REMOVED"
DUMMY = {"DA": "19000101", "TM": "000000", "DT": "19000101000000", "AS": "000Y", "PN": "Removed", "IS": "0", "DS": "0",
         "CS": _GONE, "AE": _GONE}  # fmt: skip
# UIDs that name a kind of thing, not a thing.
_KIND_OF_THING = re.compile(r"SOPClass|TransferSyntax|^(CodingScheme|Context|MappingResource)")
# Unnamed texts that name software or a technique.
_TYPED = frozenset({"PositionReferenceIndicator"})
_TECHNICAL = re.compile(r"(Sequence|Model|Algorithm|Scheme|Function|Element|Manufacturer)Name$")
# Unnamed texts that number or name a thing or a person; two only tie frames together.
_IDENTIFYING = re.compile(
    r"(?<!Stack)IDs?$|(?<!OpticalPath)Identifier$|OrderNumber|Calendar$|Address$|Authority$|Certification"
)
_CODES = frozenset({"CodeValue", "LongCodeValue", "CodingSchemeDesignator", "CodingSchemeVersion"})
# Coding schemes with public meanings (PS3.16 table 8-1); others may hold words of a hospital.
_PUBLIC_SCHEMES = frozenset(
    {"DCM", "SCT", "SRT", "SNM3", "LN", "UCUM", "UMLS", "FMA", "RADLEX", "NCIt", "NEU", "BI", "I10", "IBSI", "MDC"}
)
# Numeric private attributes that PS3.15 table E.3.10-1 lists as safe; a part of it.
SAFE_PRIVATE = frozenset(
    PrivateAttribute(group, element, creator)
    for creator, group, elements in (
        ("SIEMENS MR HEADER", 0x0019, (0x0C, 0x0D, 0x0E, 0x27, 0x28)),
        ("Philips Imaging DD 001", 0x2001, (0x03, 0x04)),
        ("Philips MR Imaging DD 001", 0x2005, (0x0E,)),
        ("Philips PET Private Group", 0x7053, (0x00, 0x09)),
        ("GEMS_PARM_01", 0x0043, (0x39,)),
    )
    for element in elements
)


def names_a_kind(keyword: str) -> bool:
    """Whether UIDs of this attribute stand for a kind of thing, such as a SOP class or a coding scheme."""
    return bool(_KIND_OF_THING.search(keyword))


def is_free_text(keyword: str, vr: str) -> bool:
    """Whether people write this attribute by hand, though the table does not name it."""
    if vr in ("ST", "LT", "UT", "UC") or keyword in _TYPED:
        return True
    return vr in TEXT and bool(DESCRIPTIVE.search(keyword)) and not _TECHNICAL.search(keyword)


def name_of(tag: BaseTag) -> str:
    """The keyword, or the tag where there is none."""
    return keyword_for_tag(tag) or f"({tag.group:04X},{tag.element:04X})"


@dataclass
class Changes:
    """What was done, counted by attribute: action → keyword → times. Never holds a value."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, action: str, tag: BaseTag) -> None:
        name = "private attribute" if tag.is_private else name_of(tag)
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
        earlier = [item for item in dataset.get("DeidentificationMethodCodeSequence") or [] if _is_earlier(item)]
        self._walk(dataset, changes, in_cleaned=False)
        dataset.PatientName = dataset.PatientID = self.pseudonym
        dataset.PatientIdentityRemoved = "YES"
        dataset.DeidentificationMethod = f"Readroom: PS3.15 {self.profile}"[:64]
        codes = self.profile.codes()
        kept = [item for item in earlier if item.CodeValue not in {value for value, _ in codes}]
        dataset.DeidentificationMethodCodeSequence = Sequence(
            [*(_code(str(item.CodeValue), str(item.CodeMeaning)) for item in kept), *(_code(*code) for code in codes)]
        )
        dataset.LongitudinalTemporalInformationModified = self._dates()
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, dataset.SOPInstanceUID
        # Deflated, the second pass could not read the bytes that leave.
        meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax == DeflatedExplicitVRLittleEndian else syntax
        dataset.file_meta = meta
        dataset.preamble = b"\0" * 128
        return dataset

    def _dates(self) -> str:
        if Option.RETAIN_DATES in self.profile:
            return "UNMODIFIED"
        return "MODIFIED" if Option.SHIFT_DATES in self.profile else "REMOVED"

    def _walk(self, dataset: Dataset, changes: Changes, *, in_cleaned: bool) -> None:
        private = self._private_kept(dataset)
        for tag in list(dataset.keys()):
            if tag in PIXELS:
                continue
            if tag.is_private:
                keep = tag in private
            else:
                drawn = tag.group >> 8 in (CURVES, OVERLAYS)
                known = dictionary_has_tag(tag) or bool(self.profile.action(tag))
                keep = known and not drawn and tag.element != 0 and tag.group >= 0x0008
            if not keep:
                del dataset[tag]
                changes.add("removed", tag)
            elif not tag.is_private:
                self._element(dataset, dataset[tag], changes, in_cleaned)

    def _element(self, dataset: Dataset, element: DataElement, changes: Changes, in_cleaned: bool) -> None:
        named = self.profile.action(element.tag)
        action = named or self._unnamed(dataset, element, in_cleaned)
        if action == "C":
            action = self._clean(element, changes, required=not named)
        if action == "K":
            if element.VR == "SQ":
                for item in element.value:
                    self._walk(item, changes, in_cleaned=in_cleaned)
            elif element.tag == PATIENT_AGE and _older(element.value):
                element.value = "090Y"
                changes.add("replaced", element.tag)
        elif action == "X":
            del dataset[element.tag]
            changes.add("removed", element.tag)
        elif action == "Z":
            element.value = Sequence() if element.VR == "SQ" else None if element.VR in NUMBERS else ""
            changes.add("emptied", element.tag)
        elif action == "U" and element.VR == "UI":
            self._uids(element, changes)
        elif action == "U":  # a sequence of references: its UIDs are replaced inside
            for item in element.value:
                self._walk(item, changes, in_cleaned=in_cleaned)
        elif action == "D":
            self._dummy(dataset, element, changes)

    def _unnamed(self, dataset: Dataset, element: DataElement, in_cleaned: bool) -> str:
        """The action on an attribute that the table does not name."""
        vr, keyword = element.VR, keyword_for_tag(element.tag)
        if vr == "UI":
            return "K" if Option.RETAIN_UIDS in self.profile or names_a_kind(keyword) else "U"
        if vr in ("DA", "TM", "DT"):
            return "K" if Option.RETAIN_DATES in self.profile else "C" if Option.SHIFT_DATES in self.profile else "X"
        if vr == "AE":
            return "D"
        if vr in ("PN", "UN", "UR", "AS") or keyword == "EncryptedAttributesSequence":
            return "X"
        if vr not in TEXT or keyword in _CODES:
            return "K"
        if keyword == "CodeMeaning":
            public = str(dataset.get("CodingSchemeDesignator", "")) in _PUBLIC_SCHEMES
            return "K" if public else "C"
        if in_cleaned:
            return "C"
        if vr in ("ST", "LT", "UT", "UC"):
            return "X"
        if _IDENTIFYING.search(keyword):
            return "D"
        return "C" if is_free_text(keyword, vr) else "K"

    def _clean(self, element: DataElement, changes: Changes, *, required: bool) -> str:
        """Clean in place and return "", or the action that is left where there is no way to clean."""
        vr, values = element.VR, _values(element)
        if vr in ("DA", "DT", "TM"):
            if vr == "TM":
                return "K"  # whole days: times of day stay
            moved = [shifted(str(value), self.shift) for value in values]
            if not all(moved):
                return self.profile.basic(element.tag) or "X"
            element.value = moved if len(moved) > 1 else moved[0] if moved else ""
            changes.add("shifted", element.tag)
            return ""
        if vr in (*TEXT, "CS") and values:
            before = [str(value) for value in values]
            after = [cleaned(value, self.names) or (_GONE if required else "") for value in before]
            if before != after:
                changes.add("cleaned", element.tag)
                element.value = after if len(after) > 1 else after[0]
            return ""
        if vr in TEXT:
            return ""
        if vr == "SQ":
            for item in element.value:
                self._walk(item, changes, in_cleaned=True)
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
        elif element.VR in TEXT:
            element.value = _GONE
        elif element.VR in NUMBERS:
            element.value = 0
        else:
            del dataset[element.tag]
        changes.add("replaced", element.tag)

    def _private_kept(self, dataset: Dataset) -> set[BaseTag]:
        """Private attributes that may stay (the standard's numeric ones, those somebody named), and their creators."""
        kept: set[BaseTag] = set()
        if Option.RETAIN_SAFE_PRIVATE not in self.profile:
            return kept
        for tag in list(dataset.keys()):
            if not tag.is_private or tag.element < 0x1000:
                continue
            creator_tag = Tag(tag.group, tag.element >> 8)
            creator = str(dataset[creator_tag].value).strip() if creator_tag in dataset else ""
            attribute = PrivateAttribute(tag.group, tag.element & 0xFF, creator)
            numeric = attribute in SAFE_PRIVATE and dataset[tag].VR in NUMBERS
            # A sequence could hold anything.
            if numeric or (attribute in self.profile.keep_private and dataset[tag].VR != "SQ"):
                kept |= {tag, creator_tag}
        return kept


def _values(element: DataElement) -> list:
    if element.value is None or element.value == "":
        return []
    return list(element.value) if element.VM > 1 else [element.value]


def _older(value: object) -> bool:
    text = str(value)
    return text.endswith("Y") and text[:-1].isdecimal() and int(text[:-1]) > OLDEST


def _is_earlier(item: Dataset) -> bool:
    """Whether an item of (0012,0064) is a code of CID 7050: words of others go."""
    return str(item.get("CodingSchemeDesignator")) == "DCM" and str(item.get("CodeValue", "")).startswith("1131")


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning[:64]
    return item
