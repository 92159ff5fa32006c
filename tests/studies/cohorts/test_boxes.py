"""Boxes and points from a table into a reference standard."""

from __future__ import annotations

import io

import pytest
from django.core.management import CommandError, call_command

from studies.cohorts import boxes, services
from studies.cohorts.errors import CohortError
from studies.cohorts.models import ReferenceStandard
from tests.factories import ProjectFactory, make_ct_series

HEAD = "case,label,x,y,z,size_x,size_y,size_z"


def test_boxes_points_and_cases_without_a_lesion():
    found = boxes.read_table([HEAD, "C-0001,Nodule,10,-20,5.5,4,6,8", "C-0001,Nodule,1,2,3,,,", "C-0002,,,,,,,"])
    assert found == {
        "C-0001": [
            {"label": "Nodule", "corners": [[8, -23, 1.5], [12, -17, 9.5]]},
            {"label": "Nodule", "corners": [[1, 2, 3], [1, 2, 3]]},
        ],
        "C-0002": [],
    }


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["case,label,x,y", "C-0001,Nodule,1,2"], "no column z"),
        ([HEAD, "C-0001,Nodule,1,2,3,1,1,1", "C-0001,Nodule,1;5,2,3,1,1,1"], "Row 3: x is '1;5'"),
        ([HEAD, ",Nodule,1,2,3,1,1,1"], "Row 2: it names no case"),
        ([HEAD, "C-0001,Nodule,nan,2,3,1,1,1"], "Row 2: x"),
        ([HEAD, "C-0001,Nodule,1,2,3,1,-4,1"], "Row 2: size_y is below 0"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_row(rows, words):
    with pytest.raises(CohortError, match=words):
        boxes.read_table(rows)


@pytest.mark.django_db
def test_the_command_makes_a_reference_standard_or_nothing(tmp_path):
    project = ProjectFactory(slug="nodules")
    cohort = services.create(project=project, name="Chest", by=None)
    series = make_ct_series(project)
    name = services.add_studies(cohort, [series.study]).cases[0].name
    table = tmp_path / "boxes.csv"
    table.write_text(f"{HEAD}\n{name},Nodule,1,2,3,4,4,4\n")
    out = io.StringIO()
    call_command("import_boxes", table, project="nodules", cohort="Chest", stdout=out)
    assert "1 lesions in 1 cases" in out.getvalue()
    reference = ReferenceStandard.objects.get()
    assert (reference.kind, [label["name"] for label in reference.labels]) == ("boxes", ["Nodule"])
    table.write_text(f"{HEAD}\n{name},Nodule,1,2,3,4,4,4\nC-9999,Nodule,1,2,3,4,4,4\n")
    with pytest.raises(CommandError, match="no case 'C-9999'"):
        call_command("import_boxes", table, project="nodules", cohort="Chest")
    assert ReferenceStandard.objects.count() == 1
