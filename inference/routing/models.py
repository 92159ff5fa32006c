"""Rules that run a model when a study has come in, and what each of them did. Written by the services of this room."""

from __future__ import annotations

from django.conf import settings
from django.db import models

from inference.jobs.models import Job
from inference.prediction.models import Prediction
from inference.registry.models import Model, ModelVersion, Stage
from inference.routing.conditions import Conditions, parse
from portal.accounts.models import Project, User
from studies.dimse.models import RemoteNode
from studies.models import Series, Study


class RoutingRuleQuerySet(models.QuerySet["RoutingRule"]):
    def visible_to(self, user: User) -> RoutingRuleQuerySet:
        return self.filter(project__in=Project.objects.visible_to(user))


class RoutingRule(models.Model):
    """Of a project: which series, which version, and where results go."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="routing_rules")
    name = models.CharField(max_length=80)
    enabled = models.BooleanField(default=False)
    # Only what comes in from then on is routed by itself.
    enabled_at = models.DateTimeField(null=True, blank=True)
    position = models.PositiveIntegerField(help_text="Rules are asked in this order")
    conditions = models.JSONField(default=dict, blank=True, help_text="See inference.routing.conditions")
    # Either whatever is in production of a model, or one version.
    model = models.ForeignKey(Model, null=True, blank=True, on_delete=models.PROTECT, related_name="routing_rules")
    version = models.ForeignKey(
        ModelVersion, null=True, blank=True, on_delete=models.PROTECT, related_name="routing_rules"
    )
    priority = models.PositiveSmallIntegerField(choices=Job.Priority.choices, default=Job.Priority.NORMAL)
    push = models.BooleanField(default=False, help_text="Results are sent to a node")
    # Empty with `push`: the node was removed since.
    node = models.ForeignKey(RemoteNode, null=True, blank=True, on_delete=models.SET_NULL, related_name="routing_rules")
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    changed_at = models.DateTimeField(auto_now=True)

    objects = RoutingRuleQuerySet.as_manager()

    class Meta:
        ordering = ["project", "position", "pk"]
        constraints = [
            models.UniqueConstraint(fields=["project", "name"], name="routing_rule_name_once"),
            models.CheckConstraint(
                condition=models.Q(model__isnull=True, version__isnull=False)
                | models.Q(model__isnull=False, version__isnull=True),
                name="routing_rule_runs_one_thing",
            ),
            models.CheckConstraint(
                condition=models.Q(enabled=False) | models.Q(enabled_at__isnull=False),
                name="routing_rule_enabled_since",
            ),
            models.CheckConstraint(condition=models.Q(priority__in=[0, 1, 2]), name="routing_rule_priority_known"),
        ]

    def __str__(self) -> str:
        return self.name

    def parsed(self) -> Conditions:
        return parse(self.conditions)

    def present_version(self) -> ModelVersion | None:
        """What it would run now; None where nothing of the model is in production."""
        if self.version is not None:
            return self.version
        assert self.model is not None
        return self.model.versions.select_related("model__project").filter(stage=Stage.PRODUCTION).first()


class Look(models.Model):
    """That the rules were asked about a study when it had this many acquired images; with another number they are asked
    again. `objects_held`: all that it held then, whoever made it."""

    study = models.OneToOneField(Study, primary_key=True, on_delete=models.CASCADE, related_name="routing_look")
    number_of_instances = models.PositiveIntegerField()
    objects_held = models.PositiveIntegerField(default=0)
    looked_at = models.DateTimeField(auto_now=True)


class RoutedStudyQuerySet(models.QuerySet["RoutedStudy"]):
    def visible_to(self, user: User) -> RoutedStudyQuerySet:
        return self.filter(study__in=Study.objects.visible_to(user))


class RoutedStudy(models.Model):
    """What a rule did with a study, and what became of sending the result."""

    class Outcome(models.TextChoices):
        RUN = "run", "Run"
        PRESENT = "present", "Result was there"
        SKIPPED = "skipped", "Skipped"

    class Push(models.TextChoices):
        NONE = "none", "Not sent"
        WAITING = "waiting", "Waits for sending"
        SENDING = "sending", "Being sent"
        SENT = "sent", "Sent"
        FAILED = "failed", "Sending failed"

    rule = models.ForeignKey(RoutingRule, null=True, on_delete=models.SET_NULL, related_name="routed")
    rule_name = models.CharField(max_length=80)
    study = models.ForeignKey(Study, on_delete=models.CASCADE, related_name="routed")
    outcome = models.CharField(max_length=7, choices=Outcome.choices)
    reason = models.CharField(max_length=300, blank=True, help_text="Why it was skipped; no identity")
    version = models.ForeignKey(ModelVersion, null=True, on_delete=models.CASCADE, related_name="+")
    image = models.ForeignKey(Series, null=True, on_delete=models.CASCADE, related_name="+")
    number_of_instances = models.PositiveIntegerField(default=0, help_text="Of the image when it was routed")
    # False once the image has changed and another row stands for it.
    current = models.BooleanField(default=True)
    job = models.ForeignKey(Job, null=True, on_delete=models.SET_NULL, related_name="routed")
    prediction = models.ForeignKey(Prediction, null=True, on_delete=models.SET_NULL, related_name="routed")
    told = models.BooleanField(default=False, help_text="It is written down what came of it")
    by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+",
        help_text="Who asked for it; empty: the study came in",
    )  # fmt: skip
    created_at = models.DateTimeField(auto_now_add=True)
    node = models.ForeignKey(RemoteNode, null=True, on_delete=models.SET_NULL, related_name="routed")
    push = models.CharField(max_length=7, choices=Push.choices, default=Push.NONE)
    push_job = models.ForeignKey(Job, null=True, on_delete=models.SET_NULL, related_name="+")
    push_attempts = models.PositiveSmallIntegerField(default=0)
    push_due_at = models.DateTimeField(null=True, blank=True)
    push_cause = models.CharField(max_length=300, blank=True)
    pushed_at = models.DateTimeField(null=True, blank=True)

    objects = RoutedStudyQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "routed studies"
        constraints = [
            models.UniqueConstraint(
                fields=["study", "version"],
                condition=models.Q(outcome="run", current=True),
                name="study_is_routed_once_per_version",
            ),
            models.CheckConstraint(
                condition=models.Q(outcome__in=["run", "present", "skipped"]), name="routed_outcome_known"
            ),
            models.CheckConstraint(
                condition=models.Q(push__in=["none", "waiting", "sending", "sent", "failed"]),
                name="routed_push_known",
            ),
            models.CheckConstraint(
                condition=models.Q(outcome="skipped")
                | models.Q(version__isnull=False, image__isnull=False, number_of_instances__gt=0),
                name="routed_names_image",
            ),
        ]
        indexes = [
            models.Index(fields=["rule", "-id"], name="routed_of_rule"),
            models.Index(fields=["job"], name="routed_open", condition=models.Q(told=False)),
            models.Index(
                fields=["push_due_at"], name="routed_to_push", condition=models.Q(push__in=["waiting", "sending"])
            ),
        ]

    def __str__(self) -> str:
        return f"routed study {self.pk}"

    @property
    def can_be_resent(self) -> bool:
        """Also one that waits for its next attempt: then at once."""
        tried = self.push == self.Push.WAITING and self.push_attempts > 0
        return (tried or self.push in (self.Push.SENT, self.Push.FAILED)) and self.node_id is not None
