"""Readers of one case never see or overwrite each other, and see model results only where the campaign shows them."""

import pytest
from django.urls import reverse

from inference.prediction.models import Prediction
from inference.registry.models import Model, ModelVersion
from portal.accounts.models import Role
from portal.annotation import campaigns, reading
from portal.annotation.design import QuestionSpec
from portal.annotation.models import Draft
from studies.dicom import segmentation, structured_report
from studies.models import Origin, Series
from studies.volumes import source_datasets
from tests.factories import member, store_datasets
from tests.portal.annotation.conftest import answers_of, box, draw, submit, task_of
from tests.portal.annotation.test_blinding import content, seg_of, stow

X = slice(10, 20)
SECRET = "alice thinks it is a hamartoma"


@pytest.fixture
def campaign(world):
    """A started campaign in which alice has read the first case, with a drawing and a remark."""
    questions = [QuestionSpec("Nodule?", "yes_no"), QuestionSpec("Remark", "text", required=False)]
    campaign = world.campaign(questions=questions)
    submit(task_of(campaign, world.alice), "yes", SECRET, label_map=box(X))
    return campaign


def model_result(world, campaign, name="net") -> Prediction:
    """A SEG and a report by a model version on the image of the first case."""
    model = Model.objects.create(project=world.project, name=name, task=Model.Task.SEGMENTATION)
    version = ModelVersion.objects.create(model=model, number=1, bundle=name, digest="0", manifest={})
    case = task_of(campaign, world.alice).case
    dataset = segmentation.write(
        source_datasets(case.image), box(slice(0, 5)), [{"number": 1, "name": "Nodule"}],
        algorithm=segmentation.Algorithm(name, "1"),
    )  # fmt: skip
    series = store_datasets(world.project, [dataset], origin=Origin.MODEL, provenance=f"{name} 1")
    said = structured_report.write(
        source_datasets(case.image), scores={"Nodule": 0.9}, algorithm=segmentation.Algorithm(name, "1")
    )
    return Prediction.objects.create(
        version=version, study=case.study, image=case.image, segmentation=series, scores={"Nodule": 0.9},
        report=store_datasets(world.project, [said], origin=Origin.MODEL, provenance=f"{name} 1"),
    )  # fmt: skip


def dicomweb_paths(root, study, series) -> list[str]:
    return [
        f"{root}/studies/{study}/series/{series}",
        f"{root}/studies/{study}/series/{series}/metadata",
        f"{root}/studies/{study}/series/{series}/instances",
    ]


def test_the_other_readers_drawing_is_on_no_dicomweb_root(client, world, campaign):
    alice, bob = task_of(campaign, world.alice), task_of(campaign, world.bob)
    drawing = Series.objects.get(origin=Origin.ANNOTATION)
    study = alice.case.study.study_instance_uid
    roots = [f"/dicomweb/tasks/{bob.pk}", "/dicomweb", f"/dicomweb/projects/{world.project.slug}"]
    for reader in (world.bob, world.carol):
        client.force_login(reader)
        for root in roots if reader == world.bob else roots[1:]:
            for path in dicomweb_paths(root, study, drawing.series_instance_uid):
                assert client.get(path).status_code == 404, path
            for path in (f"{root}/studies/{study}/metadata", f"{root}/studies/{study}/series", f"{root}/instances"):
                served = content(client.get(path))
                assert drawing.series_instance_uid.encode() not in served, path
    client.force_login(world.alice)
    for path in dicomweb_paths(f"/dicomweb/tasks/{alice.pk}", study, drawing.series_instance_uid):
        assert client.get(path).status_code == 200, path


def test_not_even_the_counts_of_the_study_tell_that_somebody_drew(client, world, campaign):
    client.force_login(world.bob)
    bob = task_of(campaign, world.bob)
    (study,) = client.get(f"/dicomweb/tasks/{bob.pk}/studies?includefield=all").json()
    assert study["00080061"]["Value"] == ["CT"]
    assert study["00201206"]["Value"] == [1]
    assert study["00201208"]["Value"] == [3]


def test_no_page_and_no_call_shows_the_other_readers_answers(client, world, campaign):
    task_bob = task_of(campaign, world.bob)
    case = task_bob.case
    client.force_login(world.bob)
    open_to_bob = [
        reverse("campaigns"),
        reverse("campaign", args=[campaign.pk]),
        reverse("my_reading"),
        reverse("reading_task", args=[task_bob.pk]),
        reverse("reading_state", args=[task_bob.pk]),
        reverse("reading_draft", args=[task_bob.pk]),
        reverse("study", args=[case.study_id]),
        "/api/campaigns/",
        f"/api/campaigns/{campaign.pk}/",
        f"/api/campaigns/{campaign.pk}/progress/",
    ]
    for path in open_to_bob:
        response = client.get(path)
        assert response.status_code == 200, path
        assert SECRET.encode() not in content(response), path
        assert b"Submitted as read" not in content(response)
    shut = [
        reverse("campaign_case", args=[campaign.pk, case.pk]),
        reverse("campaign_agreement", args=[campaign.pk]),
        reverse("campaign_export", args=[campaign.pk, "csv"]),
        reverse("campaign_export", args=[campaign.pk, "json"]),
        f"/api/campaigns/{campaign.pk}/agreement/",
        f"/api/campaigns/{campaign.pk}/consensus/",
        f"/api/campaigns/{campaign.pk}/export/",
    ]
    for path in shut:
        assert client.get(path).status_code == 403, path
    alice = task_of(campaign, world.alice)
    for name in ("reading_task", "reading_state", "reading_draft"):
        assert client.get(reverse(name, args=[alice.pk])).status_code == 404


def test_a_manager_who_reads_is_a_reader_until_the_campaign_is_closed(client, world):
    campaign = world.campaign(readers=[world.alice, world.manager], name="With manager")
    submit(task_of(campaign, world.alice), "yes", 2, label_map=box(X))
    case = task_of(campaign, world.alice).case
    drawing = Series.objects.get(origin=Origin.ANNOTATION)
    path = f"/dicomweb/studies/{case.study.study_instance_uid}/series/{drawing.series_instance_uid}"
    client.force_login(world.manager)
    assert client.get(reverse("campaign", args=[campaign.pk])).status_code == 200
    assert client.get(reverse("campaign_case", args=[campaign.pk, case.pk])).status_code == 403
    assert client.get(reverse("campaign_export", args=[campaign.pk, "csv"])).status_code == 403
    assert client.get(path).status_code == 404
    campaigns.close(campaign, by=world.manager)
    assert client.get(reverse("campaign_case", args=[campaign.pk, case.pk])).status_code == 200
    assert client.get(path).status_code == 200


def test_saving_touches_only_the_own_task(client, world, campaign):
    bob = task_of(campaign, world.bob)
    before = Draft.objects.filter(task__reader=world.alice).count()
    reading.save_draft(bob, base_version=0, answers=answers_of(bob, "no"), segmentation_sop_uid=None, active_seconds=1)
    assert Draft.objects.filter(task__reader=world.alice).count() == before
    question = str(campaign.questions.first().pk)
    assert reading.newest_draft(task_of(campaign, world.alice)).answers[question] == "yes"


def test_nobody_stores_into_another_readers_series(client, world, campaign):
    bob = task_of(campaign, world.bob)
    drawing = Series.objects.get(origin=Origin.ANNOTATION)
    client.force_login(world.bob)
    response = stow(client, bob, seg_of(bob, SeriesInstanceUID=drawing.series_instance_uid))
    assert response.status_code == 409
    drawing.refresh_from_db()
    assert drawing.number_of_instances == 1
    response = stow(client, bob, seg_of(bob))
    assert response.status_code == 200
    assert Series.objects.filter(origin=Origin.DRAFT, created_by=world.bob).count() == 1


def test_a_reader_cannot_save_a_draft_with_the_others_drawing(client, world, campaign):
    bob = task_of(campaign, world.bob)
    theirs = draw(task_of(campaign, world.alice), box(X))
    client.force_login(world.bob)
    response = client.post(
        reverse("reading_draft", args=[bob.pk]),
        {"base_version": 0, "answers": {}, "segmentation_sop_uid": theirs.sop_instance_uid, "active_seconds": 0},
        content_type="application/json",
    )
    assert response.status_code == 422
    assert not Draft.objects.filter(task=bob).exists()


def test_model_results_are_served_only_where_the_campaign_shows_that_version(client, world):
    plain = world.campaign(name="Plain")
    shown, other = model_result(world, plain), model_result(world, plain, "another")
    with_ai = world.campaign(name="With AI", ai_version=shown.version)
    study = shown.study.study_instance_uid
    client.force_login(world.alice)

    def served(campaign) -> set[str]:
        task = task_of(campaign, world.alice)
        answer = client.get(f"/dicomweb/tasks/{task.pk}/studies/{study}/series").json()
        return {series["0020000E"]["Value"][0] for series in answer}

    image = shown.image.series_instance_uid
    assert served(plain) == {image}
    results = {shown.segmentation.series_instance_uid, shown.report.series_instance_uid}
    assert served(with_ai) == {image, *results}
    assert client.get(reverse("reading_state", args=[task_of(plain, world.alice).pk])).json()["ai"] is None
    state = client.get(reverse("reading_state", args=[task_of(with_ai, world.alice).pk])).json()
    assert state["ai"]["segmentation_series_uid"] == shown.segmentation.series_instance_uid
    assert state["ai"]["report_series_uid"] == shown.report.series_instance_uid
    assert state["ai"]["scores"] == {"Nodule": 0.9}
    # The embargo keeps both out of the general root while the reading is open.
    for prediction in (shown, other):
        uid = prediction.segmentation.series_instance_uid
        assert client.get(f"/dicomweb/studies/{study}/series/{uid}/metadata").status_code == 404
    for campaign in (plain, with_ai):
        campaigns.close(campaign, by=world.manager)
    assert (
        client.get(f"/dicomweb/studies/{study}/series/{shown.segmentation.series_instance_uid}/metadata").status_code
        == 200
    )


def test_an_unfinished_drawing_is_seen_in_its_task_only_and_published_by_submitting(client, world, campaign):
    bob = task_of(campaign, world.bob)
    client.force_login(world.bob)
    assert stow(client, bob, seg_of(bob)).status_code == 200
    drawing = Series.objects.get(origin=Origin.DRAFT)
    study = bob.case.study.study_instance_uid
    path = f"studies/{study}/series/{drawing.series_instance_uid}"
    assert client.get(f"/dicomweb/tasks/{bob.pk}/{path}").status_code == 200
    admin = world.manager.__class__.objects.create_superuser("root-of-drafts")
    for user in (world.bob, world.manager, admin):
        assert not Series.objects.visible_to(user).filter(pk=drawing.pk).exists()
    sop = drawing.instances.get().sop_instance_uid
    draft = reading.save_draft(
        bob, base_version=0, answers=answers_of(bob, "yes", 2), segmentation_sop_uid=sop, active_seconds=1
    )
    reading.submit(bob, base_version=draft.record.version)
    assert Series.objects.visible_to(world.manager).filter(pk=drawing.pk).exists()
    assert not Series.objects.visible_to(world.alice).filter(pk=drawing.pk).exists()


def test_a_superuser_who_reads_is_blinded_like_any_reader(client, world):
    """Administration is no way around the blinding; it ends with the campaign."""
    root = member(world.project, Role.READER, username="root-who-reads", is_superuser=True)
    campaign = world.campaign(readers=[root, world.alice])
    shown = model_result(world, campaign)
    submit(task_of(campaign, world.alice), "yes", 2, label_map=box(X))
    drawing = Series.objects.get(origin=Origin.ANNOTATION)
    hidden = {one.series_instance_uid for one in (shown.segmentation, shown.report, drawing)}
    study = shown.study.study_instance_uid
    client.force_login(root)

    def served(base) -> set[str]:
        answer = client.get(f"{base}/studies/{study}/series")
        return {series["0020000E"]["Value"][0] for series in answer.json()}

    for base in ("/dicomweb", f"/dicomweb/projects/{world.project.slug}"):
        assert served(base) == {shown.image.series_instance_uid}
        for uid in hidden:
            assert client.get(f"{base}/studies/{study}/series/{uid}/metadata").status_code == 404
    assert not Prediction.objects.visible_to(root).exists()
    assert client.get(reverse("campaign_export", args=[campaign.pk, "json"])).status_code == 403
    campaigns.close(campaign, by=world.manager)
    assert served("/dicomweb") == {shown.image.series_instance_uid, *hidden}
    assert Prediction.objects.visible_to(root).get() == shown
