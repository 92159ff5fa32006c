"""Several versions as one: their networks answer together, and the mean of their probabilities counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inference.errors import BundleError
from inference.jobs.models import Job
from inference.jobs.services import submit
from inference.registry import bundle, services
from inference.registry import manifest as manifests
from inference.registry.models import ModelVersion
from portal.accounts.models import Project, User

MOST = 20  # members
# What has to be equal, and what it is called in a message.
SHARED = {
    "task": "task",
    "inputs": "inputs",
    "preprocessing": "preprocessing",
    "labels": "labels",
    "output": "output",
}
SHARED_INFERENCE = ("window", "slices", "axes", "pooling")


def start(versions: Sequence[ModelVersion], *, name: str, uncertainty: str = "", by: User | None) -> Job:
    """Queue the making of an ensemble. uncertainty: "", or how the members' disagreement is measured.

    Raises `BundleError` where the versions do not go together.
    """
    from inference.registry.tasks import make_ensemble  # the task module imports this one

    check(versions)
    _manifest(versions, name, uncertainty)
    return submit(
        make_ensemble,
        project=versions[0].model.project,
        title=f"Make the ensemble {name} of {len(versions)} versions",
        parameters={"versions": [version.pk for version in versions], "name": name, "uncertainty": uncertainty},
        by=by,
    )


def check(versions: Sequence[ModelVersion]) -> None:
    """Raise `BundleError` that names what differs, unless the versions can answer together."""
    if not 2 <= len(versions) <= MOST or len({version.pk for version in versions}) < len(versions):
        raise BundleError(f"An ensemble has 2 to {MOST} different members.", "Choose its versions.")
    first = versions[0]
    if any(version.model.project_id != first.model.project_id for version in versions):
        raise BundleError("The versions belong to different projects.", "Choose versions of one project.")
    if first.manifest["task"] == "detection":
        raise BundleError("Detectors answer with boxes, of which there is no mean.", "Choose versions of another task.")
    here = _compared(first)
    for version in versions[1:]:
        for what, value in _compared(version).items():
            if value != here[what]:
                raise BundleError(
                    f"{version} has another {what} than {first}, so their answers cannot be averaged.",
                    "Choose versions that were trained with the same configuration, such as the folds of one cohort.",
                )


def make(
    versions: Sequence[ModelVersion], *, name: str, uncertainty: str, project: Project, by: User | None
) -> ModelVersion:
    """Register the ensemble as the next version of the model `name`. Raises `BundleError` and `StageError`.

    The members' files are read against their digests and copied.
    """
    check(versions)
    files = []
    for version in versions:
        opened = services.open_bundle(version)
        files += [opened.folder / file for file in bundle.weights_files(opened.manifest)]
    made = _manifest(versions, name, uncertainty)
    model = services.create_model(
        project=project, name=name, task=made["task"], by=by, description=made.get("description", "")
    )
    return services.register_version(model, made, files, by=by)


def members_of(manifest: manifests.Manifest) -> list[int]:
    """The versions whose networks an ensemble was made of; empty where it is none."""
    return [member["version"] for member in manifest.get("members", ()) if "version" in member]


def _manifest(versions: Sequence[ModelVersion], name: str, uncertainty: str) -> manifests.Manifest:
    first = versions[0].manifest
    members: list[dict[str, Any]] = []
    for version in versions:
        inner = version.manifest.get("members")
        told = {"version": version.pk, "name": str(version), "digest": version.digest}
        members += inner or [{"network": version.manifest["network"], **told}]
    inference = {key: value for key, value in first["inference"].items() if key not in ("uncertainty", "dropout")}
    if uncertainty:
        inference["uncertainty"] = uncertainty
    names = ", ".join(str(version) for version in versions)
    return manifests.check(
        {
            **first,
            "name": name,
            "description": f"Ensemble of {names}.",
            "inputs": _inputs(versions),
            "members": members,
            "inference": inference,
            "training": {"ensemble_of": [str(version) for version in versions]},
            "card": {
                **first.get("card", {}),
                "limits": f"Ensemble of {names}; the limits of each member hold. Research use only; not a medical "
                "device.",
            },
        }
    )


def _compared(version: ModelVersion) -> dict[str, Any]:
    checked = manifests.check(version.manifest)
    found = {what: checked.get(key) for key, what in SHARED.items()}
    # How elongated voxels may be follows from the training images, which differ from fold to fold.
    found["inputs"] = [{k: v for k, v in entry.items() if k != "anisotropy"} for entry in checked["inputs"]]
    found["labels"] = [{k: v for k, v in label.items() if k not in ("color",)} for label in checked["labels"]]
    settings = {"slices": 1, "axes": "zyx", "pooling": "centre", **checked["inference"]}
    found["window of inference"] = [settings[key] for key in SHARED_INFERENCE]
    found["number of dimensions"] = checked["network"]["dimensions"]
    return found


def _inputs(versions: Sequence[ModelVersion]) -> list[dict[str, Any]]:
    """The first version's inputs; voxels may be as elongated as the strictest member allows."""
    made = []
    for number, entry in enumerate(versions[0].manifest["inputs"]):
        limits = [version.manifest["inputs"][number].get("anisotropy") for version in versions]
        known = [limit for limit in limits if limit]
        made.append({**entry, "anisotropy": min(known)} if known else entry)
    return made
