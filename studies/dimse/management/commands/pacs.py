"""`manage.py pacs`: ask another imaging system by hand or from a script."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict
from datetime import date
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from studies.dimse import remote
from studies.dimse.errors import RemoteError
from studies.dimse.models import RemoteNode
from studies.models import Instance, Origin


class Command(BaseCommand):
    help = "Ask a node (see the page “PACS”): echo, find, retrieve or send. NODE is a name, or PROJECT/NAME."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        echo = verbs.add_parser("echo", help="is it there?")
        find = verbs.add_parser("find", help="which studies has it?")
        retrieve = verbs.add_parser("retrieve", help="bring studies into the node's project")
        send = verbs.add_parser("send", help="send studies, or only their results, to the node")
        for one in (echo, find, retrieve, send):
            one.add_argument("node", metavar="NODE")
        find.add_argument("--patient-id", default="")
        find.add_argument("--patient-name", default="", help="wildcards * and ? are allowed")
        find.add_argument("--accession-number", default="")
        find.add_argument("--modality", default="")
        find.add_argument("--from", dest="first_day", type=date.fromisoformat, metavar="YYYY-MM-DD")
        find.add_argument("--to", dest="last_day", type=date.fromisoformat, metavar="YYYY-MM-DD")
        find.add_argument("--json", action="store_true")
        for one in (retrieve, send):
            one.add_argument("studies", nargs="+", metavar="STUDYINSTANCEUID")
        send.add_argument("--results", action="store_true", help="only what models made")

    def handle(self, *, verb: str, node: str, **options: Any) -> None:
        warnings.simplefilter("ignore")  # pydicom's warnings quote values
        try:
            getattr(self, f"_{verb}")(_node(node), options)
        except RemoteError as error:
            raise CommandError(str(error)) from None

    def _echo(self, node: RemoteNode, options: dict[str, Any]) -> None:
        self.stdout.write(f"{node} answered after {1000 * remote.echo(node):.0f} ms")

    def _find(self, node: RemoteNode, options: dict[str, Any]) -> None:
        fields = ("patient_id", "patient_name", "accession_number", "modality", "first_day", "last_day")
        found, complete = remote.find(node, remote.Wanted(**{name: options[name] for name in fields}))
        if options["json"]:
            self.stdout.write(json.dumps([asdict(one) for one in found], ensure_ascii=False))
            return
        for one in found:
            self.stdout.write("\t".join(str(value) for value in asdict(one).values()))
        self.stdout.write(f"{len(found)} studies" + ("" if complete else "; there are more"))

    def _retrieve(self, node: RemoteNode, options: dict[str, Any]) -> None:
        refused = 0
        for uid in options["studies"]:
            done = remote.retrieve(node, uid)
            for outcome in done.refused:
                self.stdout.write(f"refused {outcome.sop_instance_uid}: {outcome.code}: {outcome.reason}")
            for series, why in done.failed.items():
                self.stdout.write(f"series {series} did not come: {why}")
            refused += len(done.refused) + len(done.failed)
            self.stdout.write(
                f"{uid}: {done.stored} stored, {done.duplicate} already there, {len(done.refused)} refused"
                f" (import {done.batch.pk})"
            )
        if refused:
            raise CommandError(f"{refused} objects or series did not come in; see the reasons above.")

    def _send(self, node: RemoteNode, options: dict[str, Any]) -> None:
        for uid in options["studies"]:
            instances = Instance.objects.filter(project=node.project, series__study__study_instance_uid=uid)
            if options["results"]:
                instances = instances.filter(series__origin=Origin.MODEL)
            sent = remote.send(node, instances.exclude(series__origin=Origin.DRAFT))
            self.stdout.write(f"{uid}: {sent.sent} sent, {len(sent.failed)} refused")
            for failed, why in sent.failed.items():
                self.stdout.write(f"refused {failed}: {why}")
            if sent.failed:
                raise CommandError("The remote refused objects; see the reasons above.")


def _node(name: str) -> RemoteNode:
    slug, _, rest = name.rpartition("/")
    nodes = RemoteNode.objects.filter(name=rest, active=True).select_related("project")
    found = list(nodes.filter(project__slug=slug) if slug else nodes)
    if len(found) == 1:
        return found[0]
    if not found:
        raise CommandError(f"There is no active node “{name}”.")
    raise CommandError(
        "Several projects have a node of this name: " + ", ".join(f"{n.project.slug}/{n}" for n in found)
    )
