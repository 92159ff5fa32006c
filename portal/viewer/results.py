"""What the viewer's legend says about derived series: model result, annotation or reference, and its provenance."""

from __future__ import annotations

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
        }
        for row in rows
    ]
