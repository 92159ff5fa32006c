"""The keys of projects, and the way back from a pseudonym: none is stored, it is found by trying every patient."""

from __future__ import annotations

from django.conf import settings
from django.db import transaction

from portal.accounts.audit import trail
from portal.accounts.models import Project, User
from studies.deid.errors import DeidError
from studies.deid.pseudonyms import Keyed
from studies.models import Patient


def keyed(project: Project) -> Keyed:
    """The project's pseudonyms: the same patient has others in another project."""
    return Keyed.derived(settings.DEID_KEY, f"project {project.pk}")


@transaction.atomic
def reidentify(project: Project, value: str, *, by: User) -> Patient:
    """Who is behind a pseudonym; the question is recorded. Raises `DeidError` (`not_allowed`, `unknown`)."""
    if not by.is_superuser:
        raise DeidError("not_allowed", "Only an administrator may go back from a pseudonym to a patient.")
    keys, wanted = keyed(project), value.strip().upper()
    patients = project.patients.values_list("pk", "patient_id", "issuer_of_patient_id")
    found = next((pk for pk, number, issuer in patients.iterator() if keys.patient(number, issuer) == wanted), None)
    if found is None:
        raise DeidError("unknown", "No patient of the project has this pseudonym.", "Check its letters.")
    patient = Patient.objects.get(pk=found)
    trail.record("pseudonym.reveal", patient, patient=patient.pk, user=by)
    return patient
