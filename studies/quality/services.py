"""The only writers of quality checks and findings."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from datetime import timedelta

import pydicom
from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone
from pydicom.dataset import Dataset

from portal.accounts.models import Project
from studies.dicom.quality import Finding as Found
from studies.dicom.quality import FrameValues, frame_values, geometry_findings, pixel_findings
from studies.dicom.rendering import decoded
from studies.ingest.staging import media
from studies.models import Instance, Origin, Series
from studies.quality.models import Check, Finding

MAX_FRAMES = 1500  # of a series whose pixels are decoded, evenly spread; a longer cine loop is sampled
SETTLED = timedelta(seconds=10)  # without new images before a series counts as whole
# Objects without an image of the patient, and whole slides, whose tiles are blank beside the tissue.
NOT_IMAGES = ("SM", "SEG", "SR", "PR", "KO", "RTSTRUCT", "RTPLAN", "RTDOSE", "REG", "DOC", "ECG", "AU")


def pending(project: Project | None = None, *, settled: bool = True) -> QuerySet[Series]:
    """Acquired image series that were never checked, or got images since; with `settled` only those at rest."""
    series = Series.objects.filter(origin=Origin.ACQUIRED, number_of_instances__gt=0).exclude(modality__in=NOT_IMAGES)
    series = series.filter(
        Q(quality_check__isnull=True) | ~Q(quality_check__number_of_instances=F("number_of_instances"))
    )
    if project is not None:
        series = series.filter(study__project=project)
    if settled:
        series = series.filter(updated_at__lt=timezone.now() - SETTLED)
    return series.order_by("pk")


def check(series: Series) -> list[Finding]:
    """Look at headers and pixels of a series and replace what was found before."""
    instances = list(
        series.instances.filter(number_of_frames__gt=0)
        .only("pk", "file", "number_of_frames")
        .order_by("instance_number", "pk")
    )
    headers, unreadable = _headers(instances)
    found = geometry_findings(headers.values())
    if headers:
        found += _of_pixels([one for one in instances if one.pk in headers], headers, unreadable)
    elif unreadable:
        found += pixel_findings([], undecodable=unreadable)
    return _keep(series, found)


def check_pending(
    project: Project | None = None,
    *,
    settled: bool = True,
    limit: int | None = None,
    on_checked: Callable[[Series, list[Finding]], None] | None = None,
) -> int:
    """Check what is pending, one series after the other; returns how many."""
    keys = list(pending(project, settled=settled).values_list("pk", flat=True)[:limit])
    n = 0
    for key in keys:
        series = Series.objects.filter(pk=key).first()
        if series is None:
            continue
        found = check(series)
        n += 1
        if on_checked is not None:
            on_checked(series, found)
    return n


def _headers(instances: list[Instance]) -> tuple[dict[int, Dataset], int]:
    """Instance id → header, and how many files could not be read."""
    headers: dict[int, Dataset] = {}
    unreadable = 0
    for instance in instances:
        try:
            headers[instance.pk] = pydicom.dcmread(media(instance.file), stop_before_pixels=True)
        except Exception:  # the archive holds it; that it cannot be read is the finding
            unreadable += 1
    return headers, unreadable


def _of_pixels(instances: list[Instance], headers: dict[int, Dataset], unreadable: int) -> list[Found]:
    frames = [(instance, index) for instance in instances for index in range(instance.number_of_frames)]
    stride = -(-len(frames) // MAX_FRAMES)
    values: list[FrameValues | None] = []
    undecodable = unreadable
    for instance, index in frames[::stride]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                stored = decoded(media(instance.file), index)
            values.append(frame_values(stored, headers[instance.pk]))
        except Exception:  # decoders raise whatever they like on bytes they cannot decode
            undecodable += 1
    colour = any(int(header.get("SamplesPerPixel") or 1) > 1 for header in headers.values())
    return pixel_findings(values, colour=colour, undecodable=undecodable)


@transaction.atomic
def _keep(series: Series, found: list[Found]) -> list[Finding]:
    # Where images came meanwhile the count differs and the series stays pending.
    locked = Series.objects.select_for_update().filter(pk=series.pk).first()
    if locked is None:
        return []
    locked.quality_findings.all().delete()
    rows = Finding.objects.bulk_create(
        Finding(series=locked, code=one.code, reason=one.reason[:300], numbers=one.numbers) for one in found
    )
    Check.objects.update_or_create(series=locked, defaults={"number_of_instances": series.number_of_instances})
    return rows
