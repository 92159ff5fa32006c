"""What the viewer's legend says about derived series: model result, annotation or reference, and its provenance."""

from __future__ import annotations

from inference.prediction.models import Prediction, PredictionMap
from inference.registry import manifest as manifests
from portal.accounts.models import User
from studies.models import Origin, Series, Study


def of_study(study: Study, user: User) -> list[dict]:
    """The derived series of `study` that `user` may see, newest first."""
    rows = (
        Series.objects.visible_to(user)
        .filter(study=study)
        .exclude(origin=Origin.ACQUIRED)
        .select_related("created_by")
        .order_by("-created_at", "-pk")
    )
    maps = {found.series_id: found for found in PredictionMap.objects.visible_to(user).filter(series__study=study)}
    reports = {
        made.report_id: made.version.manifest
        for made in Prediction.objects.visible_to(user).filter(report__study=study).select_related("version")
    }
    return [
        {
            "series": row.series_instance_uid,
            "modality": row.modality,
            "origin": row.origin,
            "description": row.series_description,
            "provenance": row.provenance,
            "by": str(row.created_by) if row.created_by else "",
            "own": row.created_by_id == user.pk,
            "at": row.created_at.isoformat(),
            "map": {"kind": maps[row.pk].kind, "label": maps[row.pk].label} if row.pk in maps else None,
            "least": manifests.least_shown(reports[row.pk]) if row.pk in reports else None,
        }
        for row in rows
    ]
