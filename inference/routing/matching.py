"""Which rule runs what on a study, or why not. Reads only, and the same for a dry run and for what is done."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from django.conf import settings
from django.db.models import OuterRef, QuerySet, Subquery
from django.utils import timezone

from inference.prediction.models import Prediction
from inference.registry.models import ModelVersion
from inference.routing.conditions import Candidate, Conditions, Mismatch
from inference.routing.models import RoutedStudy, RoutingRule
from studies.models import Instance, Origin, Refusal, Series, Study

# Objects about images, among them what models make: a rule never runs on them, whoever sent them in.
NOT_ROUTED_MODALITIES = ("SEG", "SR", "PR", "KO", "RTSTRUCT", "RTPLAN", "RTDOSE", "REG", "DOC", "ECG", "AU", "RWV")
NOT_ROUTED_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.66.4",  # Segmentation
    "1.2.840.10008.5.1.4.1.1.66.5",  # Surface Segmentation
    "1.2.840.10008.5.1.4.1.1.66.7",  # Label Map Segmentation
    "1.2.840.10008.5.1.4.1.1.30",  # Parametric Map
)


COLUMNS = (
    "study", "modality", "body_part_examined", "import_source", "sending_ae_title", "series_description",
    "manufacturer", "manufacturer_model_name", "station_name", "number_of_instances", "series_number", "updated_at",
)  # fmt: skip


class Verdict(StrEnum):
    MATCH = "match"
    PRESENT = "present"
    NO_MATCH = "no_match"
    HELD = "held"
    UNSETTLED = "unsettled"
    SKIPPED = "skipped"


WORDS = {
    Verdict.MATCH: "Would run",
    Verdict.PRESENT: "Result is there",
    Verdict.NO_MATCH: "Does not match",
    Verdict.HELD: "Waits: files in quarantine",
    Verdict.UNSETTLED: "Still coming in",
    Verdict.SKIPPED: "Skipped",
}


@dataclass(frozen=True)
class Decision:
    """What a rule says to a study. `ran`: what was run on it by a rule; with a match, before the image changed."""

    study: Study
    verdict: Verdict
    reason: str = ""
    image: Series | None = None
    version: ModelVersion | None = None
    ran: RoutedStudy | None = None
    mismatches: tuple[tuple[Series, Mismatch], ...] = ()

    @property
    def words(self) -> str:
        return WORDS[self.verdict]


@dataclass
class Facts:
    """What is known of some studies, read in a few queries however many they are."""

    images: dict[int, list[Series]]
    held: set[int]
    ran: dict[tuple[int, int], RoutedStudy]  # (study, version) → what stands for it
    predicted: dict[tuple[int, int], int]  # (study, version) → prediction
    at_rest_since: datetime
    candidates: dict[int, Candidate] = field(default_factory=dict)

    def arrived_at(self, study: Study) -> datetime | None:
        """When its last acquired image came in."""
        return max((one.updated_at for one in self.images.get(study.pk, ())), default=None)

    def number_of_instances(self, study: Study) -> int:
        return sum(one.number_of_instances for one in self.images.get(study.pk, ()))


def acquired() -> QuerySet[Series]:
    """Image series of patients, with the SOP class of their first object. What models made is none of them."""
    first = Instance.objects.filter(series=OuterRef("pk")).order_by("instance_number", "pk")
    series = Series.objects.filter(origin=Origin.ACQUIRED, number_of_instances__gt=0)
    return series.annotate(sop_class_uid=Subquery(first.values("sop_class_uid")[:1]))


def settled_before() -> datetime:
    """What got its last image before this moment counts as whole."""
    return timezone.now() - timedelta(seconds=settings.ROUTING_SETTLE_SECONDS)


def facts_of(studies: Sequence[Study], versions: Iterable[ModelVersion]) -> Facts:
    keys = [study.pk for study in studies]
    images: dict[int, list[Series]] = {}
    for series in (
        acquired().filter(study__in=keys).only(*COLUMNS).order_by("-number_of_instances", "series_number", "pk")
    ):
        images.setdefault(series.study_id, []).append(series)
    open_files = Refusal.objects.open().filter(
        study_instance_uid__in=[study.study_instance_uid for study in studies],
        batch__project__in={study.project_id for study in studies},
    )
    held = set(open_files.values_list("batch__project", "study_instance_uid"))
    wanted = [version.pk for version in versions]
    ran = RoutedStudy.objects.filter(
        study__in=keys, version__in=wanted, outcome=RoutedStudy.Outcome.RUN, current=True
    ).select_related("job")
    predictions = Prediction.objects.filter(study__in=keys, version__in=wanted).order_by("-pk")
    said = predictions.values_list("pk", "study_id", "version_id")
    return Facts(
        images=images,
        held={study.pk for study in studies if (study.project_id, study.study_instance_uid) in held},
        ran={(row.study_id, row.version_id): row for row in ran if row.version_id is not None},
        predicted={(study, version): pk for pk, study, version in said},
        at_rest_since=settled_before(),
    )


def decide(
    rule: RoutingRule, conditions: Conditions, version: ModelVersion | None, study: Study, facts: Facts
) -> Decision:
    """`version`: what the rule runs at present (`RoutingRule.present_version`)."""
    fitting: list[Series] = []
    mismatches: list[tuple[Series, Mismatch]] = []
    for series in facts.images.get(study.pk, ()):
        sop_class: str = series.sop_class_uid  # type: ignore[attr-defined]
        if series.modality in NOT_ROUTED_MODALITIES or sop_class in NOT_ROUTED_CLASSES:
            continue
        mismatch = conditions.mismatch(_candidate(series, study, facts))
        if mismatch is None:
            fitting.append(series)
        else:
            mismatches.append((series, mismatch))
    if not fitting:
        return Decision(study, Verdict.NO_MATCH, _why_none(mismatches), mismatches=tuple(mismatches))
    if study.pk in facts.held:
        return Decision(study, Verdict.HELD, "Some of its files wait in the quarantine.", fitting[0])
    arrived = facts.arrived_at(study)
    if arrived is not None and arrived >= facts.at_rest_since:
        return Decision(study, Verdict.UNSETTLED, "Images came in a moment ago.", fitting[0])
    if version is None:
        return Decision(study, Verdict.SKIPPED, f"No version of {rule.model} is in production.", fitting[0])
    ran = facts.ran.get((study.pk, version.pk))
    if ran is not None:
        image = next((one for one in facts.images[study.pk] if one.pk == ran.image_id), None)
        if image is None or image.number_of_instances == ran.number_of_instances:
            return Decision(
                study, Verdict.PRESENT, f"{version} was run on it by a rule.", image or fitting[0], version, ran=ran
            )
        if ran.job is not None and not ran.job.ended:
            return Decision(
                study, Verdict.UNSETTLED, "It has new images while a run on it has not ended.", image, version, ran=ran
            )
        return Decision(
            study,
            Verdict.MATCH,
            f"The image has {image.number_of_instances} objects now; it was run with {ran.number_of_instances}.",
            image,
            version,
            ran=ran,
        )
    accepted = (version.manifest.get("inputs") or [{}])[0].get("modality") or []
    usable = [one for one in fitting if not accepted or one.modality in accepted]
    if not usable:
        return Decision(
            study,
            Verdict.SKIPPED,
            f"{version} works on {' or '.join(accepted)}, the series that match are "
            f"{', '.join(sorted({one.modality or 'of unknown modality' for one in fitting}))}.",
            fitting[0],
            version,
        )
    if (study.pk, version.pk) in facts.predicted:
        return Decision(study, Verdict.PRESENT, f"{version} was run on it already.", usable[0], version)
    return Decision(study, Verdict.MATCH, "", usable[0], version)


def _candidate(series: Series, study: Study, facts: Facts) -> Candidate:
    if series.pk not in facts.candidates:
        facts.candidates[series.pk] = Candidate(
            modality=series.modality,
            body_part_examined=series.body_part_examined,
            sop_class_uid=series.sop_class_uid or "",  # type: ignore[attr-defined]
            import_source=series.import_source,
            sending_ae_title=series.sending_ae_title,
            study_description=study.study_description,
            series_description=series.series_description,
            manufacturer=series.manufacturer,
            manufacturer_model_name=series.manufacturer_model_name,
            station_name=series.station_name,
            number_of_instances=series.number_of_instances,
        )
    return facts.candidates[series.pk]


def _why_none(mismatches: Sequence[tuple[Series, Mismatch]]) -> str:
    """The condition at which most series fail; of the study's largest series what it has there."""
    if not mismatches:
        return "It has no acquired images."
    found: dict[str, int] = {}
    for _, mismatch in mismatches:
        found[mismatch.condition] = found.get(mismatch.condition, 0) + 1
    if len(mismatches) == 1 or len(found) == 1:
        return mismatches[0][1].words + ("" if len(mismatches) == 1 else f" in the largest of {len(mismatches)} series")
    return f"None of {len(mismatches)} series: " + ", ".join(f"{name} ({n})" for name, n in found.items())
