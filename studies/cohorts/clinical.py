"""What is known of patients beside their images: laboratory values, categories, dates, survival times; and the tables
that they came from."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Exists, OuterRef, Q

from portal.accounts.models import Project, Role, User
from studies.models import Embargo, Patient, Study


def _knowing(user: User) -> models.QuerySet[Project]:
    """Projects in which a user may know the patients' clinical data: not as a reader, who reads without them."""
    projects = Project.objects.visible_to(user)
    if user.is_superuser or not user.is_authenticated:
        return projects
    roles = [Role.MANAGER, Role.ENGINEER, Role.VIEWER]
    return projects.filter(pk__in=user.memberships.filter(role__in=roles).values("project"))


class ClinicalVariableQuerySet(models.QuerySet["ClinicalVariable"]):
    def visible_to(self, user: User) -> ClinicalVariableQuerySet:
        return self.filter(project__in=_knowing(user))


class ClinicalVariable(models.Model):
    """What is measured or known, once in a project."""

    class Kind(models.TextChoices):
        NUMBER = "number", "Number"
        CATEGORY = "category", "Category"
        DATE = "date", "Date"
        SURVIVAL = "survival", "Survival time"

    class Role(models.TextChoices):
        NONE = "", "None"
        SOURCE = "source", "Where the images come from"
        GROUP = "group", "Images that are copies of each other"

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="clinical_variables")
    name = models.CharField(max_length=120)
    kind = models.CharField(max_length=8, choices=Kind.choices)
    unit = models.CharField(max_length=32, blank=True, help_text="UCUM where there is one, for example mg/L")
    role = models.CharField(max_length=6, choices=Role.choices, default=Role.NONE, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")

    objects = ClinicalVariableQuerySet.as_manager()

    class Meta:
        ordering = ["name", "id"]
        constraints = [
            models.UniqueConstraint(fields=["project", "name"], name="clinical_variable_unique_in_project"),
            models.CheckConstraint(
                condition=Q(kind__in=["number", "category", "date", "survival"]), name="clinical_kind_known"
            ),
        ]

    def __str__(self) -> str:
        return self.name


class TableImportQuerySet(models.QuerySet["TableImport"]):
    def visible_to(self, user: User) -> TableImportQuerySet:
        """Tables hold identity: only those who curate a project see its tables."""
        projects = Project.objects.visible_to(user)
        if user.is_authenticated and not user.is_superuser:
            roles = [Role.MANAGER, Role.ENGINEER]
            projects = projects.filter(pk__in=user.memberships.filter(role__in=roles).values("project"))
        return self.filter(project__in=projects)


class TableImport(models.Model):
    """A CSV or XLSX file on its way to rows, and afterwards the record of where these came from."""

    class Purpose(models.TextChoices):
        VARIABLES = "variables", "Clinical variables"
        COHORT = "cohort", "Cases of a cohort"
        REFERENCE = "reference", "Classes as reference standard"

    class State(models.TextChoices):
        OPEN = "open", "Not imported yet"
        DONE = "done", "Imported"
        DISCARDED = "discarded", "Discarded"

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="table_imports")
    purpose = models.CharField(max_length=9, choices=Purpose.choices)
    cohort = models.ForeignKey("cohorts.Cohort", null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    name = models.CharField(max_length=255, help_text="File name as given, without folders")
    file = models.CharField(max_length=255, blank=True, help_text="Path below MEDIA_ROOT until it is imported")
    sha256 = models.CharField(max_length=64)
    choices = models.JSONField(default=dict, blank=True, help_text="What each column is, and how values are written")
    state = models.CharField(max_length=9, choices=State.choices, default=State.OPEN)
    result = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    finished_at = models.DateTimeField(null=True, blank=True)

    objects = TableImportQuerySet.as_manager()

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(state__in=["open", "done", "discarded"]), name="table_state_known"),
            models.CheckConstraint(
                condition=Q(purpose__in=["variables", "cohort", "reference"]), name="table_purpose_known"
            ),
        ]

    def __str__(self) -> str:
        return f"table {self.pk}"  # the file's name may name a patient


class ClinicalValueQuerySet(models.QuerySet["ClinicalValue"]):
    def visible_to(self, user: User) -> ClinicalValueQuerySet:
        """Values of projects whose clinical data the user may know; none of a patient whom the user reads blinded."""
        values = self.filter(variable__project__in=_knowing(user))
        if user.is_superuser or not user.is_authenticated:
            return values
        return values.filter(~Exists(Embargo.objects.filter(user=user, study__patient=OuterRef("patient"))))


class ClinicalValue(models.Model):
    """One value of a patient, or of one study of theirs.

    A number fills `number` (in the variable's unit), a category `text`, a date `date`; a survival time is `number` with
    `event` (true: it happened then; false: followed so long without).
    """

    variable = models.ForeignKey(ClinicalVariable, on_delete=models.CASCADE, related_name="values")
    patient = models.ForeignKey(Patient, on_delete=models.CASCADE, related_name="clinical_values")
    study = models.ForeignKey(Study, null=True, blank=True, on_delete=models.CASCADE, related_name="clinical_values")
    measured_at = models.DateTimeField(null=True, blank=True, help_text="As the clock showed; midnight: the day only")
    number = models.FloatField(null=True, blank=True)
    text = models.CharField(max_length=200, blank=True)
    date = models.DateField(null=True, blank=True)
    event = models.BooleanField(null=True, blank=True)
    table = models.ForeignKey(TableImport, null=True, blank=True, on_delete=models.SET_NULL, related_name="values")

    objects = ClinicalValueQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["variable", "patient", "study", "measured_at"],
                name="clinical_value_once",
                nulls_distinct=False,
            ),
            models.CheckConstraint(
                condition=(
                    Q(number__isnull=False, text="", date__isnull=True)
                    | (Q(number__isnull=True, date__isnull=True, event__isnull=True) & ~Q(text=""))
                    | Q(number__isnull=True, text="", date__isnull=False, event__isnull=True)
                ),
                name="clinical_value_one_kind",
            ),
        ]

    def __str__(self) -> str:
        return f"value {self.pk}"

    @property
    def shown(self) -> str:
        """The value as text, a survival time with what happened."""
        if self.number is not None:
            word = f"{self.number:g}"
            return word if self.event is None else f"{word} ({'event' if self.event else 'censored'})"
        return self.text or (self.date.isoformat() if self.date else "")
