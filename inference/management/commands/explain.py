"""`manage.py explain`: maps of what moved a classifier's answer on a study."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from inference.errors import InferenceError
from inference.explanation import services
from inference.explanation.settings import METHODS
from inference.management.following import JobCommand
from inference.prediction.models import Prediction


class Command(JobCommand):
    help = "Make maps of what moved the answer of a classifier; they are stored as parametric maps of the study."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("prediction", type=int, help="id of the result: see `api/predictions/`")
        parser.add_argument("--method", default="grad_cam", choices=list(METHODS))
        parser.add_argument(
            "--label", action="append", default=[], help="name of a label; repeat. The likeliest without"
        )
        parser.add_argument("--patch", type=int, help="occlusion: edge of the patch in voxels of what the model sees")
        parser.add_argument("--stride", type=int, help="occlusion: step of the patch in voxels")
        parser.add_argument("--baseline", default="mean", help="occlusion: mean, minimum or a number")
        self.add_job_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        by = self.find_user(options["user"])
        prediction = (
            Prediction.objects.select_related("version__model__project").filter(pk=options["prediction"]).first()
        )
        if prediction is None:
            raise CommandError(f"There is no result {options['prediction']}.")
        asked = {name: options[name] for name in ("method", "patch", "stride", "baseline")}
        try:
            job = services.start(prediction, labels=options["label"], **asked, by=by)
        except InferenceError as error:
            raise CommandError(f"{error.cause}\n{error.next_step}".strip()) from error
        found = self.end(job, options, {"prediction": prediction.pk}, lambda ended: ended.result)
        if found is not None and not options["json"]:
            for made in found["maps"]:
                self.stdout.write(f"{METHODS[made['kind']]} of {made['label']}: series {made['series']}")
