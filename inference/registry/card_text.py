"""What people write in a version's card. Every change is a revision of its own that nobody can change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.db import transaction

from inference.errors import CardError
from inference.registry.models import CardRevision, ModelVersion
from portal.accounts.audit import trail
from portal.accounts.models import User

LONGEST = 4000


@dataclass(frozen=True)
class Section:
    key: str
    title: str
    hint: str
    for_production: bool = False


SECTIONS = (
    Section(
        "intended_use", "Intended use", "What it is for, in which patients, images and step of the work.",
        for_production=True,
    ),
    Section("users", "Intended users", "Who may use it and what they must know."),
    Section("not_for", "Not for", "Uses, patients and images for which it must not be used."),
    Section(
        "limits", "Limits and risks", "Where it fails, whom it was not tested on, what an error would do.",
        for_production=True,
    ),
    Section("licence", "Licence", "Of the weights and of the training data."),
    Section("contacts", "Contacts", "Who answers questions. Names of staff, never of patients."),
    Section("notes", "Notes", "Anything else, references included."),
)  # fmt: skip
KEYS = tuple(section.key for section in SECTIONS)
# What earlier versions of the portal wrote where nobody had said anything.
FILLERS = (
    "Not stated.",
    "Not stated by the bundle.",
    "Research use only; not a medical device. Trained on one cohort; check it on your own images.",
    "Imported, not trained here. Research use only; not a medical device. Check it on own images.",
)


def revision_of(version: ModelVersion) -> CardRevision | None:
    """The newest revision; None where nobody has written one."""
    return version.card_revisions.select_related("by").order_by("-number").first()


def sections_of(version: ModelVersion, revision: CardRevision | None) -> dict[str, str]:
    """Every section's text, "" where nothing is stated: the revision, or what came with the bundle before the first."""
    if revision is not None:
        return {key: str(revision.sections.get(key) or "") for key in KEYS}
    brought = version.manifest.get("card") or {}
    texts = {key: str(brought.get(key) or "").strip() for key in KEYS}
    return {key: "" if text in FILLERS else text for key, text in texts.items()}


def missing(version: ModelVersion) -> list[str]:
    """Titles of the sections that a version needs before it goes into production and lacks."""
    texts = sections_of(version, revision_of(version))
    return [section.title for section in SECTIONS if section.for_production and not texts[section.key]]


def write(version: ModelVersion, sections: dict[str, str], *, base: int, by: User) -> CardRevision:
    """Add a revision. sections: those that change. base: number of the revision that was read, 0 for none.

    Raises `CardError` where somebody else wrote meanwhile, where nothing changes, or where a section is unknown or too
    long.
    """
    unknown = [key for key in sections if key not in KEYS]
    if unknown:
        raise CardError(f"A card has no section {unknown[0]!r}.", f"Its sections: {', '.join(KEYS)}.")
    for section in SECTIONS:
        if len(sections.get(section.key, "")) > LONGEST:
            raise CardError(f"“{section.title}” is longer than {LONGEST:,} characters.", "Shorten it.")
    with transaction.atomic():
        ModelVersion.objects.select_for_update(no_key=True).get(pk=version.pk)
        newest = revision_of(version)
        number = newest.number if newest else 0
        if number != base:
            by_whom = f" by {newest.by}" if newest else ""
            raise CardError(
                f"The card was changed meanwhile{by_whom} (revision {number}).",
                "Read the new text, then make your change in it.",
            )
        before = sections_of(version, newest)
        texts = {**before, **{key: text.replace("\r\n", "\n").strip() for key, text in sections.items()}}
        if texts == before:
            raise CardError("Nothing was changed.", "Change a section, or leave the page.")
        made = CardRevision.objects.create(version=version, number=number + 1, sections=texts, by=by)
        changed: dict[str, Any] = {key: True for key in KEYS if texts[key] != before[key]}
        trail.record(
            "version.card", version, project=version.model.project_id, user=by, revision=made.number, **changed
        )
    return made
