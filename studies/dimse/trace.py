"""What the audit trail keeps of conversations between imaging systems: the node acts, nobody is signed in."""

from __future__ import annotations

from django.db.models import QuerySet

from portal.accounts.audit import trail
from studies.dimse.models import RemoteNode
from studies.models import Instance


def exported(rows: QuerySet[Instance], node: RemoteNode, service: str, address: str | None = None) -> None:
    """Before objects leave: a row for each study. `address`: of the asking system. Raises `NotRecorded`."""
    studies = rows.order_by().values_list("series__study_id", "series__study__patient_id").distinct()
    for study, patient in studies:
        trail.record(
            "study.export",
            kind="studies.study",
            key=study,
            project=node.project_id,
            patient=patient,
            address=address,
            node=node.pk,
            service=service,
        )


def searched(node: RemoteNode, address: str | None) -> None:
    trail.record("list.view", node, address=address, seconds=trail.READ_SECONDS, node=node.pk, service="find")
