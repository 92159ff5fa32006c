"""Writing nodes down, and knowing who calls."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction

from portal.accounts.audit import trail
from portal.accounts.models import Project, User
from studies.dicomweb.scope import Scope
from studies.dimse.errors import NodeError
from studies.dimse.models import RemoteNode
from studies.models import Origin, Series, Study

FIELDS = (
    "name", "kind", "active", "ae_title", "host", "port", "tls", "called_ae_title", "addresses", "services",
    "include_results", "retrieve_by", "url", "token",
)  # fmt: skip
_AE_TITLE = re.compile(r"[!-\[\]-~](?:[ -\[\]-~]{0,14}[!-\[\]-~])?\Z")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:_-]{0,251}[A-Za-z0-9])?\Z|[0-9A-Fa-f:]{2,39}\Z")


def create(project: Project, by: User | None, **values: Any) -> RemoteNode:
    """Raises NodeError."""
    with transaction.atomic():
        node = _save(RemoteNode(project=project, created_by=by), values)
        trail.record("node.create", node)
    return node


def change(node: RemoteNode, **values: Any) -> RemoteNode:
    """Raises NodeError. An empty `token` leaves the one that is kept, unless the node gets another address."""
    moved = values.get("url", node.url) != node.url
    if not values.get("token") and not moved:
        values.pop("token", None)
    with transaction.atomic():
        node = _save(node, values)
        trail.record("node.change", node)
    return node


def remove(node: RemoteNode) -> None:
    with transaction.atomic():
        trail.record("node.remove", node)
        node.delete()


def _save(node: RemoteNode, values: dict[str, Any]) -> RemoteNode:
    unknown = values.keys() - set(FIELDS)
    if unknown:
        raise TypeError(f"A node has no {', '.join(sorted(unknown))}.")
    for name, value in values.items():
        setattr(node, name, value.strip() if isinstance(value, str) else value)
    _check(node)
    try:
        with transaction.atomic():
            node.save()
    except IntegrityError as error:
        if "remote_node_titles_once" in str(error):
            raise NodeError(
                f"Another node calls “{node.called_ae_title}” as “{node.ae_title}”.",
                "Let this one call us by another AE title: any title that only this node uses.",
            ) from None
        if "remote_node_name_once" in str(error):
            raise NodeError(f"The project has a node “{node.name}” already.", "Choose another name.") from None
        raise
    return node


def _check(node: RemoteNode) -> None:
    if not node.name:
        raise NodeError("The node has no name.", "Give it one.")
    if node.kind not in RemoteNode.Kind.values or node.retrieve_by not in RemoteNode.Retrieve.values:
        raise NodeError("There is no such kind of node.", "Choose DICOM or DICOMweb.")
    if not node.is_dimse:
        if not re.match(r"https?://[^\s/@]+(/\S*)?\Z", node.url):
            raise NodeError("A DICOMweb node needs the address of its root.", "For example https://host/dicom-web.")
        node.url = node.url.rstrip("/")
        node.ae_title = node.host = node.called_ae_title = ""
        node.port, node.addresses, node.services = None, [], []
        return
    node.url = node.token = ""
    node.called_ae_title = node.called_ae_title or settings.DIMSE_AE_TITLE
    for title in (node.ae_title, node.called_ae_title):
        if not _AE_TITLE.match(title):
            raise NodeError(f"“{title}” is no AE title.", "1 to 16 letters, digits and signs, without backslash.")
    if not _HOST.match(node.host):
        raise NodeError("The host is missing or not a name or address.", "Give where we reach the node.")
    if not node.port or not 1 <= int(node.port) <= 65535:
        raise NodeError("The port is missing.", "A number from 1 to 65535; 104 and 11112 are usual.")
    for address in node.addresses:
        try:
            ipaddress.ip_network(address, strict=False)
        except ValueError:
            raise NodeError(
                f"“{address[:50]}” is neither an address nor a network.", "For example 10.1.2.3 or 10.1.0.0/16."
            ) from None
    wrong = set(node.services) - set(RemoteNode.Service.values)
    if wrong:
        raise NodeError(f"There is no service {', '.join(sorted(wrong))}.", "Choose among those offered.")


def caller(calling: str, called: str, address: str, *, tls: bool) -> RemoteNode | None:
    """The node that calls, or None where nobody is known by these titles at this address."""
    node = (
        RemoteNode.objects.filter(
            kind=RemoteNode.Kind.DIMSE, active=True, ae_title=calling.strip(), called_ae_title=called.strip()
        )
        .select_related("project")
        .first()
    )
    if node is None or not node.may_call_from(address) or (node.tls and not tls):
        return None
    return node


def scope_of(node: RemoteNode) -> Scope:
    """What a node may find and fetch: its project's images, and results where it is trusted with them."""
    kinds = [Origin.ACQUIRED]
    if node.include_results:
        kinds += [Origin.MODEL, Origin.ANNOTATION, Origin.REFERENCE]
    series = Series.objects.filter(study__project=node.project, origin__in=kinds)
    return Scope(
        base_path="",
        user=None,  # type: ignore[arg-type]  # nobody is signed in: the node itself is let in
        visible_studies=lambda: Study.objects.filter(pk__in=series.values("study")),
        visible_series=lambda: series,
    )
