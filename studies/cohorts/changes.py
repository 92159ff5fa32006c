"""What changed in a study since it became a case: images that came or went, and findings of the quality control."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

from studies.cohorts.models import Case
from studies.dicom.quality import CODES
from studies.models import Origin, Series
from studies.quality.models import Finding


def snapshots(studies: Collection[int]) -> dict[int, dict[str, Any]]:
    """Study key → what it holds now: {"series": {SeriesInstanceUID: images}, "findings": [code, …]}.

    Only acquired series count: results of models and readers come and go without changing what the case is.
    """
    found: dict[int, dict[str, Any]] = {pk: {"series": {}, "findings": []} for pk in studies}
    rows = Series.objects.filter(study__in=studies, origin=Origin.ACQUIRED)
    for pk, uid, n in rows.values_list("study_id", "series_instance_uid", "number_of_instances"):
        found[pk]["series"][uid] = n
    codes: dict[int, set[str]] = defaultdict(set)
    for pk, code in Finding.objects.filter(series__study__in=studies).values_list("series__study_id", "code"):
        codes[pk].add(code)
    for pk, several in codes.items():
        found[pk]["findings"] = sorted(several)
    return found


def of(cases: Sequence[Case]) -> dict[int, list[str]]:
    """Case key → what changed since it was added, in words; only cases with a change."""
    noted = [case for case in cases if case.as_added is not None]
    now = snapshots({case.study_id for case in noted})
    changed = {case.pk: _differences(case, now[case.study_id]) for case in noted}
    return {pk: words for pk, words in changed.items() if words}


def _differences(case: Case, now: dict[str, Any]) -> list[str]:
    assert case.as_added is not None
    before, after = case.as_added["series"], now["series"]
    words = []
    new, gone = set(after) - set(before), set(before) - set(after)
    if new:
        words.append(f"{len(new)} new series")
    if gone:
        words.append(f"{len(gone)} series deleted")
    more = sum(max(after[uid] - before[uid], 0) for uid in set(before) & set(after))
    fewer = sum(max(before[uid] - after[uid], 0) for uid in set(before) & set(after))
    if more:
        words.append(f"{more} new image{'' if more == 1 else 's'}")
    if fewer:
        words.append(f"{fewer} image{'' if fewer == 1 else 's'} deleted")
    words += [
        f"quality: {CODES.get(code, code).lower()}" for code in now["findings"] if code not in case.as_added["findings"]
    ]
    return words
