"""What a rule asks of a series."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from inference.routing.conditions import Candidate, RuleError, parse

CHEST = Candidate(
    modality="CT",
    body_part_examined="CHEST",
    sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
    import_source="dimse",
    sending_ae_title="CT_ROOM_2",
    study_description="CT Thorax mit KM",
    series_description="Thorax 1.0 Br40 (axial)",
    manufacturer="SIEMENS",
    manufacturer_model_name="SOMATOM Force",
    station_name="CT-2",
    number_of_instances=320,
)


@pytest.mark.parametrize(
    ("conditions", "series", "matches"),
    [
        ({}, CHEST, True),
        ({"modality": ["ct", "MR"]}, CHEST, True),
        ({"modality": ["MR"]}, CHEST, False),
        ({"body_part_examined": ["chest"]}, CHEST, True),
        ({"body_part_examined": ["CHEST"]}, replace(CHEST, body_part_examined=""), False),
        ({"sop_class_uid": ["1.2.840.10008.5.1.4.1.1.2"]}, CHEST, True),
        ({"sop_class_uid": ["1.2.840.10008.5.1.4.1.1.2.1"]}, CHEST, False),
        ({"import_source": ["dimse", "stow"]}, CHEST, True),
        ({"sending_ae_title": ["CT_ROOM_1"]}, CHEST, False),
        ({"minimum_instances": 320}, CHEST, True),
        ({"minimum_instances": 321}, CHEST, False),
        ({"study_description": {"how": "contains", "text": "thorax"}}, CHEST, True),
        ({"study_description": {"how": "contains", "text": "th?rax"}}, CHEST, False),
        ({"series_description": {"how": "wildcard", "text": "thorax*(axial)"}}, CHEST, True),
        ({"series_description": {"how": "wildcard", "text": "thorax"}}, CHEST, False),
        ({"series_description": {"how": "wildcard", "text": "thorax ?.? *"}}, CHEST, True),
        ({"series_description": {"how": "regex", "text": r"br(3|4)\d"}}, CHEST, True),
        ({"series_description": {"how": "regex", "text": "^axial"}}, CHEST, False),
        ({"study_description": {"how": "regex", "text": "THÖRAX"}}, replace(CHEST, study_description="Thörax"), True),
        ({"manufacturer": {"how": "wildcard", "text": "siemens*"}}, CHEST, True),
        ({"manufacturer_model_name": {"how": "contains", "text": "force"}}, CHEST, True),
        ({"station_name": {"how": "wildcard", "text": "CT-[2]"}}, CHEST, False),
        ({"modality": ["CT"], "station_name": {"how": "contains", "text": "CT-3"}}, CHEST, False),
    ],
)  # fmt: skip
def test_a_series_meets_all_conditions_or_it_is_said_which_not(conditions, series, matches):
    mismatch = parse(conditions).mismatch(series)
    assert (mismatch is None) is matches


def test_the_first_condition_that_fails_is_named_with_what_was_found():
    asked = parse({"modality": ["MR"], "minimum_instances": 500})
    mismatch = asked.mismatch(CHEST)
    assert mismatch is not None
    assert mismatch.words == "Modality is “CT”"
    assert asked.mismatch(replace(CHEST, modality="")).words == "Modality is empty"


def test_an_expression_that_would_take_other_engines_years_takes_no_time():
    asked = parse({"series_description": {"how": "regex", "text": "^(a|a)*$|^(a+)+$|(x+x+)+y"}})
    started = time.process_time()
    assert asked.mismatch(replace(CHEST, series_description="a" * 63 + "!")) is not None
    assert asked.mismatch(replace(CHEST, series_description="x" * 64)) is not None
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        ({"colour": ["red"]}, "no condition colour"),
        ({"modality": "CT"}, "no list"),
        ({"modality": [7]}, "no list"),
        ({"sop_class_uid": ["CT Image Storage"]}, "no UID"),
        ({"minimum_instances": -3}, "number"),
        ({"minimum_instances": True}, "number"),
        ({"study_description": "chest"}, "“how” and “text”"),
        ({"study_description": {"how": "sounds like", "text": "chest"}}, "“how” and “text”"),
        ({"study_description": {"how": "regex", "text": "(chest"}}, "cannot be used: missing"),
        ({"study_description": {"how": "regex", "text": "(?=chest)"}}, "cannot be used"),
        ({"study_description": {"how": "regex", "text": r"(a)\1"}}, "cannot be used"),
        ({"study_description": {"how": "contains", "text": "x" * 201}}, "longer than 200"),
    ],
)
def test_what_cannot_be_a_condition_is_refused_in_words(given, cause):
    with pytest.raises(RuleError) as error:
        parse(given)
    assert cause in error.value.cause
    assert error.value.next_step


def test_what_is_stored_reads_back_the_same_and_empty_conditions_are_left_out():
    given = {
        "modality": [" ct ", "CT", ""],
        "body_part_examined": [],
        "study_description": {"how": "contains", "text": "  "},
        "series_description": {"how": "regex", "text": " axial "},
        "minimum_instances": 1,
    }
    stored = parse(given).as_dict()
    assert stored == {"modality": ["CT"], "series_description": {"how": "regex", "text": " axial "}}
    assert parse(stored).as_dict() == stored
    assert list(parse(stored).words()) == [("Modality", "CT"), ("SeriesDescription", "matches “ axial ”")]
