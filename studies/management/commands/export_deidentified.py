"""Write de-identified copies of studies as DICOM, and as NIfTI where asked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from portal.accounts.audit import trail
from portal.accounts.models import Project, User
from portal.accounts.permissions import Action, may
from studies.cohorts.models import Cohort
from studies.deid import pixels
from studies.deid.errors import DeidError
from studies.deid.models import PixelReview
from studies.deid.options import Option
from studies.deid.profile import Profile
from studies.deid.writing import Order, questions, write
from studies.models import Study


class Command(BaseCommand):
    help = "Export studies without identity (DICOM PS3.15 Annex E)."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--project", required=True, metavar="SLUG")
        parser.add_argument("--cohort", metavar="NAME")
        parser.add_argument("--study", action="append", default=[], metavar="UID", help="StudyInstanceUID; repeatable")
        parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="new or empty folder")
        parser.add_argument(
            "--profile", default="basic", metavar="basic[,option…]", help=f"options: {', '.join(sorted(Option))}"
        )
        parser.add_argument("--remove", action="append", default=[], metavar="KEYWORD", help="remove this, too")
        parser.add_argument(
            "--keep-private",
            action="append",
            default=[],
            metavar="“(gggg,xxee) CREATOR”",
            help="a private attribute that is safe; needs the option retain-safe-private; repeatable",
        )
        parser.add_argument("--nifti", action="store_true", help="also one NIfTI file for each volume")
        parser.add_argument("--results", action="store_true", help="segmentations and reports made here, too")
        parser.add_argument(
            "--sign-off",
            choices=PixelReview.Decision.values,
            help="decide every open question about text in the pixels",
        )
        parser.add_argument("--by", metavar="USERNAME", help="who signs off; needed with --sign-off")
        parser.add_argument("--json", action="store_true", help="print the report for a program to read")

    def handle(self, *, out: Path, **options: Any) -> None:
        project = Project.objects.filter(slug=options["project"]).first()
        if project is None:
            raise CommandError(f"There is no project “{options['project']}”.")
        studies = self._studies(project, options["cohort"], options["study"])
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise CommandError(f"{out} is not empty. Name a new folder.")
        try:
            profile = Profile.parse(options["profile"], options["remove"], options["keep_private"])
            order = Order(project, studies, profile, nifti=options["nifti"], results=options["results"])
            if options["sign_off"]:
                self._sign(order, options["sign_off"], options["by"])
            report = write(order, out)
        except DeidError as error:
            here = " Or decide here: --sign-off clear, blank or withhold, with --by USERNAME."
            raise CommandError(str(error) + here * (error.code == "sign_off")) from error
        self._record(studies, out)
        if options["json"]:
            self.stdout.write(json.dumps(report, indent=2))
            return
        files = sum(series.get("files", 0) for study in report["studies"] for series in study["series"])
        self.stdout.write(f"{files} files of {len(studies)} studies in {out}, profile {profile}")

    def _record(self, studies: list[Study], out: Path) -> None:
        """Rows of the audit trail; without them nothing stays written."""
        try:
            with transaction.atomic():
                for study in studies:
                    trail.record("study.deidentify", study, user=None)
        except BaseException:
            shutil.rmtree(out / "deidentified", ignore_errors=True)
            raise

    def _studies(self, project: Project, cohort: str | None, uids: list[str]) -> list[Study]:
        if bool(cohort) == bool(uids):
            raise CommandError("Name either a cohort or studies.")
        if cohort:
            found = Cohort.objects.filter(project=project, name=cohort).first()
            if found is None:
                raise CommandError(f"The project has no cohort “{cohort}”.")
            studies = [case.study for case in found.cases.select_related("study__patient", "study__project")]
        else:
            studies = list(project.studies.filter(study_instance_uid__in=uids).select_related("patient", "project"))
            if len(studies) < len(set(uids)):
                raise CommandError(f"{len(set(uids)) - len(studies)} of the studies are not in the project.")
        if not studies:
            raise CommandError("There is no study to export.")
        return studies

    def _sign(self, order: Order, decision: str, username: str | None) -> None:
        by = User.objects.filter(username=username or "", is_active=True).first()
        if by is None or not may(by, Action.MANAGE, order.project):
            raise CommandError("A sign-off needs a manager of the project: add --by USERNAME.")
        for review in questions(order):
            if not review.decision:
                pixels.sign(review, decision=decision, by=by)
