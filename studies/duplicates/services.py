"""The only writers of looks, fingerprints and pairs.

A series is looked at when it is at rest: a radiograph as one picture, each of up to four; a volume or a film by its
slices at a quarter, a half and three quarters of the way, which must all look the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

from django.db import connection, transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from portal.accounts.models import Project, User
from studies.dicom import phash
from studies.dicom.rendering import RenderError, render
from studies.duplicates.models import Fingerprint, Look, Pair
from studies.ingest.staging import media
from studies.models import Instance, Origin, Patient, Series, Study

# Bits of 255. Pictures saved again, scaled, brightened or cut by 1 % differ in fewer, other patients' in more
# (docs/cohorts.md has the measured distances).
FURTHEST = 32
SETTLED = timedelta(seconds=10)  # without new images before a series counts as whole
SINGLE_PICTURES = 4  # a series of more frames is a volume or a film
_LOCK = 0x51C1  # any fixed number
MOST_PAIRS = 20  # of one fingerprint, the nearest; a logo or a calibration image may match thousands
NOT_COMPARED = ("SEG", "SR", "PR", "KO", "RTSTRUCT", "RTPLAN", "RTDOSE", "REG", "DOC", "ECG", "AU", "SM")


def pending(project: Project | None = None, *, settled: bool = True) -> QuerySet[Series]:
    """Acquired image series that were never looked at, or got images since; with `settled` only those at rest."""
    series = Series.objects.filter(origin=Origin.ACQUIRED, number_of_instances__gt=0).exclude(modality__in=NOT_COMPARED)
    series = series.filter(Q(look__isnull=True) | ~Q(look__number_of_instances=F("number_of_instances")))
    if project is not None:
        series = series.filter(study__project=project)
    if settled:
        series = series.filter(updated_at__lt=timezone.now() - SETTLED)
    return series.order_by("pk")


def compare_pending(project: Project | None = None, *, settled: bool = True, limit: int | None = None) -> int:
    """Look at what is pending and compare it with everything known; returns how many series that were."""
    return compare(list(pending(project, settled=settled)[:limit]))


def compare(series: Sequence[Series]) -> int:
    """Fingerprints of these series, and the pairs that they make with all others, whatever the project."""
    frames = _frames(series)
    looked = [(one, _hashes(frames[one.pk])) for one in series]
    with transaction.atomic():
        with connection.cursor() as cursor:  # one after the other, so that neither misses the other's new series
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        held = {row.pk: row for row in Series.objects.select_for_update().filter(pk__in=[one.pk for one in series])}
        Fingerprint.objects.filter(series__in=held).delete()
        made, looks = [], []
        for one, hashes in looked:
            if one.pk not in held:
                continue
            looks.append(Look(series=one, number_of_instances=one.number_of_instances))
            made += [
                Fingerprint(series=one, pictures=len(each) // phash.BYTES, hashes=each)
                for each in dict.fromkeys(hashes)
            ]
        Look.objects.bulk_create(
            looks,
            update_conflicts=True,
            unique_fields=["series"],
            update_fields=["number_of_instances", "looked_at"],
        )
        Fingerprint.objects.bulk_create(made)
        _pair(made)
    return len(looked)


def standing_pairs(studies: Iterable[Study] | QuerySet[Study]) -> list[tuple[int, int, Pair]]:
    """(patient, patient, pair) of near-duplicates between these studies, both in one project."""
    found = (
        Pair.objects.standing()
        .filter(one__study__in=studies, other__study__in=studies)
        .filter(one__study__project=F("other__study__project"))
        .select_related("one__study", "other__study")
        .order_by("pk")
    )
    return [(pair.one.study.patient_id, pair.other.study.patient_id, pair) for pair in found]


@transaction.atomic
def dismiss(pair: Pair, *, by: User | None) -> Pair:
    """A person says that the two are not the same image: from now on they may lie on two sides of a split."""
    return _settle(pair, Pair.State.DISMISSED, by)


@transaction.atomic
def restore(pair: Pair, *, by: User | None) -> Pair:
    """The pair counts again."""
    return _settle(pair, Pair.State.FOUND, by)


def _settle(pair: Pair, state: Pair.State, by: User | None) -> Pair:
    pair = Pair.objects.select_for_update().get(pk=pair.pk)
    pair.state, pair.settled_by, pair.settled_at = state, by, timezone.now()
    pair.save(update_fields=["state", "settled_by", "settled_at"])
    return pair


def _frames(series: Sequence[Series]) -> dict[int, list[tuple[str, int]]]:
    """Series → (file, number of the frame in it) of each of its frames, in order."""
    found: dict[int, list[tuple[str, int]]] = {one.pk: [] for one in series}
    rows = Instance.objects.filter(series__in=found, number_of_frames__gt=0).order_by("instance_number", "pk")
    for pk, file, n in rows.values_list("series_id", "file", "number_of_frames"):
        found[pk] += [(file, index) for index in range(n)]
    return found


def _hashes(frames: Sequence[tuple[str, int]]) -> list[bytes]:
    """One entry for each picture that can be compared; of a volume one of three slices."""
    if len(frames) <= SINGLE_PICTURES:
        found = [_hash(file, index) for file, index in frames]
        return [each for each in found if each is not None]
    slices = [_hash(*frames[len(frames) * quarter // 4]) for quarter in (1, 2, 3)]
    known = [each for each in slices if each is not None]
    return [b"".join(known)] if len(known) == len(slices) else []


def _hash(file: str, frame: int) -> bytes | None:
    try:
        return phash.fingerprint(render(media(file), frame))
    except (RenderError, OSError):  # what cannot be shown cannot be compared; the quality control says so
        return None


def _pair(new: Sequence[Fingerprint]) -> None:
    """Pairs between these fingerprints and all others of the same kind, of other patients."""
    nearest: dict[tuple[int, int], int] = {}
    for pictures in {one.pictures for one in new}:
        group = [one for one in new if one.pictures == pictures]
        known = list(
            Fingerprint.objects.filter(pictures=pictures).values_list("series", "series__study__patient", "hashes")
        )
        patients = dict(
            Patient.objects.filter(studies__series__in=[one.series_id for one in group]).values_list(
                "studies__series", "pk"
            )
        )
        by_new: dict[int, list[tuple[int, int]]] = {}
        hashes = [bytes(row[2]) for row in known]
        for i, j, bits in phash.near([bytes(one.hashes) for one in group], hashes, FURTHEST):
            series, patient, _ = known[j]
            if patient != patients[group[i].series_id]:
                by_new.setdefault(i, []).append((bits, series))
        for i, found in by_new.items():
            for bits, series in sorted(found)[:MOST_PAIRS]:
                key = (min(series, group[i].series_id), max(series, group[i].series_id))
                nearest[key] = min(bits, nearest.get(key, bits))
    Pair.objects.bulk_create(
        (Pair(one_id=one, other_id=other, distance=bits) for (one, other), bits in sorted(nearest.items())),
        update_conflicts=True,
        unique_fields=["one", "other"],
        update_fields=["distance"],
    )
