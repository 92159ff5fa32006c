"""Cohorts, patient-level splits and reference standards.

A case is a study in a cohort. The split hangs on `CohortPatient`, so one patient on two sides of a split cannot be
written down.
"""

from __future__ import annotations

from django.conf import settings
from django.db import models

from portal.accounts.models import Project, User
from studies.models import Patient, Series, Study


class Split(models.TextChoices):
    NONE = "", "Not split"
    TRAIN = "train", "Training"
    VALIDATION = "validation", "Validation"
    TEST = "test", "Test"


class CohortQuerySet(models.QuerySet["Cohort"]):
    def visible_to(self, user: User) -> CohortQuerySet:
        return self.filter(project__in=Project.objects.visible_to(user))


class Cohort(models.Model):
    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="cohorts")
    name = models.CharField(max_length=80)
    description = models.TextField(blank=True)
    frozen_at = models.DateTimeField(null=True, blank=True)
    frozen_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    seed = models.PositiveIntegerField(null=True, blank=True, help_text="Of the split")
    digest = models.CharField(max_length=64, blank=True, help_text="SHA-256 over members and splits when frozen")
    # How it was split: {"kind": "shares", "fractions": …} or {"kind": "folds", "folds": 5} or {"kind": "sources",
    # "sources": [name of fold 0, …]}; "classes" and "source" say by what it was stratified, "groups" how many units
    # of several patients were kept together.
    method = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")

    objects = CohortQuerySet.as_manager()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "name"], name="cohort_name_unique_in_project")]

    def __str__(self) -> str:
        return self.name

    @property
    def frozen(self) -> bool:
        return self.frozen_at is not None


class CohortPatient(models.Model):
    cohort = models.ForeignKey(Cohort, on_delete=models.CASCADE, related_name="patients")
    patient = models.ForeignKey(Patient, on_delete=models.PROTECT, related_name="cohort_places")
    split = models.CharField(max_length=10, choices=Split.choices, default=Split.NONE, blank=True)
    fold = models.PositiveSmallIntegerField(null=True, blank=True)
    # Patients with the same number have near-duplicate images and stay on one side; given when the cohort is frozen.
    group = models.PositiveIntegerField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["cohort", "patient"], name="patient_once_in_cohort"),
            models.CheckConstraint(condition=models.Q(split__in=Split.values), name="cohort_split_known"),
        ]


class Case(models.Model):
    """A study in a cohort. `image` is the series that models and readers work on."""

    cohort = models.ForeignKey(Cohort, on_delete=models.CASCADE, related_name="cases")
    cohort_patient = models.ForeignKey(CohortPatient, on_delete=models.CASCADE, related_name="cases")
    study = models.ForeignKey(Study, on_delete=models.PROTECT, related_name="cases")
    image = models.ForeignKey(Series, on_delete=models.PROTECT, related_name="+")
    name = models.CharField(max_length=64, help_text="Pseudonym shown to readers; carries no identity")
    # What the study held when it became a case (`studies.cohorts.changes`); null where that was not noted.
    as_added = models.JSONField(null=True, blank=True)

    class Meta:
        ordering = ["name", "id"]
        constraints = [
            models.UniqueConstraint(fields=["cohort", "study"], name="study_once_in_cohort"),
            models.UniqueConstraint(fields=["cohort", "name"], name="case_name_unique_in_cohort"),
        ]

    def __str__(self) -> str:
        return self.name


class ReferenceStandardQuerySet(models.QuerySet["ReferenceStandard"]):
    def visible_to(self, user: User) -> ReferenceStandardQuerySet:
        return self.filter(cohort__in=Cohort.objects.visible_to(user))


class ReferenceStandard(models.Model):
    """What is held to be true for the cases of a cohort. Versioned; never changed, only followed by a next one."""

    class Source(models.TextChoices):
        IMPORT = "import", "Imported"
        CONSENSUS = "consensus", "Campaign consensus"
        PATHOLOGY = "pathology", "Pathology"
        FOLLOW_UP = "follow_up", "Follow-up"
        PHANTOM = "phantom", "Known by construction (synthetic)"

    class Kind(models.TextChoices):
        SEGMENTATION = "segmentation", "Segmentation"
        CLASSIFICATION = "classification", "Classes"
        BOXES = "boxes", "Boxes and points"
        ANSWERS = "answers", "Answers"

    cohort = models.ForeignKey(Cohort, on_delete=models.PROTECT, related_name="reference_standards")
    name = models.CharField(max_length=80)
    version = models.PositiveIntegerField(default=1)
    source = models.CharField(max_length=10, choices=Source.choices)
    kind = models.CharField(max_length=14, choices=Kind.choices, default=Kind.SEGMENTATION)
    # Of a classification, in the order in which models count them; each case has one as values["class"]
    classes = models.JSONField(default=list, blank=True)
    # [{"number": 1, "name": "Anterior hippocampus"}, …], numbers as in the label maps of the cases
    labels = models.JSONField(default=list, blank=True)
    detail = models.JSONField(default=dict, blank=True, help_text="Where it came from: files, campaign, method")
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")

    objects = ReferenceStandardQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["cohort", "name", "version"], name="reference_version_unique"),
            models.CheckConstraint(
                condition=models.Q(kind__in=["segmentation", "classification", "boxes", "answers"]),
                name="reference_kind_known",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} v{self.version}"


class ReferenceLabel(models.Model):
    reference = models.ForeignKey(ReferenceStandard, on_delete=models.CASCADE, related_name="case_labels")
    case = models.ForeignKey(Case, on_delete=models.PROTECT, related_name="reference_labels")
    segmentation = models.ForeignKey(Series, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    # {"class": "covid"}, answers, or {"boxes": [{"label": "Nodule", "corners": [[x, y, z], [x, y, z]]}, …]}: two
    # opposite corners in LPS mm of a box along the axes of the image, equal ones for a point; none: there is no lesion
    values = models.JSONField(default=dict, blank=True, help_text='Answers, classes, boxes, e.g. {"class": "covid"}')

    class Meta:
        constraints = [models.UniqueConstraint(fields=["reference", "case"], name="one_label_per_case")]


from studies.cohorts.clinical import ClinicalValue, ClinicalVariable, TableImport  # noqa: E402

__all__ = [
    "Case",
    "ClinicalValue",
    "ClinicalVariable",
    "Cohort",
    "CohortPatient",
    "ReferenceLabel",
    "ReferenceStandard",
    "Split",
    "TableImport",
]
