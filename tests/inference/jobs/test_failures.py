"""Exceptions as words."""

from __future__ import annotations

import errno

import pytest
import torch
from django.db import IntegrityError, transaction

from inference.errors import TrainingError
from inference.jobs.failures import explain
from portal.accounts.models import Project
from studies.models import Patient

pytestmark = pytest.mark.django_db


def caught(error: BaseException, project: Project):
    try:
        raise error
    except BaseException as raised:
        return explain(raised, project_id=project.pk)


def test_the_house_s_own_errors_keep_their_words(project):
    failure = caught(TrainingError("No foreground.", "Choose another reference."), project)
    assert (failure.cause, failure.next_step, failure.traceback) == ("No foreground.", "Choose another reference.", "")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "The machine ran out of memory."),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "The machine ran out of memory."),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"),
            "The machine ran out of memory.",
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"), "The graphics card ran out of memory."),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "The graphics card ran out of memory."),
        (
            torch.OutOfMemoryError("HIP out of memory. Tried to"),
            "The graphics card ran out of memory.",
        ),
        (OSError(errno.EFBIG, "File too large"), "The disk is full."),
        (OSError(errno.ENOSPC, "No space left on device"), "The disk is full."),
        (Project.DoesNotExist("Project matching query does not exist."), "Something that the job needs was deleted"),
        (KeyError("weights"), "An error that was not foreseen stopped the job: KeyError: 'weights'"),
    ],
)
def test_words(error, words, project):
    failure = caught(error, project)
    assert failure.cause.startswith(words)
    assert failure.next_step
    assert failure.error_class == type(error).__name__


def test_a_database_error_does_not_repeat_the_row(project):
    short = "A" + "7"  # too short to be found by looking for the project's patients
    Patient.objects.create(project=project, patient_id=short)
    with pytest.raises(IntegrityError) as error, transaction.atomic():
        Patient.objects.create(project=project, patient_id=short)
    assert "A7" in str(error.value)  # PostgreSQL's DETAIL line
    failure = explain(error.value, project_id=project.pk)
    assert "patient_unique_in_project" in failure.cause
    for text in (failure.cause, failure.traceback):
        assert "A7" not in text


def test_identity_of_other_projects_is_not_looked_up_and_short_ids_stay(project):
    Patient.objects.create(project=project, patient_id="1", patient_name="")
    failure = caught(ValueError("volume 1 of 12 is empty"), project)
    assert "volume 1 of 12 is empty" in failure.cause
