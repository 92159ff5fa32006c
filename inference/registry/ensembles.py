"""Several versions as one: their networks answer together, and the mean of their probabilities counts; of detectors
the boxes are fused.

One version alone may be made anew in the same way, to look at mirror images or to leave its dropout on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True)
class Answers:
    """How often a model is asked about one image, beside once by each member; see `inference.networks.sampling`."""

    mirror: tuple[str, ...] = ()
    shifts: int = 0
    dropout: int = 0
    uncertainty: str = ""

    @property
    def several(self) -> bool:
        return bool(self.mirror or self.shifts or self.dropout or self.uncertainty)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "mirror": list(self.mirror)}


def start(versions: Sequence[ModelVersion], *, name: str, answers: Answers = Answers(), by: User | None) -> Job:
    """Queue the making of an ensemble. Raises `BundleError` where the versions do not go together."""
    from inference.registry.tasks import make_ensemble  # the task module imports this one

    check(versions, answers)
    _manifest(versions, name, answers)
    of = f"of {len(versions)} versions" if len(versions) > 1 else f"of {versions[0]}"
    return submit(
        make_ensemble,
        project=versions[0].model.project,
        title=f"Make the ensemble {name} {of}",
        parameters={"versions": [version.pk for version in versions], "name": name, "answers": answers.as_dict()},
        by=by,
    )


def check(versions: Sequence[ModelVersion], answers: Answers = Answers()) -> None:
    """Raise `BundleError` that names what differs, unless the versions can answer together."""
    least = 1 if answers.several else 2
    if not least <= len(versions) <= MOST or len({version.pk for version in versions}) < len(versions):
        raise BundleError(
            f"An ensemble has 2 to {MOST} different members, or one that is asked several times about an image.",
            "Choose its versions, or mirror images, shifts or dropout passes.",
        )
    first = versions[0]
    if any(version.model.project_id != first.model.project_id for version in versions):
        raise BundleError("The versions belong to different projects.", "Choose versions of one project.")
    here = _compared(first)
    for version in versions[1:]:
        for what, value in _compared(version).items():
            if value != here[what]:
                raise BundleError(
                    f"{version} has another {what} than {first}, so their answers cannot be averaged.",
                    "Choose versions that were trained with the same configuration, such as the folds of one cohort.",
                )


def make(
    versions: Sequence[ModelVersion], *, name: str, answers: Answers = Answers(), project: Project, by: User | None
) -> ModelVersion:
    """Register the ensemble as the next version of the model `name`. Raises `BundleError` and `StageError`.

    The members' files are read against their digests and copied.
    """
    check(versions, answers)
    files = []
    for version in versions:
        opened = services.open_bundle(version)
        files += [opened.folder / file for file in bundle.weights_files(opened.manifest)]
        if answers.dropout:
            _check_dropout(opened, version)
    made = _manifest(versions, name, answers)
    model = services.create_model(
        project=project, name=name, task=made["task"], by=by, description=made.get("description", "")
    )
    return services.register_version(model, made, files, by=by)


def members_of(manifest: manifests.Manifest) -> list[int]:
    """The versions whose networks an ensemble was made of; empty where it is none."""
    members = [member["version"] for member in manifest.get("members", ()) if "version" in member]
    return members or manifest.get("training", {}).get("made_of", [])


def _check_dropout(opened: bundle.Bundle, version: ModelVersion) -> None:
    from inference.networks.sampling import dropouts

    if not all(dropouts(network) for network in opened.networks()):
        raise BundleError(
            f"{version} has no dropout layer that could be left on.", "Set the dropout passes to 0, or leave it out."
        )


def _manifest(versions: Sequence[ModelVersion], name: str, answers: Answers) -> manifests.Manifest:
    first = versions[0].manifest
    members: list[dict[str, Any]] = []
    for version in versions:
        inner = version.manifest.get("members")
        told = {"version": version.pk, "name": str(version), "digest": version.digest}
        members += inner or [{"network": version.manifest["network"], **told}]
    asked = {key: value for key, value in answers.as_dict().items() if value}
    inference = {key: value for key, value in first["inference"].items() if key not in ("uncertainty", "dropout")}
    names = ", ".join(str(version) for version in versions)
    made_of = [pk for version in versions for pk in members_of(version.manifest) or [version.pk]]
    return manifests.check(
        {
            **{key: value for key, value in first.items() if key != "members"},
            "name": name,
            "description": f"Ensemble of {names}." if len(versions) > 1 else f"{names}, asked several times.",
            "inputs": _inputs(versions),
            **({"members": members} if len(members) > 1 else {}),
            "inference": {**inference, **asked},
            "training": {"ensemble_of": [str(version) for version in versions], "made_of": made_of},
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
    found["least score of a box"] = checked["inference"].get("least")
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
