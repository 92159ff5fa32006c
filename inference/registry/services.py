"""The only writers of models, versions and promotions."""

from __future__ import annotations

import re
from pathlib import Path

from django.conf import settings
from django.db import transaction
from django.db.models import Max

from inference.errors import StageError
from inference.registry import bundle, card_text
from inference.registry.models import TRANSITIONS, Model, ModelVersion, Promotion, Stage
from portal.accounts.audit import trail
from portal.accounts.models import Project, User


def create_model(*, project: Project, name: str, task: str, by: User | None, description: str = "") -> Model:
    """The project's model of that name, made where there is none. Raises `StageError` where its task is another."""
    model, _ = Model.objects.get_or_create(
        project=project, name=name, defaults={"task": task, "description": description, "created_by": by}
    )
    if model.task != task:
        raise StageError(
            f"The model {name} is for {model.get_task_display().lower()}, not for {task}.", "Use another model name."
        )
    return model


def register_version(
    model: Model, manifest: bundle.Manifest, weights: bundle.Weights, *, by: User | None
) -> ModelVersion:
    """Write the bundle and register it as the model's next version, as a candidate.

    Join it with the caller's own writes in one transaction: where that is rolled back, a folder without a row stays
    behind, and the next version takes another one.
    """
    with transaction.atomic():
        Model.objects.select_for_update(no_key=True).get(pk=model.pk)
        number = (model.versions.aggregate(last=Max("number"))["last"] or 0) + 1
        name = f"{model.project_id}/{model.name}/{number}"
        suffix = 0
        while folder_of(name).exists():  # left behind by a registration that was rolled back
            suffix += 1
            name = f"{model.project_id}/{model.name}/{number}.{suffix}"
        written = bundle.write(folder_of(name), manifest, weights)
        return ModelVersion.objects.create(
            model=model,
            number=number,
            bundle=name,
            digest=written.digest,
            manifest=written.manifest,
            created_by=by,
        )


def folder_of(name: str) -> Path:
    return Path(settings.MEDIA_ROOT) / "models" / name


def open_bundle(version: ModelVersion) -> bundle.Bundle:
    """The version's bundle, its digest compared with the registered one. Raises `BundleError`."""
    return bundle.read(folder_of(version.bundle), digest=version.digest)


def promote(version: ModelVersion, to: str, *, reason: str, by: User) -> ModelVersion:
    """Move a version to another stage, signed with a reason.

    One version of a model is in production: the one that was there before steps back to validated, with a row of its
    own in the history. Raises `StageError`.
    """
    reason = reason.strip()
    if not reason:
        raise StageError("A change of stage needs a reason.", "Write in a sentence why.")
    with transaction.atomic():
        Model.objects.select_for_update(no_key=True).get(pk=version.model_id)
        version = ModelVersion.objects.select_for_update(no_key=True).get(pk=version.pk)
        if to not in Stage.values:
            raise StageError(f"There is no stage {to!r}.", f"Choose from: {', '.join(Stage.values)}.")
        if to not in TRANSITIONS[version.stage]:
            raise StageError(
                f"{version} is {version.get_stage_display().lower()} and cannot become {Stage(to).label.lower()}.",
                f"Possible: {', '.join(sorted(TRANSITIONS[version.stage]))}.",
            )
        if to == Stage.PRODUCTION:
            if unsaid := card_text.missing(version):
                raise StageError(
                    f"The model card does not say: {', '.join(unsaid)}.",
                    "Write it in the version's model card first: whoever uses its results has to know.",
                )
            for other in version.model.versions.filter(stage=Stage.PRODUCTION).exclude(pk=version.pk):
                _move(
                    other,
                    Stage.VALIDATED,
                    reason=f"Replaced in production by version {version.number}: {reason}",
                    by=by,
                )
        return _move(version, to, reason=reason, by=by)


def retire(version: ModelVersion, *, reason: str, by: User) -> ModelVersion:
    return promote(version, Stage.RETIRED, reason=reason, by=by)


def find_version(text: str, *, user: User | None = None, project: Project | None = None) -> ModelVersion:
    """A version by its id or as `model-name:number` (`model-name` alone: the newest). Raises `StageError`.

    Only what `user` may see counts; without a user, every project counts.
    """
    versions = ModelVersion.objects.select_related("model__project")
    if user is not None:
        versions = versions.visible_to(user).select_related("model__project")
    if project is not None:
        versions = versions.filter(model__project=project)
    if text.isdigit():
        found = list(versions.filter(pk=int(text)))
    elif match := re.fullmatch(r"([-\w]+)(?::(\d+))?", text):
        named = versions.filter(model__name=match[1])
        if match[2]:
            found = list(named.filter(number=int(match[2])))
        else:
            found = list({v.model_id: v for v in named.order_by("number")}.values())
    else:
        found = []
    if len(found) == 1:
        return found[0]
    if found:
        places = ", ".join(sorted(version.model.project.slug for version in found))
        raise StageError(f"{text!r} is a model in several projects: {places}.", "Say which one with --project.")
    raise StageError(f"There is no model version {text!r}.", "Give its id, or model-name:number.")


def _move(version: ModelVersion, to: str, *, reason: str, by: User) -> ModelVersion:
    Promotion.objects.create(version=version, from_stage=version.stage, to_stage=to, reason=reason, by=by)
    trail.record(
        "version.promote",
        version,
        project=version.model.project_id,
        user=by,
        from_stage=str(version.stage),
        to_stage=str(to),
    )
    version.stage = to
    version.save(update_fields=["stage"])
    return version
