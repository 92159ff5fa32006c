from datetime import date, timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from portal.accounts.models import Role
from portal.annotation.models import Campaign, Task
from studies.models import Embargo, Origin
from tests.factories import ProjectFactory, UserFactory, member
from tests.portal.rows import cohort_row, prediction_row, series_row, study_row, version_row

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return ProjectFactory(slug="thorax", name="Thorax AI")


@pytest.fixture
def viewer(project, client):
    user = member(project, Role.VIEWER)
    client.force_login(user)
    return user


def shown(response) -> list[int]:
    return [row.study.pk for row in response.context["rows"]]


def listed(client, **data) -> list[int]:
    """Keys of the studies that the worklist shows for filters, as it is asked while one types."""
    return shown(client.post(reverse("studies"), data, HTTP_HX_REQUEST="true"))


def test_lists_exactly_the_studies_of_own_projects(client, viewer, project):
    mine = {study_row(project).pk for _ in range(3)}
    study_row(ProjectFactory())
    assert set(listed(client)) == mine


def test_newest_first_and_undated_last(client, viewer, project):
    old = study_row(project, on=date(2020, 1, 1)).pk
    undated = study_row(project, on=None).pk
    new = study_row(project, on=date(2026, 1, 1)).pk
    assert listed(client) == [new, old, undated]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("anna", {"a"}),
        ("ANNA", {"a"}),
        ("D-77", {"b"}),
        ("acc9", {"b"}),
        ("thorax", {"a"}),
        ("demo", {"a", "b"}),
        ("demo thorax", {"a"}),
        ("demo nothing", set()),
        ("100%", {"c"}),
        ("_", set()),
        ("\\", set()),
    ],
)
def test_text_is_found_in_name_identifier_accession_and_description(client, viewer, project, text, found):
    studies = {
        "a": study_row(project, name="DEMO^ANNA", description="CT thorax native"),
        "b": study_row(project, name="DEMO^BRUNO", patient_id="D-7788", accession="ACC9001", description="Knee"),
        "c": study_row(project, name="WEBER^CARL", description="SpO2 100% shunt"),
    }
    assert set(listed(client, q=text)) == {studies[key].pk for key in found}


def test_text_search_never_reaches_other_tenants(client, viewer, project):
    study_row(ProjectFactory(), name="SECRET^PERSON")
    assert listed(client, q="secret") == []


def test_the_search_text_is_never_in_an_address(client, viewer, project):
    study_row(project)
    response = client.post(reverse("studies"), {"q": "anna", "modality": "CT", "since": "365"}, HTTP_HX_REQUEST="true")
    assert response["HX-Replace-Url"] == "/studies/?modality=CT&since=365"


def test_filters_narrow_by_modality_body_part_and_date(client, viewer, project):
    today = timezone.localdate()
    ct = study_row(project, modality="CT", on=today).pk
    mr = study_row(project, modality="MR", body_part="BRAIN", on=today - timedelta(days=20)).pk
    old = study_row(project, modality="CT", on=date(2001, 2, 3)).pk
    assert set(listed(client, modality="CT")) == {ct, old}
    assert listed(client, body_part="BRAIN") == [mr]
    assert listed(client, since="7") == [ct]
    assert set(listed(client, since="30")) == {ct, mr}
    assert listed(client, first="2001-01-01", last="2001-12-31") == [old]


def test_filters_narrow_by_project_and_cohort(client, project):
    other = ProjectFactory(slug="brain")
    user = member(project, Role.VIEWER)
    other.memberships.create(user=user, role=Role.VIEWER)
    client.force_login(user)
    here, there = study_row(project), study_row(other)
    cohort, _ = cohort_row(project, [here])
    assert set(listed(client)) == {here.pk, there.pk}
    assert listed(client, project="brain") == [there.pk]
    assert listed(client, cohort=cohort.pk) == [here.pk]
    client.post(reverse("project_select"), {"project": "brain"})
    assert listed(client) == [there.pk]


def test_a_cohort_of_another_tenant_gives_nothing(client, viewer, project):
    elsewhere = ProjectFactory()
    study_row(project)
    cohort, _ = cohort_row(elsewhere, [study_row(elsewhere)])
    assert listed(client, cohort=cohort.pk) == []


def test_filters_narrow_by_model_result_and_hide_results_in_a_blinded_reading(client, viewer, project):
    with_result, without = study_row(project), study_row(project)
    prediction_row(version_row(project), with_result)
    assert listed(client, ai="yes") == [with_result.pk]
    assert listed(client, ai="no") == [without.pk]
    Embargo.objects.create(user=viewer, study=with_result, reason="campaign:1")
    assert listed(client, ai="yes") == []
    page = client.get(reverse("study", args=[with_result.pk])).content.decode()
    assert "organs 1" not in page


@pytest.mark.parametrize("field", ["first", "cohort", "page", "sort", "since", "ai"])
def test_nonsense_in_a_filter_is_ignored(client, viewer, project, field):
    study = study_row(project)
    assert listed(client, **{field: "9' OR 1=1"}) == [study.pk]


def test_pages_of_fifty_reach_every_study_once(client, viewer, project):
    every = {study_row(project).pk for _ in range(53)}
    first, second = listed(client), listed(client, page=2)
    assert (len(first), len(second)) == (50, 3)
    assert set(first) | set(second) == every
    assert listed(client, page=99) == second


def test_sorting_by_patient(client, viewer, project):
    b, a = study_row(project, name="B^B").pk, study_row(project, name="A^A").pk
    assert listed(client, resort="patient") == [a, b]
    assert listed(client, sort="-patient") == [b, a]


def test_number_of_queries_does_not_grow_with_the_rows(client, viewer, project, django_assert_num_queries):
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    version = version_row(project)
    prediction_row(version, study_row(project))
    with CaptureQueriesContext(
        connection,
    ) as few:
        listed(client)
    for number in range(30):
        study = study_row(project, patient_id=f"N{number}")
        series_row(study, modality="MR")
        prediction_row(version, study)
    with django_assert_num_queries(len(few)):
        assert len(listed(client)) == 31
    assert len(few) <= 11  # one of them writes the audit trail


def test_counts_leave_out_what_a_reader_may_not_see(client, project):
    reader, colleague = member(project, Role.READER), member(project, Role.READER)
    study = study_row(project, images=10)
    series_row(study, modality="SEG", images=1, origin=Origin.ANNOTATION, created_by=colleague)
    client.force_login(reader)
    row = client.get(reverse("studies")).context["rows"][0]
    assert (row.series, row.images, row.modalities) == (1, 10, ["CT"])
    page = client.get(reverse("study", args=[study.pk]))
    assert [series.modality for series in page.context["images"]] == ["CT"]
    assert page.context["annotations"] == []
    assert all("Annotated" not in event.title for event in page.context["events"])


def test_only_managers_see_in_the_worklist_what_is_being_read(client, project):
    reader, manager = member(project, Role.READER), member(project, Role.MANAGER)
    study = study_row(project)
    cohort, _ = cohort_row(project, [study])
    campaign = Campaign.objects.create(project=project, cohort=cohort, name="Blind", state="reading")
    Task.objects.create(campaign=campaign, case=cohort.cases.get(), reader=reader, position=1)
    client.force_login(reader)
    assert client.get(reverse("studies")).context["rows"][0].reading == ""
    client.force_login(manager)
    assert client.get(reverse("studies")).context["rows"][0].reading == "reading"


def test_study_page_says_which_version_said_what(client, viewer, project):
    study = study_row(project)
    prediction_row(
        version_row(project, number=7), study, scores={"Liver": 0.97}, measurements={"Liver": {"volume_ml": 1512.25}}
    )
    page = client.get(reverse("study", args=[study.pk])).content.decode()
    assert "organs 7" in page
    assert "1512.25 mL" in page
    assert "Research use, not a medical device" in page


def test_age_is_counted_at_the_day_of_the_study(client, viewer, project):
    study_row(project, on=date(2026, 5, 31), patient_id="X")  # born 1 June 1963
    study_row(project, on=date(2026, 6, 1), patient_id="X")
    assert [row.person for row in client.get(reverse("studies")).context["rows"]] == ["F 63", "F 62"]


def test_patient_page_lists_all_studies_and_another_tenants_patient_is_not_found(client, viewer, project):
    first, second = study_row(project, patient_id="Z1"), study_row(project, patient_id="Z1", on=date(2025, 1, 1))
    page = client.get(reverse("patient", args=[first.patient_id]))
    assert shown(page) == [first.pk, second.pk]
    foreign = study_row(ProjectFactory())
    assert client.get(reverse("patient", args=[foreign.patient_id])).status_code == 404
    assert client.get(reverse("study", args=[foreign.pk])).status_code == 404


def test_an_empty_archive_says_what_to_do(client, viewer):
    assert "No studies yet" in client.get(reverse("studies")).content.decode()


def test_names_are_escaped(client, viewer, project):
    study_row(project, name="<script>alert(1)</script>^X", description="<b>bold</b>")
    page = client.get(reverse("studies")).content.decode()
    assert "<script>alert" not in page
    assert "<b>bold" not in page


def test_a_superuser_sees_every_project(client):
    studies = {study_row(ProjectFactory()).pk, study_row(ProjectFactory()).pk}
    client.force_login(UserFactory(is_superuser=True))
    assert set(listed(client)) == studies
