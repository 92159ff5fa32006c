"""What the worklist is narrowed to, read from a request, and the query behind it.

Only `text` may name a patient; it travels in the body of a POST and never in an address (`address()` leaves it out).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, timedelta
from urllib.parse import urlencode

from django.db.models import Exists, F, Field, Func, Lookup, OuterRef, Q, QuerySet, Value
from django.http import QueryDict

from inference.prediction.models import Prediction
from portal.accounts.models import Project, User
from studies.cohorts.models import Case, Cohort
from studies.dicom.quality import CODES
from studies.models import Patient, Study
from studies.quality.models import Finding

PAGE_SIZE = 50
DEEPEST_PAGE = 2000
# Objects that are made, not acquired; who may see them differs from user to user, so they are no filter.
NOT_IMAGES = ("SEG", "SR", "PR", "KO", "DOC", "REG", "RTSTRUCT", "RTPLAN", "RTDOSE")
SINCE = {"today": ("Today", 0), "7": ("Last 7 days", 7), "30": ("Last 30 days", 30), "365": ("Last year", 365)}
QUALITY = {"none": "Without findings", "any": "With any finding", **CODES}
AI = {"yes": "With AI result", "no": "Without AI result"}
SORTS = {
    "patient": ["patient__patient_name", "patient__patient_id", "-study_date", "-id"],
    "-patient": ["-patient__patient_name", "-patient__patient_id", "-study_date", "-id"],
    "study": ["study_description", "-study_date", "-id"],
    "-study": ["-study_description", "-study_date", "-id"],
    "acquired": [F("study_date").asc(nulls_last=True), "study_time", "id"],
    "-acquired": [F("study_date").desc(nulls_last=True), "-study_time", "-id"],
    "added": ["id"],
    "-added": ["-id"],
}


class ILike(Lookup):
    """Case-insensitive match that trigram indexes serve (Django's icontains compares UPPER(), which they do not)."""

    lookup_name = "ilike"

    def as_sql(self, compiler, connection):
        left, left_parameters = self.process_lhs(compiler, connection)
        right, right_parameters = self.process_rhs(compiler, connection)
        return f"{left} ILIKE {right}", [*left_parameters, *right_parameters]


def contains(column: str, text: str) -> ILike:
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return ILike(F(column), Value(f"%{escaped}%"))


@dataclass(frozen=True)
class StudyFilter:
    text: str = ""
    modality: str = ""
    body_part: str = ""
    since: str = ""
    first: date | None = None
    last: date | None = None
    ai: str = ""
    quality: str = ""
    cohort: int | None = None
    project: str = ""
    sort: str = "-acquired"
    page: int = 1
    unknown: tuple[str, ...] = field(default=())

    @classmethod
    def of(cls, data: QueryDict) -> StudyFilter:
        """Read a request; what cannot be understood is left out and named in `unknown`."""
        unknown: list[str] = []

        def day(name: str) -> date | None:
            try:
                return date.fromisoformat(data[name]) if data.get(name) else None
            except ValueError:
                unknown.append(name)
                return None

        def whole(name: str) -> int | None:
            value = data.get(name, "")
            if value and not (value.isdecimal() and len(value) < 10):
                unknown.append(name)
                return None
            return int(value) if value else None

        def one_of(name: str, known) -> str:
            value = data.get(name, "")
            if value and value not in known:
                unknown.append(name)
                return ""
            return value

        return cls(
            text=data.get("q", "").replace("\x00", "").strip()[:100],
            modality=data.get("modality", "")[:16],
            body_part=data.get("body_part", "")[:16],
            since=one_of("since", SINCE),
            first=day("first"),
            last=day("last"),
            ai=one_of("ai", AI),
            quality=one_of("quality", QUALITY),
            cohort=whole("cohort"),
            project=data.get("project", "")[:60],
            sort=one_of("resort", SORTS) or one_of("sort", SORTS) or "-acquired",
            page=min(max(whole("page") or 1, 1), DEEPEST_PAGE),
            unknown=tuple(unknown),
        )

    @property
    def narrowed(self) -> bool:
        return bool(self.text or self.parameters(paging=False))

    def parameters(self, paging: bool = True) -> dict[str, str]:
        """As query parameters, without the free text, which may name a patient."""
        values = {
            "modality": self.modality,
            "body_part": self.body_part,
            "since": self.since,
            "first": self.first.isoformat() if self.first else "",
            "last": self.last.isoformat() if self.last else "",
            "ai": self.ai,
            "quality": self.quality,
            "cohort": str(self.cohort or ""),
            "project": self.project,
        }
        if paging:
            values["sort"] = self.sort if self.sort != "-acquired" else ""
            values["page"] = str(self.page) if self.page > 1 else ""
        return {name: value for name, value in values.items() if value}

    def address(self, path: str) -> str:
        parameters = urlencode(self.parameters())
        return f"{path}?{parameters}" if parameters else path

    def apply(self, user: User, chosen: Project | None, today: date) -> QuerySet[Study]:
        """Studies that `user` may see, in the chosen project, narrowed, in order."""
        studies = Study.objects.visible_to(user)
        if chosen is not None:
            studies = studies.filter(project=chosen)
        elif self.project:
            studies = studies.filter(project__in=Project.objects.visible_to(user).filter(slug=self.project))
        if self.modality:
            studies = studies.filter(modalities_in_study__contains=[self.modality])
        if self.body_part:
            studies = studies.filter(body_parts_examined__contains=[self.body_part])
        first = today - timedelta(days=SINCE[self.since][1]) if self.since else self.first
        if first:
            studies = studies.filter(study_date__gte=first)
        if self.last and not self.since:
            studies = studies.filter(study_date__lte=self.last)
        if self.ai:
            with_result = Prediction.objects.unblinded_for(user).order_by().values("study")
            studies = studies.filter(pk__in=with_result) if self.ai == "yes" else studies.exclude(pk__in=with_result)
        if self.quality:
            # Findings are about images, which everybody sees who sees the study.
            findings = Finding.objects.filter(series__study=OuterRef("pk"))
            if self.quality in CODES:
                findings = findings.filter(code=self.quality)
            studies = studies.filter(~Exists(findings) if self.quality == "none" else Exists(findings))
        if self.cohort:
            cohorts = Cohort.objects.visible_to(user).filter(pk=self.cohort)
            studies = studies.filter(Exists(Case.objects.filter(study=OuterRef("pk"), cohort__in=cohorts)))
        for word in self.text.split()[:6]:
            studies = studies.filter(pk__in=_with_word(user, word))
        return studies.order_by(*SORTS[self.sort])


def page_of(found: QuerySet[Study], wanted: StudyFilter) -> tuple[list[int], int, int, int]:
    """Keys of one page, number of all studies, the page (the last one where there are fewer) and number of pages.

    Only keys are sorted, not whole rows. A text search is costly to ask and gives few hits: it is asked once, whole.
    """
    keys = found.values_list("pk", flat=True)
    everything = list(keys) if wanted.text else None
    total = found.count() if everything is None else len(everything)
    pages = max(1, -(-total // PAGE_SIZE))
    page = min(wanted.page, pages)
    part = slice((page - 1) * PAGE_SIZE, page * PAGE_SIZE)
    return list(keys[part] if everything is None else everything[part]), total, page, pages


def _with_word(user: User, word: str) -> QuerySet:
    """Keys of studies in which a word occurs; a union, so that each part can use its own trigram index."""
    patients = Patient.objects.visible_to(user).filter(
        Q(contains("patient_name", word)) | Q(contains("patient_id", word))
    )
    visible = Study.objects.visible_to(user).order_by()
    return (
        visible.filter(patient__in=patients)
        .values("pk")
        .union(
            visible.filter(contains("study_description", word)).values("pk"),
            visible.filter(contains("accession_number", word)).values("pk"),
        )
    )


def choices(user: User, chosen: Project | None) -> dict[str, list]:
    """What the filters offer: values that occur in studies that `user` may see."""
    studies = Study.objects.visible_to(user).order_by()
    if chosen is not None:
        studies = studies.filter(project=chosen)
    cohorts = Cohort.objects.visible_to(user)
    return {
        "modalities": [value for value in _distinct(studies, "modalities_in_study") if value not in NOT_IMAGES],
        "body_parts": _distinct(studies, "body_parts_examined"),
        "cohorts": list((cohorts.filter(project=chosen) if chosen else cohorts).order_by("name")[:200]),
        "projects": [] if chosen else list(Project.objects.visible_to(user)[:200]),
    }


def _distinct(studies: QuerySet[Study], column: str) -> list[str]:
    unnested = Func(F(column), function="unnest", output_field=Field())
    return sorted(
        value for value in studies.annotate(value=unnested).values_list("value", flat=True).distinct() if value
    )
