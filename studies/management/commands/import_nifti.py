"""`manage.py import_nifti`: NIfTI images and masks as DICOM series, SEG objects, a cohort and a reference standard."""

from __future__ import annotations

import json
from argparse import ArgumentParser, ArgumentTypeError
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from portal.accounts import services as accounts
from portal.accounts.models import Project, User
from studies.cohorts.errors import CohortError
from studies.cohorts.splits import DEFAULT_FRACTIONS, SIDES
from studies.dicom.errors import ImageError
from studies.dicom.labels import parse
from studies.dicom.series import SOP_CLASSES
from studies.ingest.nifti import Plan, Summary, import_pairs


def _fractions(text: str) -> dict[str, float]:
    parts = text.split(",")
    if len(parts) != len(SIDES):
        raise ArgumentTypeError("give three fractions: training,validation,test, for example 0.7,0.1,0.2")
    try:
        return {side: float(part) for side, part in zip(SIDES, parts, strict=True)}
    except ValueError:
        raise ArgumentTypeError(f"“{text}” is not three numbers")


class Command(BaseCommand):
    help = (
        "Import NIfTI images (a folder or one file) as DICOM series, and their masks, paired by file name, as DICOM SEG"
        " with a reference standard. The cohort is frozen with a split by patient (70/10/20, seed 1) unless --no-freeze"
        " is given. Running it again adds nothing twice."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("images", type=Path, help="folder of .nii/.nii.gz files, or one file")
        parser.add_argument("--masks", type=Path, help="folder of masks named like the images, or one file")
        parser.add_argument("--labels", default="", help='names of the mask values: "1=Liver,2=Tumour"')
        parser.add_argument("--project", required=True, help="slug of the project")
        parser.add_argument("--create-project", action="store_true", help="make the project where it does not exist")
        parser.add_argument("--cohort", required=True, help="name of the cohort, made where it does not exist")
        parser.add_argument("--reference", default="Imported masks", help="name of the reference standard")
        parser.add_argument("--modality", default="MR", choices=sorted(SOP_CLASSES))
        parser.add_argument("--body-part", default="", help="BodyPartExamined, for example BRAIN")
        parser.add_argument("--fractions", type=_fractions, default=dict(DEFAULT_FRACTIONS), help="0.7,0.1,0.2")
        parser.add_argument("--folds", type=int, default=0, help="freeze in so many folds for cross-validation instead")
        parser.add_argument("--seed", type=int, default=1, help="of the split")
        parser.add_argument("--no-freeze", action="store_true", help="leave the cohort open and not split")
        parser.add_argument("--user", help="name of the user in whose name this is done")
        parser.add_argument("--json", action="store_true", help="print the summary as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        by = self._user(options["user"])
        try:
            labels = parse(options["labels"]) if options["masks"] else []
            summary = import_pairs(
                Plan(
                    project=self._project(options["project"], options["create_project"], by),
                    images=options["images"],
                    masks=options["masks"],
                    labels=labels,
                    cohort=options["cohort"],
                    reference=options["reference"],
                    modality=options["modality"],
                    body_part=options["body_part"].upper()[:16],
                    fractions=options["fractions"],
                    folds=options["folds"],
                    seed=options["seed"],
                    freeze=not options["no_freeze"],
                    by=by,
                ),
                progress=self._progress if not options["json"] and self.stderr.isatty() else lambda done, total: None,
            )
        except (ImageError, CohortError) as error:
            raise CommandError(str(error)) from error
        if options["json"]:
            self.stdout.write(json.dumps(summary.as_json()))
        else:
            self._print(summary)
        if summary.problem:
            raise CommandError(summary.problem)
        if not summary.stored and not summary.duplicate:
            raise CommandError("Nothing was imported: every file was refused, see the reasons above.")

    def _project(self, slug: str, create: bool, by: User | None) -> Project:
        project = Project.objects.filter(slug=slug).first()
        if project is None and create:
            project = accounts.create_project(slug=slug, name=slug.replace("-", " ").capitalize(), by=by)
        if project is None:
            raise CommandError(f"There is no project “{slug}”. Make it in the portal, or add --create-project.")
        return project

    def _user(self, name: str | None) -> User | None:
        if not name:
            return None
        user = User.objects.filter(username=name).first()
        if user is None:
            raise CommandError(f"There is no user “{name}”.")
        return user

    def _progress(self, done: int, total: int) -> None:
        self.stderr.write(f"\r{done} of {total}", ending="\n" if done == total else "")

    def _print(self, summary: Summary) -> None:
        for refused in summary.refused:
            self.stdout.write(f"refused  {refused.file}  [{refused.code}] {refused.reason}")
        counts = f"{summary.stored} stored, {summary.duplicate} already there, {len(summary.refused)} refused"
        if summary.cohort is None:
            self.stdout.write(f"{counts} · no cohort and no reference standard: there is no image for them")
            return
        self.stdout.write(
            f"{counts} · cohort {summary.cohort}: {summary.cases} cases of {summary.patients} patients"
            + (f", split {summary.splits}" if summary.frozen else ", not frozen")
            + (f" · reference standard {summary.reference} v{summary.reference_version}" if summary.reference else "")
        )
