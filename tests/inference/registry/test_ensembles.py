"""Ensembles: what goes together, and that they answer with the mean of their members."""

from __future__ import annotations

import numpy as np
import pytest

from inference.errors import BundleError
from inference.evaluation import overlap
from inference.prediction import engine
from inference.registry import ensembles, services
from inference.registry.ensembles import Answers
from inference.registry.models import ModelVersion
from portal.accounts.models import Role
from studies.dicom.volume import Volume
from tests.factories import ProjectFactory, member
from tests.inference.evaluation.test_detection_services import detector_version
from tests.inference.models_factory import LABELS, SHAPE, Fixed, Voxelwise, program_version, threshold_version

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("media")]
VOLUME = Volume(np.random.default_rng(2).normal(0, 1, SHAPE).astype(np.float32))


def folds(project, count: int = 3) -> list[ModelVersion]:
    random = np.random.default_rng(7)
    return [
        program_version(project, Voxelwise(random.normal(size=(3, 1)).tolist(), random.normal(size=3).tolist()),
                        output={"maps": ["probability"]}, inputs=[{"name": "image"}])
        for _ in range(count)
    ]  # fmt: skip


def made(run_job, versions, **how) -> ModelVersion:
    job = run_job(ensembles.start(versions, name="together", by=None, **how))
    assert job.state == "succeeded", job.cause
    return ModelVersion.objects.select_related("model").get(pk=job.result["version"])


def predict(version: ModelVersion) -> engine.Output:
    return engine.load(services.open_bundle(version)).predict(VOLUME)


def test_an_ensemble_answers_with_the_mean_of_its_members(run_job):
    versions = folds(ProjectFactory())
    together = predict(made(run_job, versions))
    alone = [predict(version) for version in versions]
    for number, label in enumerate(LABELS):
        mean = np.mean([one.maps[number].volume.array for one in alone], axis=0)
        assert together.maps[number].label == label["name"]
        assert np.abs(together.maps[number].volume.array - mean).max() < 1e-6
    background = 1 - sum(found.volume.array for found in together.maps)
    shares = np.stack([background, *(found.volume.array for found in together.maps)])
    assert (together.label_map == shares.argmax(axis=0)).mean() > 0.999  # but for ties


def test_its_files_and_members_are_its_own(run_job):
    project = ProjectFactory()
    versions = folds(project)
    together = made(run_job, versions, answers=Answers(uncertainty="mutual_information"))
    folder = services.folder_of(together.bundle)
    assert sorted(path.name for path in folder.glob("member-*")) == ["member-1.ts", "member-2.ts", "member-3.ts"]
    assert ensembles.members_of(together.manifest) == [version.pk for version in versions]
    assert predict(together).uncertainty["method"] == "3 members"
    (folder / "member-2.ts").write_bytes(b"other")
    with pytest.raises(BundleError, match="digest differs"):
        services.open_bundle(together)
    # An ensemble within an ensemble is its members.
    inner = made(run_job, versions[:2])
    again = made(run_job, [inner, versions[2]])
    assert ensembles.members_of(again.manifest) == [version.pk for version in versions]
    assert len(engine.load(services.open_bundle(again)).networks) == 3


def test_members_may_have_different_networks(run_job):
    project = ProjectFactory()
    entry = [{"name": "image"}]
    unet = threshold_version(project, name="a", inputs=entry)
    program = program_version(project, Voxelwise([[0.1], [0.5], [-1.0]], [0.0, 0.2, 0.1]), inputs=entry)
    together = made(run_job, [unet, program])
    assert [spec["name"] for spec in services.open_bundle(together).specs] == ["unet", "torchscript"]
    shares = [predict(version).scores["Ball"] for version in (unet, program, together)]
    assert 0 < shares[2] <= np.mean(shares[:2]) + 1e-6  # the mean is nowhere higher than the mean of the highest


def test_what_does_not_go_together_is_named():
    project = ProjectFactory()
    first = program_version(project, Fixed(0.0, 1.0), task="classification")
    other_labels = program_version(
        project, Fixed(0.0, 1.0), task="classification",
        labels=[{"number": 1, "name": "Disc"}, {"number": 2, "name": "Bar"}],
    )  # fmt: skip
    elsewhere = program_version(ProjectFactory(), Fixed(0.0, 1.0), task="classification")
    with pytest.raises(BundleError, match="has another labels than program 1"):
        ensembles.check([first, other_labels])
    with pytest.raises(BundleError, match="different projects"):
        ensembles.check([first, elsewhere])
    with pytest.raises(BundleError, match="2 to 20 different members"):
        ensembles.check([first, first])


def test_what_an_ensemble_was_trained_on_is_known_only_where_it_is_of_every_member(run_job):
    together = made(run_job, folds(ProjectFactory(), 2))
    found = overlap.with_training(together, [])
    assert found == {"known": False, "reason": "Not every member of the ensemble says on which cases it was trained."}


def test_one_version_can_be_asked_several_times(run_job):
    """Mirrored along x, a network that looks at single voxels says the same; its dropout is not there to be left on."""
    project = ProjectFactory()
    (plain,) = folds(project, 1)
    again = made(run_job, [plain], answers=Answers(mirror=("x",), uncertainty="variance"))
    assert "members" not in again.manifest
    assert ensembles.members_of(again.manifest) == [plain.pk]
    one, other = predict(plain), predict(again)
    assert np.abs(one.maps[0].volume.array - other.maps[-2].volume.array).max() < 1e-6
    assert other.uncertainty["method"] == "2 mirror images"
    assert other.uncertainty["value"] == pytest.approx(0.0, abs=1e-9)
    job = run_job(ensembles.start([plain], name="dropped", answers=Answers(dropout=5), by=None))
    assert job.state == "failed"
    assert "no dropout layer" in job.cause


def test_detectors_answer_together_by_fused_boxes(run_job):
    """Two members of equal weights say what each of them says."""
    project = ProjectFactory()
    versions = [detector_version(project), detector_version(project)]
    alone, together = predict(versions[0]), predict(made(run_job, versions))
    assert len(alone.findings) > 0
    assert [one.label for one in together.findings] == [one.label for one in alone.findings]
    for one, other in zip(together.findings, alone.findings, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-5)
        np.testing.assert_allclose(one.corners, other.corners, atol=1e-3)
    mirrored = made(run_job, [versions[0]], answers=Answers(mirror=("x",)))
    assert mirrored.manifest["inference"]["mirror"] == ["x"]
    assert len(predict(mirrored).findings) > 0
    with pytest.raises(BundleError, match="uncertainty of boxes is not measured"):
        ensembles.start(versions, name="together", answers=Answers(uncertainty="entropy"), by=None)


def test_an_ensemble_over_rest(client, run_job):
    from inference.jobs.models import Job

    project = ProjectFactory()
    versions = folds(project, 2)
    client.force_login(member(project, Role.ENGINEER))
    asked = {"name": "together", "versions": [version.pk for version in versions], "uncertainty": "variance"}
    answer = client.post("/api/models/ensembles/", asked, content_type="application/json")
    assert answer.status_code == 201, answer.content
    job = run_job(Job.objects.get(pk=answer.json()["id"]))
    assert ModelVersion.objects.get(pk=job.result["version"]).manifest["inference"]["uncertainty"] == "variance"
    answer = client.post("/api/models/ensembles/", {**asked, "versions": [versions[0].pk] * 2}, "application/json")
    assert answer.status_code == 400
    assert "different members" in answer.json()["cause"]
