"""What one DICOMweb root serves, to whom, and where it stores.

The views know nothing of users, projects or campaigns: a resolver turns a request into a `Scope`, or raises `Http404`.
`studies.dicomweb.urls.urls_for(resolver)` mounts the same views for any resolver.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from django.db.models import QuerySet
from django.http import Http404, HttpRequest

from portal.accounts.models import Project, User
from portal.accounts.permissions import Action, may, projects_where
from studies.dicomweb.problems import Problem
from studies.ingest.header import Header
from studies.models import Instance, Origin, Series, Study


class Rewrite(Protocol):
    """Changes what leaves a root, for blinded reading. Pixel data is served as it is."""

    def dataset(self, dataset: dict[str, Any]) -> dict[str, Any]:
        """A DICOM JSON object (an answer to QIDO-RS, or an instance's metadata)."""

    def part10(self, path: Path) -> bytes:
        """A stored file as it may be handed out."""


@dataclass(frozen=True, slots=True)
class StoreTarget:
    """Where and as what an object sent by STOW-RS is stored."""

    project: Project
    origin: Origin = Origin.ACQUIRED
    created_by: User | None = None
    provenance: str = ""


@dataclass(frozen=True, slots=True)
class Scope:
    """`studies` and `series` are what may be seen; instances follow from the series.

    `store_target` decides for each object and raises `Problem` (403, 409); None: nothing can be stored here.
    `amend` makes of a received file the bytes to store, for what left this root rewritten; None: as received.
    `base_path` is the path of the root without a closing slash; addresses in answers start with it.
    `project`: the only one that this root serves.
    `several_projects`: a study UID may occur more than once, the first one answers.
    """

    base_path: str
    user: User
    studies: QuerySet[Study]
    series: QuerySet[Series]
    store_target: Callable[[Header], StoreTarget] | None = None
    rewrite: Rewrite | None = None
    amend: Callable[[Path], bytes] | None = None
    several_projects: bool = False
    project: Project | None = None

    @property
    def instances(self) -> QuerySet[Instance]:
        return Instance.objects.filter(series__in=self.series)


Resolver = Callable[..., Scope]


def origin_of(header: Header) -> Origin:
    """What a person stores through a viewer is an annotation, unless it is an image."""
    return Origin.ANNOTATION if header.derived_object else Origin.ACQUIRED


def _target(project: Project, header: Header, user: User) -> StoreTarget:
    origin = origin_of(header)
    return StoreTarget(project, origin, user, "" if origin is Origin.ACQUIRED else "DICOMweb")


def general_scope(request: HttpRequest) -> Scope:
    """`/dicomweb/`: everything that the user may see."""
    user: Any = request.user

    def store_target(header: Header) -> StoreTarget:
        writable = projects_where(user, Action.IMPORT)
        held = writable.filter(studies__study_instance_uid=header.study_instance_uid).order_by("studies__pk").first()
        if held is not None:
            return _target(held, header, user)
        candidates = list(writable.order_by("pk")[:2])
        if not candidates:
            raise Problem(403, "You may not store into any project. Ask a project's manager for the role of engineer.")
        if len(candidates) > 1:
            raise Problem(409, "You may store into several projects. Send to /dicomweb/projects/<slug>/studies.")
        return _target(candidates[0], header, user)

    return Scope(
        base_path="/dicomweb",
        user=user,
        studies=Study.objects.visible_to(user),
        series=Series.objects.visible_to(user),
        store_target=store_target,
        several_projects=True,
    )


def project_scope(request: HttpRequest, slug: str) -> Scope:
    """`/dicomweb/projects/<slug>/`: one project."""
    user: Any = request.user
    project = Project.objects.visible_to(user).filter(slug=slug).first()
    if project is None:
        raise Http404

    def store_target(header: Header) -> StoreTarget:
        if not may(user, Action.IMPORT, project):
            raise Problem(403, f"Your role in “{project.slug}” does not allow storing.")
        return _target(project, header, user)

    return Scope(
        base_path=f"/dicomweb/projects/{project.slug}",
        user=user,
        studies=Study.objects.visible_to(user).filter(project=project),
        series=Series.objects.visible_to(user).filter(study__project=project),
        store_target=store_target,
        project=project,
    )
