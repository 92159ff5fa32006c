import pytest
from django.test import RequestFactory
from django.urls import reverse

from inference.jobs.models import Job
from portal.accounts.models import Role
from portal.annotation.models import Campaign, CampaignReader, Task
from portal.frame.finders import PlotlyFinder
from studies.models import Series
from tests.factories import ProjectFactory, UserFactory, member
from tests.portal.rows import cohort_row, study_row, version_row

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return ProjectFactory(slug="organs", name="Organs")


def campaign_with_tasks(project, reader, states, *, name="Contours", blinded=True):
    cohort, _ = cohort_row(project, [study_row(project) for _ in states], name=f"Cohort of {name}")
    campaign = Campaign.objects.create(project=project, cohort=cohort, name=name, state="reading", blinded=blinded)
    CampaignReader.objects.create(campaign=campaign, user=reader)
    for number, (case, state) in enumerate(zip(cohort.cases.order_by("name"), states, strict=True)):
        Task.objects.create(campaign=campaign, case=case, reader=reader, position=number, state=state)
    return campaign


def test_home_counts_my_tasks_and_offers_the_draft_first(client, project):
    reader = member(project, Role.READER)
    campaign = campaign_with_tasks(project, reader, ["submitted", "open", "started", "skipped"])
    client.force_login(reader)
    page = client.get(reverse("home"))
    (entry,) = page.context["reading"]
    assert (entry["done"], entry["total"], entry["task"].state) == (2, 4, "started")
    assert page.context["waiting"] == 2
    assert reverse("reading_task", args=[entry["task"].pk]) in page.content.decode()
    assert page.context["campaigns"] == []  # a reader manages none
    campaign.state = "paused"
    campaign.save()
    assert client.get(reverse("home")).context["reading"] == []


def test_home_does_not_link_a_blinded_case_to_its_study(client, project):
    reader = member(project, Role.READER)
    campaign_with_tasks(project, reader, ["open"])
    client.force_login(reader)
    page = client.get(reverse("home")).content.decode()
    before_recent = page[: page.index("Recent studies")]
    assert "thumbnail" not in before_recent


def test_home_of_a_manager_shows_progress_of_the_campaigns(client, project):
    manager, reader = member(project, Role.MANAGER), member(project, Role.READER)
    campaign_with_tasks(project, reader, ["submitted", "open", "open", "open"])
    client.force_login(manager)
    (campaign,) = client.get(reverse("home")).context["campaigns"]
    assert (campaign.text, campaign.share) == ("1 of 4 reads", "25 %")


def test_home_shows_jobs_of_own_projects_only(client, project):
    viewer = member(project, Role.VIEWER)
    for owner in (project, ProjectFactory()):
        Job.objects.create(project=owner, task="x", title=f"Train on {owner.slug}", queue="train")
    client.force_login(viewer)
    assert [job.title for job in client.get(reverse("home")).context["jobs"]] == ["Train on organs"]


@pytest.mark.parametrize(
    ("role", "words"),
    [
        (Role.ENGINEER, "Import images"),
        (Role.READER, "A manager or an engineer of a project imports images"),
        (None, "You are not a member of a project yet"),
    ],
)
def test_an_empty_archive_says_what_to_do(client, project, role, words):
    client.force_login(member(project, role) if role else UserFactory())
    assert words in client.get(reverse("home")).content.decode()


def test_an_administrator_is_offered_the_demo(client):
    client.force_login(UserFactory(is_superuser=True))
    page = client.get(reverse("home")).content.decode()
    assert f'action="{reverse("demo")}"' in page
    assert "Make a project" in page


def test_number_of_queries_of_home_does_not_grow(client, project, django_assert_num_queries):
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    manager = member(project, Role.MANAGER)
    client.force_login(manager)
    campaign_with_tasks(project, manager, ["open"], name="A")
    with CaptureQueriesContext(connection) as few:
        client.get(reverse("home"))
    for name in "BCD":
        campaign_with_tasks(project, manager, ["open", "started"], name=name)
    with django_assert_num_queries(len(few)):
        client.get(reverse("home"))


def test_search_finds_things_of_each_kind_and_no_other_tenants(client, project):
    viewer = member(project, Role.VIEWER)
    study_row(project, name="LIVERMORE^ANNA", description="Knee")
    study_row(project, name="X^Y", description="MR liver")
    cohort_row(project, [], name="Liver cohort")
    version_row(project, name="liver-net")
    Job.objects.create(project=project, task="x", title="Train liver-net", queue="train")
    other = ProjectFactory()
    study_row(other, name="LIVERPOOL^BERT", description="CT liver foreign")
    client.force_login(viewer)
    response = client.post(reverse("search"), {"q": "liver"}, HTTP_HX_REQUEST="true")
    found = {kind: [hit.title for hit in hits] for kind, hits in response.context["found"].items()}
    assert found == {
        "Patients": ["LIVERMORE^ANNA"],
        "Studies": ["MR liver"],
        "Cohorts": ["Liver cohort"],
        "Models": ["liver-net"],
        "Jobs": ["Train liver-net"],
    }


def test_search_is_never_a_get(client, project):
    client.force_login(member(project))
    assert client.get(reverse("search"), {"q": "anna"}).status_code == 405


def test_project_page_of_a_viewer_offers_nothing_to_change(client, project):
    client.force_login(member(project, Role.VIEWER))
    page = client.get(reverse("project", args=["organs"])).content.decode()
    assert reverse("member_set", args=["organs"]) not in page
    client.force_login(member(project, Role.MANAGER))
    assert reverse("member_set", args=["organs"]) in client.get(reverse("project", args=["organs"])).content.decode()


def test_project_page_counts_series_that_the_user_may_see(client, project):
    study = study_row(project)
    colleague = member(project, Role.READER)
    Series.objects.create(
        study=study, series_instance_uid="9.9", modality="SEG", origin="annotation", created_by=colleague
    )
    client.force_login(member(project, Role.READER))
    assert client.get(reverse("project", args=["organs"])).context["counts"]["series"] == 1
    client.force_login(colleague)
    assert client.get(reverse("project", args=["organs"])).context["counts"]["series"] == 2


def test_pages_carry_security_headers(client, project):
    client.force_login(member(project))
    response = client.get(reverse("home"))
    policy = response["Content-Security-Policy"]
    assert "script-src 'self';" in policy
    assert "frame-ancestors 'self'" in policy
    assert response["X-Content-Type-Options"] == "nosniff"
    assert "no-store" in response["Cache-Control"]


def test_no_page_has_inline_scripts_or_handlers(client, project):
    import re

    manager = member(project, Role.MANAGER)
    study = study_row(project)
    client.force_login(manager)
    addresses = [
        reverse(name)
        for name in ("home", "studies", "profile", "projects", "evaluations", "cohorts", "models", "jobs", "campaigns")
    ]
    for url in [*addresses, reverse("study", args=[study.pk]), reverse("project", args=["organs"])]:
        page = client.get(url).content.decode()
        assert not re.search(r"\son[a-z]+=", page), url
        for tag, body in re.findall(r"<script([^>]*)>([^<]*)", page):
            assert "src=" in tag or 'type="application/json"' in tag or not body.strip(), url


def test_not_found_speaks_to_people_and_repeats_nothing_of_the_address(client, project):
    client.force_login(member(project))
    response = client.get("/studies/DEMO-ANNA/")
    assert response.status_code == 404
    assert "There is nothing at this address for you" in response.content.decode()
    assert "DEMO-ANNA" not in response.content.decode()


def test_not_allowed_speaks_to_people(client, project):
    client.force_login(member(project, Role.VIEWER))
    response = client.get(reverse("users"))
    assert response.status_code == 403
    assert "Your role does not allow this" in response.content.decode()


def test_error_page_needs_neither_database_nor_session():
    from django.views.defaults import server_error

    response = server_error(RequestFactory().get("/"))
    assert response.status_code == 500
    assert "The server made an error" in response.content.decode()


def test_plotly_is_served_from_the_installed_package():
    import plotly

    path = PlotlyFinder().find("js/vendor/plotly.min.js")
    assert path.startswith(str(plotly.__path__[0]))
    assert [name for name, _ in PlotlyFinder().list([])] == ["plotly.min.js"]


def test_a_refusal_says_what_leads_on(client):
    client.force_login(UserFactory(is_superuser=True))
    assert "There is no project yet" in client.get("/training/new/").content.decode()
    client.force_login(UserFactory())
    assert "You are not a member of a project yet" in client.get("/training/new/").content.decode()
    client.force_login(member(ProjectFactory(), Role.VIEWER))
    assert "Your role does not allow this" in client.get("/training/new/").content.decode()
