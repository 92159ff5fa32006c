"""`manage.py find_duplicates`: compare every image that was not compared yet with all others."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from portal.accounts.models import Project
from studies.duplicates import services
from studies.duplicates.models import Pair

AT_ONCE = 200  # series in one transaction


class Command(BaseCommand):
    help = (
        "Find images of different patients that look the same (perceptual hash, at most"
        f" {services.FURTHEST} of 255 bits differ). The portal does this by itself some seconds after an import."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--project", metavar="SLUG", help="only the series of this project, against all others")
        parser.add_argument("--json", action="store_true", help="print one JSON object for a program to read")

    def handle(self, *, project: str | None, **options: Any) -> None:
        chosen = None
        if project:
            chosen = Project.objects.filter(slug=project).first()
            if chosen is None:
                raise CommandError(f"There is no project “{project}”.")
        compared = 0
        while n := services.compare_pending(chosen, settled=False, limit=AT_ONCE):
            compared += n
        pairs = Pair.objects.standing().select_related("one__study", "other__study").order_by("distance", "pk")
        if chosen is not None:
            pairs = pairs.filter(one__study__project=chosen) | pairs.filter(other__study__project=chosen)
        found: list[dict[str, Any]] = [
            {
                "distance": pair.distance,
                "series": [pair.one.series_instance_uid, pair.other.series_instance_uid],
                "studies": [pair.one.study.study_instance_uid, pair.other.study.study_instance_uid],
            }
            for pair in pairs
        ]
        if options["json"]:
            self.stdout.write(json.dumps({"compared": compared, "pairs": found}))
            return
        for pair in found:
            self.stdout.write(f"{pair['distance']:3} bits  {pair['series'][0]}  {pair['series'][1]}")
        self.stdout.write(f"{compared} series compared, {len(found)} pairs of different patients look the same")
