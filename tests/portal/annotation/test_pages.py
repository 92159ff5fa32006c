"""Campaign pages: who gets in, what the designer says, that lists do not ask the database row by row."""

import csv
import io
import json

import pytest
from django.contrib.messages import get_messages
from django.urls import reverse

from inference.jobs.models import Job
from portal.annotation import campaigns, consensus, reading
from portal.annotation.design import QuestionSpec
from portal.annotation.models import Campaign
from studies.cohorts.models import ReferenceStandard
from tests.factories import ProjectFactory, member
from tests.portal.annotation.conftest import submit, task_of

WHO = ["manager", "alice", "carol", "engineer", "viewer", "outsider"]
# alice reads in the campaign, carol is a reader of the project only
GET = {
    "campaigns": dict.fromkeys(WHO, 200),
    "my_reading": dict.fromkeys(WHO, 200),
    "campaign_create": {"manager": 200, **dict.fromkeys(WHO[1:], 403)},
    "campaign": {"manager": 200, "alice": 200, "carol": 404, "engineer": 200, "viewer": 200, "outsider": 404},
    "campaign_agreement": {"manager": 200, "alice": 403, "carol": 404, "engineer": 200, "viewer": 200, "outsider": 404},
    "campaign_case": {"manager": 200, "alice": 403, "carol": 404, "engineer": 200, "viewer": 200, "outsider": 404},
    "campaign_consensus": {"manager": 200, "alice": 403, "carol": 404, "engineer": 200, "viewer": 200, "outsider": 404},
    "campaign_export": {"manager": 200, "alice": 403, "carol": 404, "engineer": 200, "viewer": 200, "outsider": 404},
    "reading_next": {"manager": 302, "alice": 302, "carol": 404, "engineer": 302, "viewer": 302, "outsider": 404},
    "reading_task": {"manager": 404, "alice": 200, "carol": 404, "engineer": 404, "viewer": 404, "outsider": 404},
    "reading_state": {"manager": 404, "alice": 200, "carol": 404, "engineer": 404, "viewer": 404, "outsider": 404},
    "reading_draft": {"manager": 404, "alice": 200, "carol": 404, "engineer": 404, "viewer": 404, "outsider": 404},
}
STEER = {"manager": 302, "alice": 403, "carol": 404, "engineer": 403, "viewer": 403, "outsider": 404}
POST = {
    "campaign_step": STEER,
    "campaign_readers": STEER,
    "campaign_consensus": {**STEER, "manager": 422},
    "campaign_case": {**STEER, "manager": 422},
    "reading_submit": {"manager": 404, "alice": 400, "carol": 404, "engineer": 404, "viewer": 404, "outsider": 404},
    "reading_skip": {"manager": 404, "alice": 200, "carol": 404, "engineer": 404, "viewer": 404, "outsider": 404},
    "reading_flag": {"manager": 404, "alice": 200, "carol": 404, "engineer": 404, "viewer": 404, "outsider": 404},
}


@pytest.fixture
def campaign(world):
    campaign = world.campaign()
    submit(task_of(campaign, world.alice), "yes")
    return campaign


def address(name, campaign, world) -> str:
    task = task_of(campaign, world.alice, "C-0002")
    arguments = {
        "campaigns": [],
        "my_reading": [],
        "campaign_create": [],
        "campaign_case": [campaign.pk, task.case_id],
        "campaign_export": [campaign.pk, "csv"],
        "campaign_step": [campaign.pk, "pause"],
    }
    own = [task.pk] if name.startswith("reading_") and name != "reading_next" else [campaign.pk]
    return reverse(name, args=arguments.get(name, own))


@pytest.mark.parametrize("name", GET)
def test_who_may_look(client, world, campaign, name):
    path = address(name, campaign, world)
    for who, status in GET[name].items():
        client.force_login(getattr(world, who))
        assert client.get(path).status_code == status, who
    client.logout()
    assert client.get(path).status_code == 302


@pytest.mark.parametrize("name", POST)
def test_who_may_act(client, world, campaign, name):
    path = address(name, campaign, world)
    for who in sorted(POST[name], key=lambda who: who == "manager"):  # the manager last: it changes the state
        client.force_login(getattr(world, who))
        if name.startswith("reading_"):
            response = client.post(path, {}, content_type="application/json")
        else:
            response = client.post(path, {"action": "reassign"} if name == "campaign_readers" else {})
        assert response.status_code == POST[name][who], who


def test_the_list_shows_exactly_what_is_visible(client, world, campaign):
    other = ProjectFactory()
    foreign_manager = member(other, username="foreign")
    draft = world.campaign(started=False, name="Draft", readers=[world.carol], overlap=1)
    for who, expected in (
        ("manager", {campaign.pk, draft.pk}),
        ("alice", {campaign.pk}),
        ("carol", {draft.pk}),
        ("outsider", set()),
    ):
        client.force_login(getattr(world, who))
        assert {one.pk for one in client.get(reverse("campaigns")).context["campaigns"]} == expected, who
    client.force_login(foreign_manager)
    assert client.get(reverse("campaign", args=[campaign.pk])).status_code == 404


def test_counts_on_the_list_are_right(client, world, campaign):
    client.force_login(world.manager)
    (row,) = client.get(reverse("campaigns")).context["campaigns"]
    assert (row.cases, row.n_readers, row.total, row.submitted) == (3, 2, 6, 1)


@pytest.mark.parametrize(("name", "who"), [("campaigns", "manager"), ("my_reading", "alice")])
def test_lists_need_the_same_number_of_queries_however_long(client, world, name, who, django_assert_max_num_queries):
    client.force_login(getattr(world, who))
    world.campaign(name="One")
    client.get(reverse(name))
    with django_assert_max_num_queries(100) as few:
        client.get(reverse(name))
    for k in range(4):
        world.campaign(name=f"More {k}", blinded=bool(k % 2))
    with django_assert_max_num_queries(len(few)):
        assert client.get(reverse(name)).status_code == 200


def designed(world, **changes):
    values = {
        "project": world.project.slug,
        "name": "Designed",
        "cohort": world.cohort.pk,
        "readers": [world.alice.pk, world.bob.pk],
        "overlap": 2,
        "instructions": "Look closely.",
        "blinded": "on",
        "due_date": "2027-01-31",
        "questions-1-text": "Nodule?",
        "questions-1-kind": "yes_no",
        "questions-1-required": "on",
        "questions-3-text": "Next step",
        "questions-3-kind": "choice",
        "questions-3-choices": "Biopsy\r\nFollow-up\r\n",
        "segments-1-number": "2",
        "segments-1-name": "Nodule",
        "segments-1-color": "#112233",
        "segments-1-required": "on",
    }
    return {key: value for key, value in (values | changes).items() if value is not None}


def test_the_designer_makes_what_was_typed(client, world):
    client.force_login(world.manager)
    response = client.post(reverse("campaign_create"), designed(world, draft="1"))
    assert response.status_code == 302, response.context and response.context["form"].errors
    campaign = Campaign.objects.get()
    assert campaign.state == "draft"
    assert campaign.due_date.isoformat() == "2027-01-31"
    assert [(q.position, q.text, q.kind, q.choices, q.required) for q in campaign.questions.all()] == [
        (1, "Nodule?", "yes_no", [], True),
        (2, "Next step", "choice", ["Biopsy", "Follow-up"], False),
    ]
    (segment,) = campaign.segment_labels.all()
    assert (segment.number, segment.name, segment.color, segment.required) == (2, "Nodule", "#112233", True)
    assert set(campaign.readers.values_list("user__username", flat=True)) == {"alice", "bob"}


def test_create_and_start_in_one_go(client, world):
    client.force_login(world.manager)
    client.post(reverse("campaign_create"), designed(world, start="1"))
    assert Campaign.objects.get().state == "reading"


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"overlap": 5}, "overlap", "Only 2 readers are chosen."),
        ({"name": ""}, "name", "This field is required."),
        ({"readers": None}, "readers", "No reader is chosen."),
        ({"cohort": None}, "cohort", "This field is required."),
    ],
)
def test_errors_stand_beside_their_field_and_what_was_typed_stays(client, world, changes, field, words):
    client.force_login(world.manager)
    response = client.post(reverse("campaign_create"), designed(world, draft="1", **changes))
    assert response.status_code == 422
    form = response.context["form"]
    assert words in " ".join(form.errors[field])
    page = response.content.decode()
    assert words in page
    assert 'value="Next step"' in page
    assert not Campaign.objects.exists()


def test_an_error_in_a_row_stands_in_that_row(client, world):
    client.force_login(world.manager)
    response = client.post(reverse("campaign_create"), designed(world, draft="1", **{"questions-3-choices": "One"}))
    assert response.status_code == 422
    first, second = response.context["form"].questions
    assert not first.errors
    assert "two or more different choices" in second.errors[0]


def test_rows_grow_and_shrink_without_javascript(client, world):
    client.force_login(world.manager)
    response = client.post(reverse("campaign_create"), designed(world, add="question"))
    assert response.status_code == 200
    assert [row.values.get("text") for row in response.context["form"].questions] == ["Nodule?", "Next step", None]
    response = client.post(reverse("campaign_create"), designed(world, remove="questions-1"))
    assert [row.values.get("text") for row in response.context["form"].questions] == ["Next step"]


def test_readers_of_another_project_cannot_be_chosen(client, world):
    client.force_login(world.manager)
    stranger = member(ProjectFactory())
    response = client.post(reverse("campaign_create"), designed(world, draft="1", readers=[stranger.pk]))
    assert response.status_code == 422
    assert "readers" in response.context["form"].errors


def test_a_step_that_is_not_possible_is_told_in_words(client, world, campaign):
    campaigns.close(campaign, by=world.manager)
    client.force_login(world.manager)
    response = client.post(reverse("campaign_step", args=[campaign.pk, "pause"]))
    assert "closed" in str(next(iter(get_messages(response.wsgi_request))))


def test_buttons_follow_the_table_of_states(client, world, campaign):
    client.force_login(world.manager)

    def offered() -> set[str]:
        page = client.get(reverse("campaign", args=[campaign.pk])).content.decode()
        return {step for step in ("start", "pause", "resume", "close") if f"/do/{step}/" in page}

    assert offered() == {"pause", "close"}
    campaigns.pause(campaign, by=world.manager)
    assert offered() == {"resume", "close"}
    campaigns.close(campaign, by=world.manager)
    assert offered() == set()
    client.force_login(world.engineer)
    assert offered() == set()


def test_export_carries_every_version_and_no_patient(client, world):
    questions = [QuestionSpec("Nodule?", "yes_no"), QuestionSpec("=cmd", "text", required=False)]
    campaign = world.campaign(questions=questions)
    task = task_of(campaign, world.alice)
    submit(task, "yes", "=1+1")
    submit(task, "no", "fine")
    client.force_login(world.manager)
    response = client.get(reverse("campaign_export", args=[campaign.pk, "csv"]))
    assert response["Content-Disposition"] == f'attachment; filename="campaign-{campaign.pk}-reads.csv"'
    text = response.content.decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(r["case"], r["reader"], r["version"], r["counts"], r["Nodule?"]) for r in rows] == [
        ("C-0001", "alice", "1", "False", "yes"),
        ("C-0001", "alice", "2", "True", "no"),
    ]
    assert rows[0]["'=cmd"] == "'=1+1"
    as_json = client.get(reverse("campaign_export", args=[campaign.pk, "json"])).content.decode()
    assert len(json.loads(as_json)["reads"]) == 2
    study = task.case.study
    for secret in ("SECRET", "Hidden", study.study_instance_uid, study.patient.patient_id):
        assert secret not in text
        assert secret not in as_json


def test_deciding_on_a_case_from_the_page(client, world):
    campaign = world.campaign(segments=[])
    submit(task_of(campaign, world.alice), "yes")
    submit(task_of(campaign, world.bob), "no")
    case = task_of(campaign, world.alice).case
    client.force_login(world.manager)
    page = client.get(reverse("campaign_case", args=[campaign.pk, case.pk]))
    assert "Needs a decision" in page.content.decode()
    question = campaign.questions.first()
    body = {f"answer-{question.pk}": "yes", "reason": "Seen on both reconstructions"}
    assert client.post(reverse("campaign_case", args=[campaign.pk, case.pk]), body).status_code == 302
    planned = next(one for one in consensus.plan(campaign) if one.case == case)
    assert (planned.answers[str(question.pk)], planned.reason) == ("yes", "")


def test_a_flag_reaches_the_manager(client, world, campaign):
    reading.flag(task_of(campaign, world.bob, "C-0003"), "Wrong body part")
    client.force_login(world.manager)
    assert "Wrong body part" in client.get(reverse("campaign", args=[campaign.pk])).content.decode()
    client.force_login(world.alice)
    assert "Wrong body part" not in client.get(reverse("campaign", args=[campaign.pk])).content.decode()


def test_the_designer_offers_the_names_of_structures_that_are_known(client, world):
    campaign = world.campaign()
    ReferenceStandard.objects.create(
        cohort=campaign.cohort, name="Masks", version=1, source=ReferenceStandard.Source.IMPORT,
        labels=[{"number": 1, "name": "Left atrium"}],
    )  # fmt: skip
    client.force_login(world.manager)
    page = client.get(reverse("campaign_create")).content.decode()
    assert '<option value="Left atrium">' in page
    assert "use the names of the structures that they segment, here Left atrium" in page


def test_a_consensus_in_the_making_is_watched_until_it_is_there(client, world):
    campaign = world.campaign(overlap=2)
    for reader in (world.alice, world.bob):
        submit(task_of(campaign, reader), "yes")
    client.force_login(world.manager)
    fragment = reverse("campaign_consensus", args=[campaign.pk])
    waiting = f'hx-get="{fragment}"'
    assert waiting not in client.get(fragment).content.decode()
    job = consensus.request(campaign, by=world.manager, name="Agreed", minimum_reads=2)
    assert waiting in client.get(reverse("campaign", args=[campaign.pk])).content.decode()
    assert waiting in client.get(fragment).content.decode()
    Job.objects.filter(pk=job.pk).update(state="failed", cause="The disk is full.")
    text = client.get(fragment).content.decode()
    assert waiting not in text
    assert "The disk is full." in text
    Job.objects.filter(pk=job.pk).update(state="succeeded")
    made = consensus.publish(campaign, by=world.manager, name="Agreed", minimum_reads=2)
    text = client.get(fragment).content.decode()
    assert waiting not in text
    assert "Agreed v1" in text
    assert f"reference={made.reference_id}" in text  # the next step: evaluate a model against it


def test_answers_that_never_vary_are_not_called_a_lack_of_readers(client, world):
    campaign = world.campaign(overlap=2)
    client.force_login(world.manager)
    page = reverse("campaign", args=[campaign.pk])
    assert "needs two readers on a case" in client.get(page).content.decode()
    for case in ("C-0001", "C-0002"):
        for reader in (world.alice, world.bob):
            submit(task_of(campaign, reader, case), "no")
    text = client.get(page).content.decode()
    assert "not defined: the same answer throughout, n=2 cases" in text
    assert "needs two readers on a case" not in text
