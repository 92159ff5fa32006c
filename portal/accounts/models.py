"""Users, projects (the unit of tenancy), memberships and API tokens."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime

from django.contrib.auth.models import AbstractUser
from django.db import models
from django.utils import timezone


class User(AbstractUser):
    class Theme(models.TextChoices):
        DARK = "dark"
        LIGHT = "light"

    theme = models.CharField(max_length=5, choices=Theme.choices, default=Theme.DARK)
    single_key_shortcuts = models.BooleanField(default=True)

    # Set on the user of a request that came with a token: which one, and the project it is limited to (keys).
    token_id: int | None = None
    only_project: int | None = None
    token_expires_at: datetime | None = None

    def __str__(self) -> str:
        return self.get_full_name() or self.username

    @property
    def initials(self) -> str:
        words = (self.get_full_name() or self.username).split()
        return "".join(word[0] for word in words[:2]).upper() or "?"


class Role(models.TextChoices):
    MANAGER = "manager"
    READER = "reader"
    ENGINEER = "engineer"
    VIEWER = "viewer"


class ProjectQuerySet(models.QuerySet["Project"]):
    def visible_to(self, user: User) -> ProjectQuerySet:
        if not user.is_authenticated or not user.is_active:
            return self.none()
        found = self if user.is_superuser else self.filter(memberships__user=user)
        return found if user.only_project is None else found.filter(pk=user.only_project)


class Project(models.Model):
    slug = models.SlugField(max_length=60, unique=True)
    name = models.CharField(max_length=120)
    description = models.TextField(blank=True)
    synthetic = models.BooleanField(default=False, help_text="Holds demonstration data only")
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")

    objects = ProjectQuerySet.as_manager()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Membership(models.Model):
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=10, choices=Role.choices)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "user"], name="one_membership_per_user"),
            models.CheckConstraint(condition=models.Q(role__in=Role.values), name="membership_role_known"),
        ]

    def __str__(self) -> str:
        return f"{self.user} is {self.role} of {self.project}"


class ApiToken(models.Model):
    """A bearer token; only its SHA-256 digest is kept."""

    class Scope(models.TextChoices):
        FULL = "full", "Everything: REST API and DICOMweb"
        READ = "read", "Read only: REST API and DICOMweb"
        DICOMWEB = "dicomweb", "DICOMweb only: read and store"
        DICOMWEB_READ = "dicomweb_read", "DICOMweb only: read"

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="api_tokens")
    name = models.CharField(max_length=80, blank=True)
    digest = models.CharField(max_length=64, unique=True)
    scope = models.CharField(max_length=13, choices=Scope.choices, default=Scope.FULL)
    project = models.ForeignKey(
        Project, null=True, blank=True, on_delete=models.CASCADE, related_name="+", help_text="The only one it reaches"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(scope__in=["full", "read", "dicomweb", "dicomweb_read"]), name="token_scope_known"
            )
        ]

    @staticmethod
    def digest_of(token: str) -> str:
        return hashlib.sha256(token.encode()).hexdigest()

    @staticmethod
    def new_secret() -> str:
        return secrets.token_urlsafe(32)

    def allows(self, *, dicomweb: bool, writing: bool) -> bool:
        """Whether a request to DICOMweb (else to the REST API) that writes, or only reads, is within the scope."""
        if writing and self.scope in (self.Scope.READ, self.Scope.DICOMWEB_READ):
            return False
        return dicomweb or self.scope in (self.Scope.FULL, self.Scope.READ)

    @property
    def expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= timezone.now()


class FailedSignIns(models.Model):
    """Failed sign-ins under one name or from one address, see `portal.accounts.guard`."""

    class Kind(models.TextChoices):
        ACCOUNT = "account"
        ADDRESS = "address"

    kind = models.CharField(max_length=7, choices=Kind.choices)
    key = models.CharField(max_length=64, help_text="A keyed digest of the name, or the address")
    failures = models.PositiveIntegerField(default=0)
    last_at = models.DateTimeField(null=True)
    locked_until = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["kind", "key"], name="failures_once")]

    def __str__(self) -> str:
        return f"{self.failures} failures, {self.kind}"
