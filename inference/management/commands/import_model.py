"""`manage.py import_model`: a model that was trained elsewhere becomes a version here."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from inference.errors import InferenceError
from inference.management.following import JobCommand
from inference.registry import importing


class Command(JobCommand):
    help = (
        "Import a MONAI bundle or a bundle of this portal (folder or zip), or a single file (.ts TorchScript, .pt2 "
        "torch.export, .onnx, .safetensors, .pt state dictionary) with --manifest. docs/bundle.md describes them."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("source", type=Path)
        parser.add_argument("--project", default="", help="slug of the project")
        parser.add_argument("--name", default="", help="name of the model; the bundle's own otherwise")
        parser.add_argument("--manifest", type=Path, help="JSON file with what a single file does not say")
        parser.add_argument("--user", help="name of the user in whose name this is done")
        parser.add_argument("--json", action="store_true", help="print the result as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        project, by = self.find_project(options["project"]), self.find_user(options["user"])
        try:
            manifest = importing.read_manifest(options["manifest"].read_text()) if options["manifest"] else None
            with importing.opened(options["source"], name=options["name"], manifest=manifest) as candidate:
                self.stderr.write(f"The network answered an image of zeros with the shape {candidate.answer}")
                version = importing.register(candidate, project=project, by=by)
        except OSError as error:
            raise CommandError(f"{options['source'].name} cannot be read: {error.strerror}") from error
        except InferenceError as error:
            raise CommandError(f"{error.cause}\n{error.next_step}".strip()) from error
        found = {"version": version.pk, "model": version.model.name, "number": version.number, "digest": version.digest}
        if options["json"]:
            self.stdout.write(json.dumps(found, indent=2))
        else:
            self.stdout.write(f"Version {version.pk}, {version.model.name}:{version.number}")
