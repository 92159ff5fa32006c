"""The imaging archive: patients, studies, series, instances, and what was refused.

Field names are DICOM keywords in snake case (`StudyInstanceUID` ↔ `study_instance_uid`).
Rows are written by `studies.ingest` only.
"""

from __future__ import annotations

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.db import models

from portal.accounts.models import Project, Role, User


class PatientQuerySet(models.QuerySet["Patient"]):
    def visible_to(self, user: User) -> PatientQuerySet:
        return self.filter(project__in=Project.objects.visible_to(user))


class Patient(models.Model):
    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="patients")
    patient_id = models.CharField(max_length=64)
    issuer_of_patient_id = models.CharField(max_length=64, blank=True)
    patient_name = models.CharField(max_length=324, blank=True)
    patient_birth_date = models.DateField(null=True, blank=True)
    patient_sex = models.CharField(max_length=16, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = PatientQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["project", "patient_id", "issuer_of_patient_id"], name="patient_unique_in_project"
            )
        ]
        indexes = [
            GinIndex(name="patient_name_trgm", fields=["patient_name"], opclasses=["gin_trgm_ops"]),
            GinIndex(name="patient_id_trgm", fields=["patient_id"], opclasses=["gin_trgm_ops"]),
        ]

    def __str__(self) -> str:
        return f"patient {self.pk}"  # never the name: this ends up in logs


class StudyQuerySet(models.QuerySet["Study"]):
    def visible_to(self, user: User) -> StudyQuerySet:
        return self.filter(project__in=Project.objects.visible_to(user))


_NEWEST_FIRST = (models.F("study_date").desc(nulls_last=True), models.F("study_time").desc(), models.F("id").desc())


class Study(models.Model):
    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="studies")
    patient = models.ForeignKey(Patient, on_delete=models.PROTECT, related_name="studies")
    study_instance_uid = models.CharField(max_length=64)
    study_date = models.DateField(null=True, blank=True)
    study_time = models.CharField(max_length=16, blank=True)
    study_id = models.CharField(max_length=16, blank=True)
    study_description = models.CharField(max_length=64, blank=True)
    accession_number = models.CharField(max_length=16, blank=True)
    referring_physician_name = models.CharField(max_length=324, blank=True)
    # Denormalised from the series, kept by studies.ingest.
    modalities_in_study = ArrayField(models.CharField(max_length=16), default=list, blank=True)
    body_parts_examined = ArrayField(models.CharField(max_length=16), default=list, blank=True)
    number_of_series = models.PositiveIntegerField(default=0)
    number_of_instances = models.PositiveIntegerField(default=0)
    synthetic = models.BooleanField(default=False, help_text="Generated, not acquired from a person")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = StudyQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "studies"
        constraints = [
            models.UniqueConstraint(fields=["project", "study_instance_uid"], name="study_unique_in_project")
        ]
        indexes = [
            models.Index(fields=["study_instance_uid"]),
            # The order of worklists, of all projects and of one; undated studies come last.
            models.Index(*_NEWEST_FIRST, name="study_newest_first"),
            models.Index(models.F("project"), *_NEWEST_FIRST, name="study_newest_of_project"),
            GinIndex(name="study_description_trgm", fields=["study_description"], opclasses=["gin_trgm_ops"]),
            GinIndex(name="accession_number_trgm", fields=["accession_number"], opclasses=["gin_trgm_ops"]),
            GinIndex(name="study_modalities", fields=["modalities_in_study"]),
        ]

    def __str__(self) -> str:
        return f"study {self.pk}"


class SeriesQuerySet(models.QuerySet["Series"]):
    def visible_to(self, user: User) -> SeriesQuerySet:
        """What `user` may see outside a reading task.

        Readers see images, model results and what they made themselves, never another reader's work or a
        reference standard. While a study is embargoed for a user (a blinded reading is open), only images and
        the user's own objects remain, whatever the role: a superuser who reads is blinded as well. Unfinished
        drawings exist in their reading task only, for nobody else.
        """
        series = self.filter(study__in=Study.objects.visible_to(user)).exclude(origin=Origin.DRAFT)
        if not user.is_authenticated:
            return series
        acquired, own = models.Q(origin=Origin.ACQUIRED), models.Q(created_by=user)
        embargoed = models.Exists(Embargo.objects.filter(user=user, study=models.OuterRef("study")))
        if user.is_superuser:
            return series.filter(acquired | own | ~embargoed)
        sees_all = models.Q(
            study__project__in=Project.objects.filter(
                memberships__user=user, memberships__role__in=[Role.MANAGER, Role.ENGINEER]
            )
        )
        return series.filter(acquired | own | ((sees_all | models.Q(origin=Origin.MODEL)) & ~embargoed))


class Origin(models.TextChoices):
    ACQUIRED = "acquired", "Images"
    MODEL = "model", "Model result"
    ANNOTATION = "annotation", "Reader's annotation"
    DRAFT = "draft", "Reader's unfinished drawing"
    REFERENCE = "reference", "Reference standard"


class Series(models.Model):
    study = models.ForeignKey(Study, on_delete=models.CASCADE, related_name="series")
    series_instance_uid = models.CharField(max_length=64)
    modality = models.CharField(max_length=16, blank=True)
    series_number = models.IntegerField(null=True, blank=True)
    series_description = models.CharField(max_length=64, blank=True)
    series_date = models.DateField(null=True, blank=True)
    series_time = models.CharField(max_length=16, blank=True)
    body_part_examined = models.CharField(max_length=16, blank=True)
    laterality = models.CharField(max_length=16, blank=True)
    manufacturer = models.CharField(max_length=64, blank=True)
    manufacturer_model_name = models.CharField(max_length=64, blank=True)
    station_name = models.CharField(max_length=16, blank=True)
    frame_of_reference_uid = models.CharField(max_length=64, blank=True)
    number_of_instances = models.PositiveIntegerField(default=0)
    # How its first object came in: an `ImportBatch.Source`, and the AE title of the system that sent it by DIMSE. Empty
    # for what was stored before this was written down.
    import_source = models.CharField(max_length=8, blank=True)
    sending_ae_title = models.CharField(max_length=16, blank=True)
    origin = models.CharField(max_length=10, choices=Origin.choices, default=Origin.ACQUIRED)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    provenance = models.CharField(max_length=200, blank=True, help_text="Model and version, or campaign")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = SeriesQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "series"
        constraints = [
            models.UniqueConstraint(fields=["study", "series_instance_uid"], name="series_unique_in_study"),
            models.CheckConstraint(condition=models.Q(origin__in=Origin.values), name="series_origin_known"),
        ]
        indexes = [models.Index(fields=["series_instance_uid"])]

    def __str__(self) -> str:
        return f"series {self.pk}"


class InstanceQuerySet(models.QuerySet["Instance"]):
    def visible_to(self, user: User) -> InstanceQuerySet:
        return self.filter(series__in=Series.objects.visible_to(user))


class Instance(models.Model):
    """One SOP instance: one Part 10 file below MEDIA_ROOT, with what serving it needs."""

    series = models.ForeignKey(Series, on_delete=models.CASCADE, related_name="instances")
    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="+")
    sop_instance_uid = models.CharField(max_length=64)
    sop_class_uid = models.CharField(max_length=64)
    instance_number = models.IntegerField(null=True, blank=True)
    transfer_syntax_uid = models.CharField(max_length=64)
    rows = models.PositiveIntegerField(null=True, blank=True)
    columns = models.PositiveIntegerField(null=True, blank=True)
    number_of_frames = models.PositiveIntegerField(default=0, help_text="0: no pixel data")
    file = models.CharField(max_length=255, help_text="Path below MEDIA_ROOT; carries no identity")
    file_size = models.PositiveBigIntegerField()
    sha256 = models.CharField(max_length=64)
    # [[offset, length], …] per frame in the file; a pair [offset, length] where all frames are equal and adjacent.
    frame_table = models.JSONField(default=list, blank=True)
    # The header as DICOM JSON text (PS3.18 F.2), bulk data left out; text, so that serving never parses it.
    header = models.TextField()
    created_at = models.DateTimeField(auto_now_add=True)

    objects = InstanceQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "sop_instance_uid"], name="instance_unique_in_project")
        ]
        indexes = [models.Index(fields=["sop_instance_uid"])]

    def __str__(self) -> str:
        return f"instance {self.pk}"


class Embargo(models.Model):
    """While it stands, `user` sees only images and own objects of `study` (see SeriesQuerySet.visible_to)."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    study = models.ForeignKey(Study, on_delete=models.CASCADE, related_name="embargoes")
    reason = models.CharField(max_length=120, help_text="What asked for it, for example campaign:7")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "study", "reason"], name="embargo_once")]


class ImportBatchQuerySet(models.QuerySet["ImportBatch"]):
    def visible_to(self, user: User) -> ImportBatchQuerySet:
        return self.filter(project__in=Project.objects.visible_to(user))

    def from_outside(self) -> ImportBatchQuerySet:
        """What somebody brought in, without the objects that readers and models make here."""
        return self.exclude(source__in=(ImportBatch.Source.READING, ImportBatch.Source.MODEL))


class ImportBatch(models.Model):
    """One upload, command or STOW conversation, so that its outcome can be shown later."""

    class Source(models.TextChoices):
        UPLOAD = "upload", "Upload"
        COMMAND = "command", "Command"
        STOW = "stow", "STOW-RS"
        DIMSE = "dimse", "DICOM C-STORE"
        DEMO = "demo", "Demonstration"
        REPAIR = "repair", "Repair"
        READING = "reading", "Reading"
        MODEL = "model", "Model run"

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="import_batches")
    source = models.CharField(max_length=8, choices=Source.choices)
    # `default` for rows that are not saved yet, `db_default` for `studies.ingest.prepared`
    sending_ae_title = models.CharField(
        max_length=16, blank=True, default="", db_default="", help_text="Who sent it by DIMSE"
    )
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    stored = models.PositiveIntegerField(default=0)
    duplicate = models.PositiveIntegerField(default=0)
    refused = models.PositiveIntegerField(default=0)

    objects = ImportBatchQuerySet.as_manager()


class RefusalQuerySet(models.QuerySet["Refusal"]):
    def visible_to(self, user: User) -> RefusalQuerySet:
        return self.filter(batch__in=ImportBatch.objects.visible_to(user))

    def open(self) -> RefusalQuerySet:
        return self.filter(state=Refusal.State.OPEN)

    def of_study(self, study: models.OuterRef | str, project: models.OuterRef | int) -> RefusalQuerySet:
        """Files that were read as belonging to a study (by StudyInstanceUID) of a project."""
        return self.filter(study_instance_uid=study, batch__project=project)


class Refusal(models.Model):
    """A file that could not be stored, with the reason and, where its bytes are worth keeping, the file itself.

    Rows stay when they are settled, so that the fate of every file can be told.
    """

    class State(models.TextChoices):
        OPEN = "open", "Open"
        STORED = "stored", "Stored later"
        KEPT = "kept", "The stored one counts"
        DISCARDED = "discarded", "Discarded"

    batch = models.ForeignKey(ImportBatch, on_delete=models.CASCADE, related_name="refusals")
    name = models.CharField(max_length=255, help_text="File name as given, without folders")
    code = models.CharField(max_length=40)
    reason = models.TextField()
    file = models.CharField(max_length=255, blank=True, help_text="Path below MEDIA_ROOT/quarantine")
    size = models.PositiveBigIntegerField(default=0, help_text="Bytes that were kept")
    # "" where the file could not be read so far
    sop_instance_uid = models.CharField(max_length=64, blank=True)
    study_instance_uid = models.CharField(max_length=64, blank=True)
    # As what it would have been stored, for another attempt.
    origin = models.CharField(max_length=10, choices=Origin.choices, default=Origin.ACQUIRED)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    provenance = models.CharField(max_length=200, blank=True)
    state = models.CharField(max_length=9, choices=State.choices, default=State.OPEN)
    settled_at = models.DateTimeField(null=True, blank=True)
    settled_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects = RefusalQuerySet.as_manager()

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(state__in=["open", "stored", "kept", "discarded"]), name="refusal_state_known"
            ),
        ]
        indexes = [
            models.Index(fields=["state", "-id"], name="refusal_by_state"),
            models.Index(fields=["study_instance_uid"], name="refusal_open_of_study", condition=models.Q(state="open")),
        ]


class RemovedFile(models.Model):
    """A file or folder below MEDIA_ROOT that is to go since its study was deleted; see `studies.removal`."""

    file = models.CharField(max_length=255)
