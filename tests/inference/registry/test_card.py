"""Model cards: what people write is kept as revisions, all else follows from manifest, training and evaluations."""

from __future__ import annotations

from datetime import date

import pytest
from django.db import DatabaseError, connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from inference.errors import CardError, StageError
from inference.registry import card_text, services
from inference.registry.card import card_of, composition
from inference.registry.card_markdown import markdown
from inference.registry.models import CardRevision, Stage
from inference.training.models import TrainingRun
from portal.accounts.audit.models import AuditEvent
from portal.accounts.models import Role
from studies.cohorts.models import CohortPatient, Split
from studies.models import Series
from tests.factories import ProjectFactory, UserFactory, member
from tests.portal.rows import cohort_row, entry, evaluation_row, study_row, version_row

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return ProjectFactory(slug="brain", name="Brain")


@pytest.fixture
def version(project):
    return version_row(project)


@pytest.fixture
def boss(project):
    return member(project, Role.MANAGER, username="mona")


def test_every_change_is_a_revision_with_name_and_time(version, boss):
    first = card_text.write(version, {"intended_use": "Outlines the liver.\r\nIn CT."}, base=0, by=boss)
    second = card_text.write(version, {"limits": "Adults only."}, base=1, by=boss)
    assert (first.number, second.number) == (1, 2)
    made = card_of(version, boss)
    texts = {section["key"]: section["text"] for section in made["sections"]}
    assert texts["intended_use"] == "Outlines the liver.\nIn CT."
    assert texts["limits"] == "Adults only."
    assert (made["revision"]["number"], made["revision"]["by"]) == (2, "mona")
    event = AuditEvent.objects.filter(action="version.card").latest("pk")
    assert event.user_id == boss.pk
    assert event.detail == {"revision": 2, "limits": True}
    assert "Adults" not in str(event.detail), "the trail takes no free text"


def test_a_revision_cannot_be_changed_or_deleted(version, boss):
    made = card_text.write(version, {"limits": "Adults only."}, base=0, by=boss)
    for change in (lambda: CardRevision.objects.filter(pk=made.pk).update(sections={}), made.delete):
        with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
            change()
    assert card_text.sections_of(version, card_text.revision_of(version))["limits"] == "Adults only."


def test_two_people_do_not_overwrite_each_other(version, boss, project):
    card_text.write(version, {"limits": "Adults only."}, base=0, by=boss)
    other = member(project, Role.ENGINEER)
    with pytest.raises(CardError, match="changed meanwhile by mona"):
        card_text.write(version, {"limits": "Everybody."}, base=0, by=other)


@pytest.mark.parametrize(
    ("sections", "words"),
    [({"results": "AUC 1.0"}, "no section 'results'"), ({"limits": "x" * 4001}, "longer than"), ({}, "Nothing")],
)
def test_generated_parts_cannot_be_written(version, boss, sections, words):
    with pytest.raises(CardError, match=words):
        card_text.write(version, sections, base=0, by=boss)


def test_what_the_bundle_says_stands_until_somebody_writes(version, boss):
    version.manifest |= {"card": {"intended_use": "Outlines the liver.", "limits": "Not stated."}}
    texts = card_text.sections_of(version, None)
    assert (texts["intended_use"], texts["limits"]) == ("Outlines the liver.", "")
    version.save()
    card_text.write(version, {"limits": "Adults only."}, base=0, by=boss)
    texts = card_text.sections_of(version, card_text.revision_of(version))
    assert (texts["intended_use"], texts["limits"]) == ("Outlines the liver.", "Adults only.")


def test_production_needs_intended_use_and_limits(version, boss):
    with pytest.raises(StageError, match="does not say: Intended use, Limits and risks") as refused:
        services.promote(version, Stage.PRODUCTION, reason="best", by=boss)
    assert "model card" in refused.value.next_step
    version.refresh_from_db()
    assert version.stage == Stage.CANDIDATE
    services.promote(version, Stage.VALIDATED, reason="checked", by=boss)  # nothing is asked for before production
    card_text.write(version, {"intended_use": "Livers.", "limits": "Adults only."}, base=0, by=boss)
    assert services.promote(version, Stage.PRODUCTION, reason="best", by=boss).stage == Stage.PRODUCTION


def trained(project, version):
    """Four patients of known sex, age and scanner: three to learn from, one to validate on."""
    people = [("F", date(1980, 1, 1)), ("F", date(1960, 1, 1)), ("M", date(2000, 1, 1)), ("", None)]
    studies = []
    for sex, born in people:
        study = study_row(project, on=date(2020, 1, 1))
        study.patient.patient_sex, study.patient.patient_birth_date = sex, born
        study.patient.save()
        studies.append(study)
    cohort, reference = cohort_row(project, studies, name="Livers")
    for number, place in enumerate(CohortPatient.objects.filter(cohort=cohort).order_by("patient_id")):
        place.split = Split.VALIDATION if number == 3 else Split.TRAIN
        place.save()
    for case in cohort.cases.all():
        reference.case_labels.create(case=case)
    first = Series.objects.get(study=studies[0])
    first.manufacturer, first.manufacturer_model_name = "Acme", "Scan 3000"
    first.save()
    TrainingRun.objects.create(
        project=project, name="Run", config={"training": {"seed": 7}}, reference=reference, version=version,
        cohort_digest="ab" * 32,
    )  # fmt: skip
    return cohort, reference


def test_the_training_cohort_is_counted_by_patients(project, version, boss):
    cohort, _ = trained(project, version)
    (run,) = card_of(version, boss)["training"]["runs"]
    people = run["learned_from"]
    assert (run["cohort"], run["seed"]) == ("Livers", 7)
    assert (people["cases"], people["patients"], run["chosen_by"]["cases"]) == (3, 3, 1)
    assert people["sex"] == {"female": 2, "male": 1, "other": 0, "unknown": 0}
    # 40, 60 and 20 years on the first of January 2020
    assert people["age"] == {"known": 3, "median": 40.0, "youngest": 19, "oldest": 59} or people["age"] == {
        "known": 3, "median": 40.0, "youngest": 20, "oldest": 60,
    }  # fmt: skip
    assert people["scanners"] == ["Acme Scan 3000"]
    assert run["chosen_by"]["sex"]["unknown"] == 1
    assert run["chosen_by"]["age"]["known"] == 0
    assert composition(list(cohort.cases.all()))["patients"] == 4


def test_results_carry_interval_n_method_and_what_is_shared(project, version, boss):
    _, reference = cohort_row(project, [study_row(project)], name="Test")
    evaluation_row(
        version,
        reference,
        {"Liver": {"dice": entry(0.873, 0.861, 0.884, 52), "auc": {"estimate": None, "reason": "one class", "n": 52}}},
        overlap={"known": True, "patients": 2},
    )
    (result,) = card_of(version, boss)["results"]
    dice, auc = result["figures"]
    assert (dice["figure"], dice["estimate"], dice["lower"], dice["upper"], dice["n"], dice["method"]) == (
        "Dice", 0.873, 0.861, 0.884, 52, "bootstrap",
    )  # fmt: skip
    assert (auc["estimate"], auc["reason"]) == (None, "one class")
    assert result["shared"] == ["2 patients are also in the training data"]


def test_the_figures_of_a_detector_have_names_and_the_rule_of_what_hits(project, version, boss):
    version.manifest["task"] = "detection"
    version.save()
    _, reference = cohort_row(project, [study_row(project)], name="Test")
    rate = entry(0.7, 0.6, 0.8, 40)
    evaluation_row(version, reference, {"Liver": {"sensitivity_0_125": rate, "afroc": rate, "sensitivity_2": rate}})
    (result,) = card_of(version, boss)["results"]
    assert [row["figure"] for row in result["figures"]] == [
        "AFROC",
        "Sensitivity by lesion, at 0.125 false positives per image",
        "Sensitivity by lesion, at 2 false positives per image",
    ]
    assert "intersection over union is 0.1 or more" in result["matching"]
    assert result["matching"] in markdown(card_of(version, boss))


def test_an_imported_version_says_that_its_training_is_unknown(version, boss):
    made = card_of(version, boss)["training"]
    assert made["known"] is False
    assert "says nothing" in made["reason"]
    version.manifest |= {"training": {"imported_from": "MONAI bundle", "data": "Task09"}}
    assert card_of(version, boss)["training"]["told"] == {"imported_from": "MONAI bundle", "data": "Task09"}


def test_markdown_tells_the_same_and_lets_nobody_forge_a_part(project, version, boss):
    trained(project, version)
    _, reference = cohort_row(project, [study_row(project)], name="Test | cohort")
    evaluation_row(version, reference, {"Liver": {"dice": entry(0.873, 0.861, 0.884, 52)}})
    card_text.write(
        version, {"limits": "Adults only.\n## Results\n<script>alert(1)</script> | 0.99 |"}, base=0, by=boss
    )
    text = markdown(card_of(version, boss))
    assert "# Model card: organs, version 1" in text
    assert "| Liver | Dice | 0.873 | 0.861 to 0.884 | 52 | bootstrap |" in text
    assert "2 female, 1 male" in text
    assert "Research use, not a medical device." in text
    assert text.count("\n## Results\n") == 1
    assert "<script>" not in text
    assert "Test \\| cohort" in text


def test_no_patient_is_named_in_a_card(project, version, boss):
    study = study_row(project, name="SECRET^NAME", patient_id="SECRET-ID", accession="SECRET-ACC")
    _, reference = cohort_row(project, [study], name="Test")
    evaluation_row(version, reference, {"Liver": {"dice": entry(0.8, 0.7, 0.9, 1)}}, [0.8])
    assert "SECRET" not in str(card_of(version, boss)) + markdown(card_of(version, boss))


def signed_in(user) -> Client:
    client = Client()
    client.force_login(user)
    return client


def test_page_print_view_and_form(project, version, boss):
    client = signed_in(boss)
    page = client.get(reverse("card", args=[version.pk])).content.decode()
    assert "Not stated: Intended use, Limits and risks" in page
    assert "Not evaluated yet" in page
    form = client.get(reverse("card_edit", args=[version.pk])).content.decode()
    assert "Needed before production." in form
    answer = client.post(
        reverse("card_edit", args=[version.pk]),
        {"base": 0, "intended_use": "Outlines the liver.", "limits": "<b>Adults</b> only."},
        follow=True,
    ).content.decode()
    assert "kept as revision 1" in answer
    assert "&lt;b&gt;Adults&lt;/b&gt; only." in answer
    assert "Not stated: Intended use" not in answer
    stale = client.post(reverse("card_edit", args=[version.pk]), {"base": 0, "limits": "All ages."})
    assert stale.status_code == 422
    assert "changed meanwhile" in stale.content.decode()
    assert "All ages." in stale.content.decode(), "what was typed is not lost"
    printed = client.get(reverse("card", args=[version.pk]) + "?print").content.decode()
    assert 'class="paper"' in printed
    assert "Research use, not a medical device." in printed


def test_the_stage_form_shows_what_is_missing_and_the_way_to_write_it(version, boss):
    client = signed_in(boss)
    page = client.post(reverse("promote", args=[version.pk]), {"to": "production", "reason": "best"})
    assert page.status_code == 422
    text = page.content.decode()
    assert "does not say: Intended use, Limits and risks" in text
    assert reverse("card_edit", args=[version.pk]) in text


def test_rest_reads_and_writes_the_card(project, version, boss):
    client = signed_in(boss)
    address = f"/api/versions/{version.pk}/card/"
    assert client.get(address).json()["revision"]["number"] == 0
    written = client.patch(address, {"revision": 0, "sections": {"limits": "Adults only."}}, "application/json")
    assert written.status_code == 200, written.content
    assert written.json()["revision"] == {**written.json()["revision"], "number": 1, "by": "mona"}
    forged = client.patch(address, {"revision": 1, "sections": {"results": "AUC 1"}}, "application/json")
    assert forged.status_code == 400
    assert "no section" in forged.json()["cause"]
    text = client.get(f"{address}markdown/")
    assert text["Content-Type"].startswith("text/markdown")
    assert "Adults only." in text.content.decode()


def test_rest_refuses_production_without_a_card_in_words(version, boss):
    asked = {"to": "production", "reason": "best"}
    refused = signed_in(boss).post(f"/api/versions/{version.pk}/promote/", asked, "application/json")
    assert refused.status_code == 400
    assert "Intended use, Limits and risks" in refused.json()["cause"]
    assert "model card" in refused.json()["next_step"]


def test_somebody_elses_card_is_not_there(version):
    client = signed_in(member(ProjectFactory(), Role.MANAGER))
    for address in (reverse("card", args=[version.pk]), f"/api/versions/{version.pk}/card/"):
        assert client.get(address).status_code == 404
    assert signed_in(UserFactory()).get(reverse("card_edit", args=[version.pk])).status_code == 404


def test_the_card_asks_no_more_with_more_revisions_and_evaluations(project, version, boss, django_assert_num_queries):

    client = signed_in(boss)
    trained(project, version)
    _, reference = cohort_row(project, [study_row(project)], name="Test")
    evaluation_row(version, reference, {"Liver": {"dice": entry(0.8, 0.7, 0.9, 9)}})
    card_text.write(version, {"limits": "one"}, base=0, by=boss)
    address = reverse("card", args=[version.pk])
    client.get(address)  # the first look writes its row of the audit trail
    with CaptureQueriesContext(connection) as few:
        client.get(address)
    for number in range(1, 4):
        evaluation_row(version, reference, {"Liver": {"dice": entry(0.8, 0.7, 0.9, 9)}})
        card_text.write(version, {"limits": f"text {number}"}, base=number, by=boss)
    with CaptureQueriesContext(connection) as many:
        client.get(address)
    assert len(many) == len(few)
