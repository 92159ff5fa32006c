"""Other imaging systems that the portal talks to, and promises of storage that are still to be answered."""

from __future__ import annotations

import ipaddress

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models

from portal.accounts.models import Project, User


class RemoteNodeQuerySet(models.QuerySet["RemoteNode"]):
    def visible_to(self, user: User) -> RemoteNodeQuerySet:
        return self.filter(project__in=Project.objects.visible_to(user))


class RemoteNode(models.Model):
    """A PACS, modality or workstation, or a DICOMweb service, tied to one project.

    What it sends goes into that project, what it asks for is looked for in that project only. A caller is known by its
    AE title, the title by which it calls us, and the address it calls from.
    """

    class Kind(models.TextChoices):
        DIMSE = "dimse", "DICOM (DIMSE)"
        DICOMWEB = "dicomweb", "DICOMweb"

    class Service(models.TextChoices):
        STORE = "store", "send objects here (C-STORE)"
        FIND = "find", "search here (C-FIND)"
        MOVE = "move", "have objects sent (C-MOVE)"
        GET = "get", "fetch objects (C-GET)"
        COMMIT = "commit", "ask for storage commitment"

    class Retrieve(models.TextChoices):
        GET = "get", "C-GET"
        MOVE = "move", "C-MOVE to this portal"

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="remote_nodes")
    name = models.CharField(max_length=60)
    kind = models.CharField(max_length=8, choices=Kind.choices, default=Kind.DIMSE)
    active = models.BooleanField(default=True)
    ae_title = models.CharField("its AE title", max_length=16, blank=True)
    host = models.CharField(max_length=253, blank=True, help_text="Name or address at which we reach it")
    port = models.PositiveIntegerField(null=True, blank=True)
    tls = models.BooleanField("TLS", default=False, help_text="We call it with TLS, and it may call with TLS only")
    called_ae_title = models.CharField(
        "our AE title", max_length=16, blank=True, help_text="By which it calls us, and under which we call it"
    )
    addresses = ArrayField(
        models.CharField(max_length=43),
        default=list,
        blank=True,
        help_text="Addresses or networks from which it may call; none: it may not call at all",
    )
    services = ArrayField(models.CharField(max_length=6, choices=Service.choices), default=list, blank=True)
    include_results = models.BooleanField(
        default=False, help_text="It may find and fetch results, annotations and reference standards besides images"
    )
    retrieve_by = models.CharField(max_length=4, choices=Retrieve.choices, default=Retrieve.GET)
    url = models.URLField("DICOMweb root", max_length=300, blank=True)
    token = models.CharField(max_length=2000, blank=True, help_text="Sent as bearer token; never shown again")
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    objects = RemoteNodeQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "name"], name="remote_node_name_once"),
            models.UniqueConstraint(
                fields=["ae_title", "called_ae_title"],
                condition=models.Q(kind="dimse"),
                name="remote_node_titles_once",
            ),
            models.CheckConstraint(
                condition=models.Q(kind="dimse", url="", port__isnull=False)
                & ~models.Q(ae_title="")
                & ~models.Q(called_ae_title="")
                & ~models.Q(host="")
                | models.Q(kind="dicomweb") & ~models.Q(url=""),
                name="remote_node_whole",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def is_dimse(self) -> bool:
        return self.kind == self.Kind.DIMSE

    def may_call_from(self, address: str) -> bool:
        caller = ipaddress.ip_address(address.split("%")[0])
        if isinstance(caller, ipaddress.IPv6Address) and caller.ipv4_mapped is not None:
            caller = caller.ipv4_mapped
        return any(caller in ipaddress.ip_network(network, strict=False) for network in self.addresses)


class Commitment(models.Model):
    """A request for storage commitment (PS3.4 annex J) until its answer has reached the node."""

    class State(models.TextChoices):
        PENDING = "pending"
        REPORTED = "reported"
        GIVEN_UP = "given_up"

    node = models.ForeignKey(RemoteNode, on_delete=models.CASCADE, related_name="commitments")
    transaction_uid = models.CharField(max_length=64)
    references = models.JSONField(help_text="[[SOPClassUID, SOPInstanceUID], …]")
    state = models.CharField(max_length=8, choices=State.choices, default=State.PENDING)
    attempts = models.PositiveSmallIntegerField(default=0)
    due_at = models.DateTimeField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["node", "transaction_uid"], name="commitment_once")]
        indexes = [models.Index(fields=["state", "due_at"], name="commitment_due")]

    def __str__(self) -> str:
        return f"commitment {self.pk}"
