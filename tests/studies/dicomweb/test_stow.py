"""Storing by STOW-RS: through the front as through Django, with few statements, and what cannot be stored is kept."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from portal.accounts.audit.models import AuditEvent
from portal.accounts.models import ApiToken, Role
from portal.accounts.services import issue_token, remove_member, set_role
from studies.ingest import limits, quarantine, store
from studies.models import ImportBatch, Instance, Refusal, Study
from tests import factories
from tests.studies.dicomweb.fronted import FrontClient
from tests.studies.dicomweb.test_front import front, hasty, noticed  # noqa: F401  # fixtures
from tests.studies.ingest.memory import cost, peak

MARK = b"xxBOUNDARYxx"
KIND = f'multipart/related; type="application/dicom"; boundary={MARK.decode()}'


def body(*objects: bytes) -> bytes:
    head = b"--" + MARK + b"\r\nContent-Type: application/dicom\r\n\r\n"
    return b"".join(head + one + b"\r\n" for one in objects) + b"--" + MARK + b"--\r\n"


def slices(n: int) -> list[bytes]:
    return [factories.part10_bytes(dataset) for dataset in factories.ct_datasets(n)]


def token(user):
    return {"HTTP_AUTHORIZATION": f"Token {issue_token(user=user)}"}


def stow(client, user, objects, base="/dicomweb", study="", **headers):
    headers = headers or token(user)
    path = f"{base}/studies{f'/{study}' if study else ''}"
    return client.post(path, body(*objects), KIND, **headers)


def codes(answer):
    return [item["00000902"]["Value"][0].split(":")[0] for item in answer.json()["00081198"]["Value"]]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("base", ["/dicomweb", "/dicomweb/projects/lung"])
def test_the_front_stores_and_answers_as_django_does(front, project, alice, base):  # noqa: F811
    objects = [*slices(3), b"nonsense" * 40]
    through = FrontClient(front)
    ours = stow(through, alice, objects, base)
    again = stow(Client(), alice, objects, base)
    assert through.answered == [f"{base}/studies"]
    assert (ours.status_code, codes(ours)) == (202, ["not_dicom"])
    assert again.json() == ours.json()
    assert {name.lower() for name in ours.headers} == {name.lower() for name in again.headers}
    for row in Instance.objects.all():
        assert store.absolute_path(row.file).read_bytes() in objects
    counts = ImportBatch.objects.order_by("pk").values_list("project", "stored", "duplicate", "refused")
    assert list(counts) == [(project.pk, 3, 0, 1), (project.pk, 0, 3, 1)]


@pytest.mark.django_db(transaction=True)
def test_an_object_of_a_known_series_costs_two_statements(front, project, alice):  # noqa: F811
    first, *rest = slices(4)
    header = token(alice)
    client = FrontClient(front)
    assert stow(client, alice, [first], **header).status_code == 200
    for group in (rest[:1], rest[1:]):
        with CaptureQueriesContext(connection) as queries:
            assert stow(client, alice, group, **header).status_code == 200
        assert len(queries) == 2  # what is there already; all rows, counts and the summary of the import
    study = Study.objects.get()
    assert (study.number_of_series, study.number_of_instances, study.series.get().number_of_instances) == (1, 4, 4)
    assert [batch.stored for batch in ImportBatch.objects.order_by("pk")] == [1, 1, 2]


@pytest.mark.django_db(transaction=True)
def test_whoever_loses_the_right_to_store_loses_it_at_once(front, project, alice):  # noqa: F811
    factories.member(project, Role.MANAGER)
    header = token(alice)
    client = FrontClient(front)
    first, second, third = slices(3)
    assert stow(client, alice, [first], **header).status_code == 200
    with noticed(front):
        set_role(project=project, user=alice, role=Role.READER)
    assert stow(client, alice, [second], **header).status_code == 403
    with noticed(front):
        remove_member(project=project, user=alice)
    assert stow(client, alice, [third], "/dicomweb/projects/lung", **header).status_code == 404
    assert Instance.objects.count() == 1


def test_a_store_by_cookie_is_left_to_django_and_its_check_against_forgery(hasty, alice, project):  # noqa: F811
    client = FrontClient(hasty)
    client.force_login(alice)
    client.handler.enforce_csrf_checks = True
    answer = client.post("/dicomweb/studies", body(*slices(1)), KIND)
    assert (answer.status_code, client.answered) == (403, [])
    assert not Instance.objects.exists()


def test_an_error_while_storing_is_answered_where_the_body_was_read(hasty, alice, project, monkeypatch):  # noqa: F811
    def lost(*_):
        raise ConnectionError("the server went away")

    monkeypatch.setattr(store.rows, "join", lost)
    client = FrontClient(hasty, raise_request_exception=False)
    client.raise_request_exception = False
    answer = stow(client, alice, slices(1))
    assert (answer.status_code, client.answered) == (500, ["/dicomweb/studies"])
    assert b"went away" not in answer.content


def test_what_cannot_be_read_is_kept_in_the_quarantine_of_the_project(project, alice, client):
    good, cut = slices(2)
    answer = stow(client, alice, [good, cut[:-200], b"nonsense" * 40, b""], "/dicomweb/projects/lung")
    assert (answer.status_code, codes(answer)) == (202, ["truncated", "not_dicom", "empty"])
    kept = {refusal.code: refusal for refusal in Refusal.objects.all()}
    assert {code: refusal.name for code, refusal in kept.items()} == {
        "truncated": "part 2", "not_dicom": "part 3", "empty": "part 4",
    }  # fmt: skip
    assert quarantine.path_of(kept["truncated"]).read_bytes() == cut[:-200]
    assert quarantine.path_of(kept["not_dicom"]).read_bytes() == b"nonsense" * 40
    assert kept["empty"].file == ""
    client.force_login(alice)
    shown = client.get("/quarantine/").content.decode()
    assert "part 2" in shown
    assert kept["truncated"].reason in shown
    assert not list(store.absolute_path("incoming").iterdir())


def test_without_a_certain_project_nothing_is_kept_and_the_answer_says_so(project, alice, client):
    factories.MembershipFactory(project=factories.ProjectFactory(slug="other"), user=alice, role=Role.ENGINEER)
    answer = stow(client, alice, [b"nonsense" * 40])
    assert answer.status_code == 409
    assert "Nothing was kept" in answer.json()["00081198"]["Value"][0]["00000902"]["Value"][0]
    assert not Refusal.objects.exists()
    assert not list(store.absolute_path("incoming").iterdir())


def test_an_object_sent_to_the_address_of_another_study_can_be_stored_from_the_quarantine(project, alice, client):
    (data,) = slices(1)
    answer = stow(client, alice, [data], study="1.2.3")
    assert (answer.status_code, codes(answer)) == (409, ["wrong_study"])
    (item,) = answer.json()["00081198"]["Value"]
    refusal = Refusal.objects.get()
    assert item["00081155"]["Value"] == [refusal.sop_instance_uid]
    client.force_login(alice)
    assert client.post(f"/quarantine/{refusal.pk}/retry/").status_code == 302
    assert store.absolute_path(Instance.objects.get().file).read_bytes() == data
    refusal.refresh_from_db()
    assert refusal.state == "stored"


def test_whoever_may_not_store_fills_no_quarantine(project, client):
    reader = factories.member(project, Role.READER)
    answer = stow(client, reader, [*slices(1), b"nonsense" * 40], "/dicomweb/projects/lung")
    assert answer.status_code in (403, 409)
    assert not Refusal.objects.exists()
    assert not list(store.absolute_path("incoming").iterdir())


@pytest.mark.django_db(transaction=True)
def test_every_store_is_in_the_audit_trail_and_a_token_that_reads_stores_nothing(front, project, alice):  # noqa: F811
    first, second, third = slices(3)
    client = FrontClient(front)
    for data in (first, second):  # a new study, and one that grows
        assert stow(client, alice, [data], REMOTE_ADDR="192.0.2.7", **token(alice)).status_code == 200
    found = AuditEvent.objects.filter(action="study.store").order_by("pk")
    study = Study.objects.get()
    assert [(row.user, row.object_id, row.patient, row.address) for row in found] == [
        (alice, str(study.pk), study.patient_id, "192.0.2.7")
    ] * 2
    batches = ImportBatch.objects.order_by("pk").values_list("pk", flat=True)
    assert [row.detail["batch"] for row in found] == list(batches)
    assert all(row.request_id and row.token_id for row in found)
    reading = issue_token(user=alice, scope=ApiToken.Scope.DICOMWEB_READ)
    header = {"HTTP_AUTHORIZATION": f"Token {reading}"}
    assert client.get("/dicomweb/studies", **header).status_code == 200
    assert stow(client, alice, [third], **header).status_code == 403
    assert Instance.objects.count() == 2


def test_a_request_of_endless_parts_is_ended_and_leaves_nothing_waiting(project, alice, client, monkeypatch):
    monkeypatch.setattr(limits, "MAX_PARTS", 3)
    answer = stow(client, alice, slices(4))
    assert answer.status_code == 413
    assert "several requests" in answer.json()["detail"]
    assert not list(store.absolute_path("incoming").iterdir())
    assert stow(client, alice, slices(3)).status_code == 200


@pytest.mark.django_db(transaction=True)
def test_many_hostile_parts_cost_little_memory(project, alice, client):
    wide = factories.ct_slice()
    for k in range(20):  # headers that grow sixfold as JSON
        wide.add_new(0x60011000 + k, "UT", "\x01" * 100_000)
    grown = factories.part10_bytes(wide)
    head = {**token(alice), "content_type": KIND}

    def work():
        many = body(*[grown.replace(b"1.2.826", b"1.2.%03d" % k) for k in range(12)], *[b"x" * 50] * 100)
        before = peak()
        answer = client.post("/dicomweb/projects/lung/studies", many, **head)
        return [answer.status_code, len(many) >> 20, peak() - before]

    found = cost(work)
    status, sent, more = found.result
    assert (status, sent) == (202, 22)
    assert more < 120  # MB, with copies of the body; their JSON alone takes 138 MB
    assert Instance.objects.count() == 12
    assert Refusal.objects.count() == 100
