"""Prepared queries give what `visible_to` gives, byte for byte, to everybody."""

from __future__ import annotations

from dataclasses import fields

import pytest
from django.db import connection
from django.db.models import Q
from django.test import Client
from django.urls import include, path

from portal.accounts.models import Project, Role
from portal.accounts.services import issue_token
from studies.dicomweb import prepared
from studies.dicomweb import scope as scopes
from studies.dicomweb.urls import urls_for
from studies.models import Embargo, Origin, Series, Study
from tests import factories

pytestmark = pytest.mark.django_db


class Unprepared(scopes.Scope):
    """A scope whose query sets are asked."""

    projects = None
    several_projects = True


def unprepared(scope):
    return Unprepared(**{field.name: getattr(scope, field.name) for field in fields(scope)})


@pytest.fixture
def slowly():
    """The routes of DICOMweb without prepared queries."""

    def general(request):
        return unprepared(scopes.general_scope(request))

    def project(request, slug):
        return unprepared(scopes.project_scope(request, slug))

    below = [path("projects/<slug:slug>/", include(urls_for(project))), *urls_for(general)]
    return (path("dicomweb/", include(below)),)


@pytest.fixture
def archive(project):
    """Studies with objects of every origin, in two projects that also share none, one and a study of the same UID; and
    users of every kind."""
    other = factories.ProjectFactory(slug="liver")
    users = {str(role): factories.member(project, role) for role in Role}
    users["both"] = factories.member(project, Role.READER)
    factories.MembershipFactory(project=other, user=users["both"], role=Role.MANAGER)
    users["outsider"] = factories.member(factories.ProjectFactory())
    users["root"] = factories.UserFactory(is_superuser=True)
    number = 0
    for k, held_by in enumerate((project, project, other)):
        uid = f"1.2.{k}"
        about = {"StudyInstanceUID": uid, "PatientID": f"P{k}", "PatientName": f"Doe^Jo{k}"}
        about |= {"StudyDate": f"2020010{k + 1}", "AccessionNumber": f"A{k}", "StudyDescription": 'x "y" \\ z\u2028ü'}
        factories.make_ct_series(held_by, 2, SeriesInstanceUID=f"{uid}.1", **about)
        for origin in (Origin.MODEL, Origin.ANNOTATION, Origin.DRAFT, Origin.REFERENCE):
            for owner in (None, users["reader"], users["both"]):
                number += 1
                kinds = {"Modality": ["SR", "SEG", "MR"][number % 3], "SeriesInstanceUID": f"{uid}.9.{number}"}
                kinds |= {"SeriesNumber": number, "SeriesDescription": f"{origin} {number}"}
                factories.make_ct_series(held_by, 1, origin=origin, created_by=owner, **about, **kinds)
    factories.make_ct_series(other, 1, StudyInstanceUID="1.2.0", SeriesInstanceUID="1.2.0.1", PatientID="P0")
    factories.make_ct_series(project, 1, StudyInstanceUID="1.2.7", StudyDate="", PatientID="P7", Modality="")
    for name in ("reader", "manager", "both", "root"):
        Embargo.objects.create(user=users[name], study=project.studies.get(study_instance_uid="1.2.1"), reason="test")
    return users


PATHS = [
    "/studies", "/studies?limit=1", "/studies?limit=2&offset=1", "/studies?offset=3", "/studies?offset=99",
    "/studies?includefield=00081030,00080060", "/studies?PatientName=Doe*", "/studies?PatientName=doe^jo1",
    "/studies?PatientName=jo&fuzzymatching=true", "/studies?PatientID=P1", "/studies?AccessionNumber=A?",
    "/studies?StudyDate=20200102-", "/studies?StudyDate=20200101-20200102&PatientID=P*",
    "/studies?StudyInstanceUID=1.2.0,1.2.2", "/studies?StudyDescription=*%22y*", "/studies?ModalitiesInStudy=SR",
    "/studies?ModalitiesInStudy=SEG\\MR&limit=2", "/studies?Modality=CT&StudyTime=10-11", "/studies?PatientSex=F",
    "/studies?offset=500", "/studies/1.2.0/series", "/studies/1.2.1/series", "/studies/1.2.2/series?limit=3&offset=2",
    "/studies/1.2.1/series?Modality=SR", "/studies/1.2.0/series?SeriesNumber=5", "/studies/1.2.3/series",
    "/studies/1.2.0/series?SeriesDescription=*mod*", "/studies/1.2.0/series?includefield=Manufacturer",
    "/studies/1.2.0/series?PatientID=P0", "/studies/1.2.0/series?ModalitiesInStudy=SR",
    "/studies/1.2.0/series/1.2.0.1/instances", "/studies/1.2.0/series/1.2.0.1/instances?limit=1&offset=1",
    "/studies/1.2.0/series/1.2.0.1/instances?InstanceNumber=2&includefield=00200032,PixelSpacing",
    "/studies/1.2.2/series/1.2.2.1/instances?Rows=32&PatientID=P2", "/studies/1.2.1/series/1.2.1.9.16/instances",
    "/studies/1.2.0/series/1.2.0.9.4/instances", "/studies/1.2.0/series/1.2.0.1/metadata",
    "/studies/1.2.0/series/1.2.0.9.7/metadata", "/studies/1.2.7/series", "/series", "/instances?limit=5",
]  # fmt: skip


def test_everybody_gets_what_visible_to_gives(archive, slowly, settings):
    bases = ("/dicomweb", "/dicomweb/projects/lung")
    clients = {name: Client() for name in archive}
    for name, client in clients.items():
        client.force_login(archive[name])
    for name in ("both", "root"):
        token = issue_token(user=archive[name], project=Project.objects.get(slug="lung"))
        clients[f"{name}, token"] = Client(headers={"authorization": f"Token {token}"})

    def answers():
        for name, client in clients.items():
            for base in bases:
                for address in PATHS if base == "/dicomweb" else PATHS[::4]:
                    got = client.get(base + address)
                    yield (name, base, address), (got.status_code, got.headers.get("X-Total-Count"), got.content)

    fast = dict(answers())
    settings.ROOT_URLCONF = slowly
    slow = dict(answers())
    for key, expected in slow.items():
        assert fast[key] == expected, key
    seen = {name: slow[name, "/dicomweb", "/studies"][2] for name in clients}
    assert len(set(seen.values())) >= 6  # managers and engineers without an embargo see the same
    assert seen["outsider"] == b"[]"


@pytest.mark.parametrize(
    "address",
    ["/studies", "/studies?ModalitiesInStudy=CT&limit=1", "/studies?offset=500", "/studies/1.2.0/series",
     "/studies/1.2.0/series/1.2.0.1/instances"],
)  # fmt: skip
def test_lists_cost_few_queries_whatever_their_length(archive, address, django_assert_max_num_queries):
    client = Client()
    client.force_login(archive["both"])
    with django_assert_max_num_queries(9):  # session, user, projects, at most four look-ups, two for the audit trail
        assert client.get("/dicomweb" + address).status_code == 200


def test_a_query_that_depends_on_more_than_its_values_is_not_prepared(project):
    user = factories.member(project)

    def build(somebody, values):
        few = Series.objects.filter(study__project__memberships__user=somebody).count() < 5
        return Study.objects.filter(study_id=values[0] if few else "").values_list("pk")

    assert prepared.rows("test: asks while it is built", build, user, ["1"]) == []
    factories.make_ct_series(project, 1, StudyID="1")
    assert prepared.rows("test: asks while it is built", build, user, ["1"]) == [(Study.objects.get().pk,)]


def test_conditions_come_together_as_they_were():
    condition = (Q(a=1) & ~Q(b__contains=["x", "y"])) | Q(c__ilike="%") & (Q(d=2) | Q(d=3))
    shape, values = prepared.taken_apart(condition)
    assert values == [1, "x", "y", "%", 2, 3]
    assert prepared.put_together(shape, iter(values)) == condition


def test_the_database_keeps_plans_of_look_ups_only(project):
    client = Client()
    client.force_login(factories.member(project))
    for k in range(4):
        client.get("/dicomweb/studies")
        client.get(f"/dicomweb/studies?PatientID=P{k}")
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement FROM pg_prepared_statements")
        kept = " ".join(row[0] for row in cursor.fetchall())
    assert "studies_study" in kept
    assert '"patient_id" = $' not in kept
