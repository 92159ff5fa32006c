"""What a campaign is made of, and what keeps one from being made."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from inference.registry.models import ModelVersion
from portal.accounts.models import Project, User
from portal.accounts.permissions import Action, may
from portal.annotation.errors import CampaignError
from portal.annotation.models import Campaign, Question
from studies.cohorts.models import Cohort, ReferenceStandard

MAX_SEGMENT_NUMBER = 255  # as many as an 8-bit label map holds
DEFAULT_COLORS = ["#5acce6", "#d9b726", "#c097fe", "#ea6848", "#2b84f0", "#97cf85", "#ee93a8", "#70768e"]
_COLOR = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True)
class QuestionSpec:
    text: str
    kind: str
    choices: list[str] = field(default_factory=list)
    required: bool = True


@dataclass(frozen=True)
class SegmentSpec:
    number: int
    name: str
    color: str = ""
    required: bool = False


def problems(
    *,
    project: Project,
    name: str,
    cohort: Cohort | None,
    readers: Sequence[User],
    overlap: int,
    questions: Sequence[QuestionSpec],
    segments: Sequence[SegmentSpec],
    ai_version: ModelVersion | None = None,
) -> list[CampaignError]:
    """All that keeps a campaign like this from being made, each naming its field: `readers`, `questions-2`, …"""
    return [
        *_name_problems(project, name.strip()),
        *cohort_problems(project, cohort),
        *_ai_problems(project, ai_version),
        *_content_problems(questions, segments),
        *_question_problems(questions),
        *_segment_problems(segments),
        *reader_problems(project, readers, overlap),
    ]


def _name_problems(project: Project, name: str) -> Iterator[CampaignError]:
    if not name:
        yield CampaignError("The campaign has no name.", "Give it one.", "name")
    elif len(name) > 120:
        yield CampaignError("The name is too long.", "Use at most 120 characters.", "name")
    elif Campaign.objects.filter(project=project, name=name).exists():
        yield CampaignError(f"This project already has a campaign named “{name}”.", "Choose another name.", "name")


def cohort_problems(project: Project, cohort: Cohort | None) -> Iterator[CampaignError]:
    if cohort is None:
        yield CampaignError("No cohort is chosen.", "Choose whose cases are read.", "cohort")
    elif cohort.project_id != project.pk:
        yield CampaignError("This cohort belongs to another project.", "Choose a cohort of this project.", "cohort")
    elif not cohort.cases.exists():
        yield CampaignError(
            f"The cohort “{cohort.name}” has no cases.", "Add studies to it, or choose another cohort.", "cohort"
        )


def _ai_problems(project: Project, version: ModelVersion | None) -> Iterator[CampaignError]:
    if version is not None and version.model.project_id != project.pk:
        yield CampaignError("This model belongs to another project.", "Choose one of this project.", "ai_version")


def _content_problems(questions: Sequence[QuestionSpec], segments: Sequence[SegmentSpec]) -> Iterator[CampaignError]:
    if not questions and not segments:
        yield CampaignError(
            "There is nothing to read: no question and no segment.", "Add a question or a segment.", "questions"
        )


def _question_problems(questions: Sequence[QuestionSpec]) -> Iterator[CampaignError]:
    for i, question in enumerate(questions, start=1):
        field = f"questions-{i}"
        if not question.text.strip():
            yield CampaignError(f"Question {i} has no text.", "Write it, or remove the row.", field)
        elif len(question.text.strip()) > 300:
            yield CampaignError(f"Question {i} is too long.", "Use at most 300 characters.", field)
        if question.kind not in Question.Kind.values:
            yield CampaignError(f"Question {i} has an unknown kind of answer.", "Choose one.", field)
        elif question.kind == Question.Kind.CHOICE:
            if len(question.choices) < 2 or len(set(question.choices)) < len(question.choices):
                yield CampaignError(f"Question {i} needs two or more different choices.", "One on each line.", field)
        elif question.kind == Question.Kind.SCALE and len(question.choices) not in (0, 2, 5):
            yield CampaignError(
                f"The scale of question {i} has {len(question.choices)} names.",
                "Name none, the two ends, or all five steps, on a line each.",
                field,
            )


def _segment_problems(segments: Sequence[SegmentSpec]) -> Iterator[CampaignError]:
    numbers = Counter(segment.number for segment in segments)
    names = Counter(segment.name.strip().casefold() for segment in segments)
    for i, segment in enumerate(segments, start=1):
        field, name = f"segments-{i}", segment.name.strip()
        if not name or len(name) > 64:
            yield CampaignError(f"Segment {i} needs a name of at most 64 characters.", "Or remove the row.", field)
        elif not 1 <= segment.number <= MAX_SEGMENT_NUMBER:
            yield CampaignError(
                f"The number of “{name}” is {segment.number}.", f"Use 1 to {MAX_SEGMENT_NUMBER}.", field
            )
        elif segment.color and not _COLOR.fullmatch(segment.color):
            yield CampaignError(f"The colour of “{name}” is not one.", "Write it like #5acce6.", field)
        elif numbers[segment.number] > 1 or names[name.casefold()] > 1:
            yield CampaignError(f"“{name}” shares its number or name with another segment.", "Make both unique.", field)


def reader_problems(project: Project, readers: Sequence[User], overlap: int) -> Iterator[CampaignError]:
    if not readers:
        yield CampaignError("No reader is chosen.", "Choose at least one.", "readers")
        return
    if len({reader.pk for reader in readers}) < len(readers):
        yield CampaignError("A reader is chosen twice.", "Choose each once.", "readers")
    for reader in readers:
        if not may(reader, Action.READ, project):
            yield CampaignError(
                f"{reader} may not read in this project.",
                "Give this person the role reader in the project first, or choose somebody else.",
                "readers",
            )
    if overlap < 1:
        yield CampaignError("Every case needs at least one read.", "Ask for 1 or more.", "overlap")
    elif overlap > len(readers):
        chosen = "1 reader is" if len(readers) == 1 else f"{len(readers)} readers are"
        yield CampaignError(
            f"Only {chosen} chosen.", f"Choose more, or ask for {len(readers)} or fewer reads a case.", "overlap"
        )


def known_structures(project: Project) -> list[str]:
    """Names of the structures that the project's models segment and its reference standards hold, models' first."""
    manifests = ModelVersion.objects.filter(model__project=project).order_by("-pk").values_list("manifest", flat=True)
    labels = [label for manifest in manifests[:20] for label in manifest.get("labels", [])]
    for held in ReferenceStandard.objects.filter(cohort__project=project).order_by("-pk").values_list("labels")[:20]:
        labels += held[0]
    return list(dict.fromkeys(label["name"] for label in labels))[:20]
