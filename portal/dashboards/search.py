"""Search over everything that the user may see, a few hits of each kind."""

from __future__ import annotations

from dataclasses import dataclass

from django.db.models import Q
from django.urls import reverse

from inference.jobs.models import Job
from inference.registry.models import Model
from portal.accounts.models import User
from portal.annotation.models import Campaign
from studies.cohorts.models import Cohort
from studies.models import Patient, Study

LIMIT = 5
SHORTEST = 2  # letters


@dataclass(frozen=True)
class Hit:
    title: str
    detail: str
    url: str
    icon: str


def find(user: User, text: str) -> dict[str, list[Hit]]:
    """Hits by kind; empty below two letters. Case does not matter."""
    text = text.strip()
    if len(text) < SHORTEST:
        return {}
    patients = Patient.objects.visible_to(user).filter(Q(patient_name__icontains=text) | Q(patient_id__icontains=text))
    studies = (
        Study.objects.visible_to(user)
        .filter(Q(study_description__icontains=text) | Q(accession_number__icontains=text))
        .select_related("patient")
        .order_by("-study_date", "-id")
    )
    cohorts = Cohort.objects.visible_to(user).filter(name__icontains=text).select_related("project")
    campaigns = Campaign.objects.visible_to(user).filter(name__icontains=text).select_related("project")
    models = Model.objects.visible_to(user).filter(name__icontains=text).select_related("project")
    jobs = Job.objects.visible_to(user).filter(title__icontains=text).select_related("project")
    found = {
        "Patients": [
            Hit(p.patient_name or p.patient_id, p.patient_id, reverse("patient", args=[p.pk]), "user")
            for p in patients.order_by("patient_name", "id")[:LIMIT]
        ],
        "Studies": [
            Hit(s.study_description or "Study", str(s.study_date or ""), reverse("study", args=[s.pk]), "studies")
            for s in studies[:LIMIT]
        ],
        "Cohorts": [Hit(c.name, c.project.name, reverse("cohort", args=[c.pk]), "cohort") for c in cohorts[:LIMIT]],
        "Campaigns": [
            Hit(c.name, c.project.name, reverse("campaign", args=[c.pk]), "campaign") for c in campaigns[:LIMIT]
        ],
        "Models": [Hit(m.name, m.project.name, reverse("model", args=[m.pk]), "model") for m in models[:LIMIT]],
        "Jobs": [Hit(j.title, j.get_state_display(), reverse("job", args=[j.pk]), "job") for j in jobs[:LIMIT]],
    }
    return {kind: hits for kind, hits in found.items() if hits}
