"""Clinical values from tables: what is wrong is named by row and column, and nothing is written while anything is."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime

import openpyxl
import pytest
from django.core.management import CommandError, call_command

from portal.accounts.models import Role
from studies.cohorts import services, suggestions, table_imports, variables
from studies.cohorts.clinical import ClinicalValue, ClinicalVariable, TableImport
from studies.cohorts.errors import CohortError
from studies.cohorts.tables import Choices, Column
from studies.models import Embargo, Patient
from studies.tabular import reading
from tests.conftest import SHARED
from tests.factories import ProjectFactory, UserFactory, make_ct_series, member

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def media(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path


@pytest.fixture
def project():
    return ProjectFactory(slug="ward")


@pytest.fixture
def patients(project):
    """P1, P2 and P3, without images."""
    return [Patient.objects.create(project=project, patient_id=f"P{n}") for n in (1, 2, 3)]


def plan(project, text: str | bytes, *, suggested=None, **choices):
    table = reading.read(text.encode() if isinstance(text, str) else text)
    made = suggested or suggestions.suggest(table)
    for key, value in choices.items():
        setattr(made, key, value)
    return variables.plan(table, made, project)


def problems(made) -> list[tuple[str, int, str]]:
    return [(problem.code, problem.row, problem.column) for problem in made.problems]


def load(project, text: str, **choices):
    """Import a table; the plan that was carried out."""
    table = reading.read(text.encode())
    made = suggestions.suggest(table)
    for key, value in choices.items():
        setattr(made, key, value)
    record = TableImport.objects.create(project=project, purpose="variables", name="t.csv", state="done")
    return variables.commit(table, made, project, record=record, by=None)


def test_numbers_categories_dates_and_survival_times_are_stored(project, patients):
    load(
        project,
        "PatientID;CRP [mg/L];Stage;Discharged;OS days;Status\n"
        "P1;1,5;II;31.01.2020;420;dead\nP2;20;III;01.02.2020;911,5;alive\nP3;;n/a;;;\n",
    )
    found = {
        (v.variable.name, v.patient.patient_id): v for v in ClinicalValue.objects.select_related("variable", "patient")
    }
    assert len(found) == 8
    assert found["CRP", "P1"].number == 1.5
    assert found["CRP", "P1"].variable.unit == "mg/L"
    assert found["Stage", "P2"].text == "III"
    assert found["Discharged", "P1"].date.isoformat() == "2020-01-31"
    assert (found["OS days", "P1"].number, found["OS days", "P1"].event) == (420, True)
    assert (found["OS days", "P2"].number, found["OS days", "P2"].event) == (911.5, False)


def test_repeated_measures_keep_their_date_and_what_never_changes_belongs_to_the_patient(project, patients):
    load(
        project,
        "patient_id,date,age,CRP\nP1,2020-01-01 08:00,60,5\nP1,2020-01-02,60,7\nP2,2020-01-01,55,1\nP2,,55,\n",
    )
    assert list(
        ClinicalValue.objects.filter(variable__name="CRP")
        .order_by("patient", "measured_at")
        .values_list("measured_at", "number")
    ) == [
        (datetime(2020, 1, 1, 8, tzinfo=UTC), 5),
        (datetime(2020, 1, 2, tzinfo=UTC), 7),
        (datetime(2020, 1, 1, tzinfo=UTC), 1),
    ]
    age = ClinicalValue.objects.filter(variable__name="age").order_by("number")
    assert list(age.values_list("measured_at", "number")) == [(None, 55), (None, 60)]


def test_every_problem_is_named_by_row_and_column_and_nothing_is_written(project, patients):
    text = (
        "PatientID,date,CRP,Seen\n"
        "P1,2020-01-01,5,2020-01-05\n"
        "P9,2020-01-01,5,\n"  # unknown
        "P2,2020-01-01,<0.3,\n"  # no number
        "P2,,4,\n"  # no date of measurement
        "P3,2020-02-30,4,\n"  # no such day
        ",2020-01-01,4,\n"  # nobody
        "P1,2020-01-01,6,\n"  # another value for the same moment
        "P3,2020-01-01,1,soon\n"  # no date
    )
    made = plan(project, text)
    made = plan(
        project,
        text,
        suggested=Choices(
            [
                Column("PatientID", "patient_id"),
                Column("date", "measured_at"),
                Column("CRP", "number"),
                Column("Seen", "date"),
            ]
        ),
    )
    assert problems(made) == [
        ("unknown_patient_id", 3, "PatientID"),
        ("not_a_number", 4, "CRP"),
        ("no_date", 5, "date"),
        ("no_such_day", 6, "date"),
        ("no_identifier", 7, "PatientID"),
        ("two_values", 8, "CRP"),
        ("not_a_date", 9, "Seen"),
    ]
    record = TableImport.objects.create(project=project, purpose="variables", name="t.csv")
    with pytest.raises(CohortError) as refused:
        variables.commit(
            reading.read(text.encode()),
            suggestions.suggest(reading.read(text.encode())),
            project,
            record=record,
            by=None,
        )
    assert refused.value.code == "problems"
    assert not ClinicalVariable.objects.exists()
    assert not ClinicalValue.objects.exists()


def test_ambiguous_dates_and_numbers_are_refused_until_the_user_says(project, patients):
    text = "PatientID;Born;CRP\nP1;03/04/2020;1,234\nP2;05/06/2020;5,678\n"
    columns = [Column("PatientID", "patient_id"), Column("Born", "date"), Column("CRP", "number")]
    made = plan(project, text, suggested=Choices(columns))
    assert problems(made) == [("ambiguous_dates", 2, "Born"), ("ambiguous_decimal", 2, "CRP")]
    told = [
        Column("PatientID", "patient_id"),
        Column("Born", "date", dates="mdy"),
        Column("CRP", "number", decimal=","),
    ]
    made = plan(project, text, suggested=Choices(told))
    assert not made.problems
    contents = {key[0]: content for key, content in made.new.items() if key[1] == patients[0].pk}
    assert contents["Born"].date.isoformat() == "2020-03-04"
    assert contents["CRP"].number == 1.234


def test_rows_about_two_patients_under_one_id_are_named(project):
    Patient.objects.create(project=project, patient_id="P1", patient_birth_date="1960-01-01", patient_sex="F")
    Patient.objects.create(project=project, patient_id="P2")
    made = plan(
        project,
        "PatientID,birth date,sex,x\nP1,1960-01-01,F,1\nP2,1950-05-05,M,2\nP1,1971-02-02,F,3\nP2,1950-05-06,M,4\n",
    )
    assert problems(made) == [("two_persons", 4, "birth date"), ("two_persons", 5, "PatientID")]


def test_one_patient_under_two_ids_is_named(project):
    for pid, name in (("P1", "Doe^Jane"), ("P2", "Doe^Jane"), ("p1", ""), ("X", "")):
        Patient.objects.create(
            project=project, patient_id=pid, patient_name=name, patient_birth_date=(name and "1960-01-01") or None
        )
    text = "PatientID,x\nP1,1\nP2,2\np1,3\nX,4\n"
    assert problems(plan(project, text)) == [("same_person", 3, "PatientID"), ("same_person", 4, "PatientID")]
    assert not plan(project, text, accept=("same_person",)).problems


def test_identifiers_of_a_row_that_point_to_different_patients_are_named(project):
    one = make_ct_series(project, 1, PatientID="P1", AccessionNumber="A1").study
    make_ct_series(project, 1, PatientID="P2", AccessionNumber="A2")
    make_ct_series(project, 1, PatientID="P3", AccessionNumber="A2")
    text = f"PatientID,Accession,StudyInstanceUID,x\nP1,A1,{one.study_instance_uid},1\nP2,A1,,2\n,A2,,3\n,A7,,4\n"
    assert problems(plan(project, text)) == [
        ("two_identities", 3, "PatientID"),
        ("ambiguous_accession_number", 4, "Accession"),
        ("unknown_accession_number", 5, "Accession"),
    ]


def test_values_of_a_study_belong_to_it(project):
    study = make_ct_series(project, 1, AccessionNumber="A1").study
    load(project, "AccessionNumber,x\nA1,3\n")
    assert ClinicalValue.objects.get().study == study


def test_zeros_that_a_spreadsheet_dropped_are_suspected(project):
    Patient.objects.create(project=project, patient_id="00123")
    (problem,) = plan(project, "PatientID,x\n123,1\n").problems
    assert problem.code == "unknown_patient_id"
    assert "“00123”" in problem.cause


def test_importing_again_adds_nothing_and_a_change_has_to_be_asked_for(project, patients):
    text = "PatientID,CRP\nP1,5\nP2,6\n"
    assert load(project, text).as_json()["new"] == 2
    again = load(project, text).as_json()
    assert (again["new"], again["unchanged"]) == (0, 2)
    other = text.replace("6", "7")
    assert problems(plan(project, other)) == [("differs", 3, "CRP")]
    assert load(project, other, replace=True).as_json()["changed"] == 1
    assert ClinicalValue.objects.get(patient=patients[1]).number == 7


def test_unknown_patients_are_left_out_or_made_when_asked(project, patients):
    text = "PatientID,CRP\nP1,5\nNEW,6\n"
    assert load(project, text, unknown="skip").as_json()["skipped"] == 1
    assert not Patient.objects.filter(patient_id="NEW").exists()
    load(project, text, unknown="create")
    assert ClinicalValue.objects.get(patient__patient_id="NEW").number == 6


def test_a_variable_keeps_kind_and_unit(project, patients):
    load(project, "PatientID,CRP [mg/L]\nP1,5\n")
    assert problems(plan(project, "PatientID,CRP [mg/dL]\nP2,5\n")) == [("other_unit", 0, "CRP [mg/dL]")]
    assert problems(plan(project, "PatientID,CRP\nP2,high\n")) == [("other_kind", 0, "CRP")]


def test_source_and_groups_of_copies_are_categories_that_a_split_looks_at(project, patients):
    text = "PatientID,site,copies\nP1,north,d1\nP2,south,d1\n"
    columns = [Column("PatientID", "patient_id"), Column("site", "source"), Column("copies", "group")]
    load(project, text, columns=columns)
    assert set(ClinicalVariable.objects.values_list("name", "kind", "role")) == {
        ("site", "category", "source"), ("copies", "category", "group"),
    }  # fmt: skip
    assert load(project, text, columns=columns).as_json()["unchanged"] == 4


def test_values_are_seen_by_those_who_may_know_them(project, patients):
    load(project, "PatientID,CRP\nP1,5\nP2,6\n")
    study = make_ct_series(project, 1, PatientID="P1").study
    manager, engineer, viewer, reader = (member(project, role) for role in ("manager", "engineer", "viewer", "reader"))
    Embargo.objects.create(user=manager, study=study, reason="campaign:1")
    expected = {manager: {"P2"}, engineer: {"P1", "P2"}, viewer: {"P1", "P2"}, reader: set(), UserFactory(): set()}
    for user, seen in expected.items():
        assert set(ClinicalValue.objects.visible_to(user).values_list("patient__patient_id", flat=True)) == seen
        assert ClinicalVariable.objects.visible_to(user).exists() == bool(seen)


def test_a_table_goes_from_upload_over_preview_to_rows(project, patients, tmp_path):
    user = member(project, Role.ENGINEER)
    record = table_imports.keep(
        b"PatientID,CRP\nP1,5\nP9,6\n", project=project, purpose="variables", name="a/b.csv", by=user
    )
    path = tmp_path / record.file
    assert path.is_file()
    assert record.name == "b.csv"
    assert [problem.code for problem in table_imports.preview(record).problems] == ["unknown_patient_id"]
    with pytest.raises(CohortError):
        table_imports.finish(record, by=user)
    assert path.is_file()
    choices = Choices.of(record.choices)
    choices.unknown = "skip"
    record = table_imports.choose(record, choices, {}, {})
    assert table_imports.finish(record, by=user).counts["new"] == 1
    record.refresh_from_db()
    assert (record.state, record.file, record.result["new"]) == ("done", "", 1)
    assert not path.exists()
    assert ClinicalValue.objects.get().table == record
    with pytest.raises(CohortError) as refused:
        table_imports.finish(record, by=user)
    assert refused.value.code == "gone"


def cohort_table(project, text: str, cohort, purpose="cohort", **choices):
    record = table_imports.keep(text.encode(), project=project, purpose=purpose, name="t.csv", by=None, cohort=cohort)
    made = Choices.of(record.choices)
    for key, value in choices.items():
        setattr(made, key, value)
    return table_imports.choose(record, made, {}, {"reference": "Radiologists", "source": "pathology"})


def test_a_cohort_comes_from_a_table_of_identifiers(project):
    names = [{"PatientID": f"P{n}", "PatientName": f"Name^{n}"} for n in range(4)]
    studies = [make_ct_series(project, 1, AccessionNumber=f"A{n}", **names[n]).study for n in range(4)]
    make_ct_series(project, 1, **names[3])
    old = services.create(project=project, name="Old", by=None)
    services.add_studies(old, studies[:1])
    cohort = services.create(project=project, name="New", by=None)
    record = cohort_table(project, "case,Accession\nC-0001,\n,A1\n,A1\n,A9\nC-0007,\n", cohort)
    assert [(p.code, p.row) for p in table_imports.preview(record).problems] == [
        ("duplicate", 4), ("unknown_accession_number", 5), ("unknown_case", 6),
    ]  # fmt: skip
    with pytest.raises(CohortError):
        table_imports.finish(record, by=None)
    assert not cohort.cases.exists()
    table_imports.finish(cohort_table(project, "case,Accession\nC-0001,\n,A1\n", cohort), by=None)
    assert set(cohort.cases.values_list("study", flat=True)) == {studies[0].pk, studies[1].pk}
    several = cohort_table(project, "PatientID\nP2\nP3\n", cohort)
    assert [(p.code, p.row) for p in table_imports.preview(several).problems] == [("ambiguous_patient_id", 3)]
    table_imports.finish(cohort_table(project, "PatientID\nP2\nP3\n", cohort, all_studies=True), by=None)
    assert cohort.cases.count() == 5


def test_classes_become_a_reference_standard_by_a_table(project):
    cohort = services.create(project=project, name="A", by=None)
    services.add_studies(cohort, [make_ct_series(project, 1, PatientID=f"P{n}").study for n in range(3)])
    bad = cohort_table(project, "case,class\nC-0001,covid\nC-0001,none\nC-0002,\nC-0009,none\n", cohort, "reference")
    assert [(p.code, p.row) for p in table_imports.preview(bad).problems] == [
        ("two_values", 3), ("no_class", 4), ("unknown_case", 5),
    ]  # fmt: skip
    good = cohort_table(project, "case,class\nC-0001,covid\nC-0002,none\n", cohort, "reference")
    table_imports.finish(good, by=None)
    reference = cohort.reference_standards.get()
    assert (reference.name, reference.source, reference.kind) == ("Radiologists", "pathology", "classification")
    assert reference.classes == ["covid", "none"]
    assert dict(reference.case_labels.values_list("case__name", "values")) == {
        "C-0001": {"class": "covid"}, "C-0002": {"class": "none"},
    }  # fmt: skip


def test_the_command_says_what_it_would_do_and_does_it_once(project, patients, tmp_path):
    file = tmp_path / "labs.csv"
    file.write_bytes("PatientID;Hämoglobin [g/dL]\nP1;13,2\nP2;9,9\n".encode("cp1252"))

    def run(*options: str):
        out = io.StringIO()
        call_command("import_variables", str(file), "--project", "ward", "--json", *options, stdout=out)
        return json.loads(out.getvalue())

    assert run("--dry-run")["new"] == 2
    assert not ClinicalValue.objects.exists()
    assert run()["new"] == 2
    assert run()["unchanged"] == 2
    assert ClinicalVariable.objects.get().name == "Hämoglobin"
    file.write_text("PatientID,x\nP7,1\n")
    out = io.StringIO()
    with pytest.raises(CommandError, match="1 problem"):
        call_command("import_variables", str(file), "--project", "ward", stdout=out)
    assert "labs.csv: row 2, PatientID: [unknown_patient_id]" in out.getvalue()


def test_the_command_imports_cases_and_their_classes_and_nothing_where_a_row_is_wrong(project, tmp_path):
    for n in (1, 2):
        make_ct_series(project, 1, PatientID=f"P{n}", PatientName=f"Name^{n}")
    file = tmp_path / "cases.csv"
    file.write_text("Patient,Diagnosis\nP1,covid\nP2,none\n")
    words = [str(file), "--project", "ward", "--cohort", "Admitted", "--json"]

    def run(*options: str, out: io.StringIO | None = None) -> dict:
        out = out or io.StringIO()
        call_command("import_table", *words, *options, stdout=out)
        return json.loads(out.getvalue())

    with pytest.raises(CommandError, match="no cohort"):
        run("--as", "cases")
    assert run("--as", "cases", "--create-cohort", "--dry-run")["new"] == 2
    assert not project.cohorts.exists()
    assert not TableImport.objects.exists()
    assert not list((tmp_path / "tables").iterdir())
    assert run("--as", "cases", "--create-cohort")["new"] == 2
    cohort = project.cohorts.get()
    assert cohort.cases.count() == 2
    again = run("--as", "cases")
    assert (again["new"], again["unchanged"]) == (0, 2)

    assert run("--as", "classes", "--reference", "Readers", "--source", "pathology")["names"] == ["covid", "none"]
    reference = cohort.reference_standards.get()
    assert (reference.name, reference.source, reference.classes) == ("Readers", "pathology", ["covid", "none"])
    file.write_text("Patient,Diagnosis\nP1,covid\nP9,none\n")
    out = io.StringIO()
    with pytest.raises(CommandError, match="nothing was imported"):
        run("--as", "classes", out=out)
    assert [one["code"] for one in json.loads(out.getvalue())["problems"]] == ["unknown_patient_id"]
    assert cohort.reference_standards.count() == 1


@pytest.mark.shared
def test_the_published_blood_tests_arrive_as_they_are_in_the_workbook(project, tmp_path):
    """375 patients, 6,120 rows; the identifier stands in the first row of each patient only."""
    source = SHARED / "data/tabular/time_series_375_prerpocess_en.xlsx"
    out = io.StringIO()
    with pytest.raises(CommandError):
        call_command("import_variables", str(source), "--project", "ward", "--json", stdout=out)
    codes = {problem["code"] for problem in json.loads(out.getvalue())["problems"]}
    assert codes == {"unknown_patient_id"}
    Patient.objects.bulk_create(Patient(project=project, patient_id=str(n)) for n in range(1, 376))
    out = io.StringIO()
    call_command("import_variables", str(source), "--project", "ward", "--json", stdout=out)
    told = json.loads(out.getvalue())
    sheet = openpyxl.load_workbook(source, read_only=True).active
    rows = list(sheet.iter_rows(values_only=True))
    at = {name: n for n, name in enumerate(rows[0])}
    albumin = [row[at["albumin"]] for row in rows[1:] if row[at["albumin"]] is not None]
    stored = ClinicalValue.objects.filter(variable__name="albumin")
    assert stored.count() == len(albumin) == 934
    assert sum(stored.values_list("number", flat=True)) == pytest.approx(sum(albumin))
    assert told["patients"] == 375
    died = ClinicalValue.objects.filter(variable__name="outcome")
    assert {text: died.filter(text=text).count() for text in ("0", "1")} == {"0": 201, "1": 174}
    assert not died.filter(measured_at__isnull=False).exists()
