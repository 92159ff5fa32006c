"""What one DICOMweb root serves, to whom, and where it stores.

The views know nothing of users, projects or campaigns: a resolver turns a request into a `Scope`, or raises `Http404`.
`studies.dicomweb.urls.urls_for(resolver)` mounts the same views for any resolver.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol

from django.db.models import QuerySet
from django.http import Http404, HttpRequest

from portal.accounts.models import Project, User
from portal.accounts.permissions import Action, may, projects_where
from studies.dicomweb import prepared
from studies.dicomweb.problems import Problem
from studies.ingest import rows
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


@dataclass(frozen=True)
class Scope:
    """`studies` and `series` are what may be seen; instances follow from the series.

    `store_target` decides for each object and raises `Problem` (403, 409); None: nothing can be stored here.
    `unreadable_target` says where bytes go that are no object, into the quarantine; None: they are only answered.
    `amend` makes of a received file the bytes to store, for what left this root rewritten; None: as received.
    `base_path` is the path of the root without a closing slash; addresses in answers start with it.
    `project`: the key of the only one that this root serves.
    `projects`: where given, `studies` are those of these projects (their keys) and `series` what
    `Series.objects.visible_to(user)` gives of them, so that prepared queries may stand for both.
    """

    base_path: str
    user: User
    visible_studies: Callable[[], QuerySet[Study]]
    visible_series: Callable[[], QuerySet[Series]]
    store_target: Callable[[Header], StoreTarget] | None = None
    unreadable_target: Callable[[], StoreTarget | None] = lambda: None
    rewrite: Rewrite | None = None
    amend: Callable[[Path], bytes] | None = None
    project: int | None = None
    visible_projects: Callable[[], tuple[int, ...]] | None = None

    @cached_property  # whoever stores needs none of these, and making them costs as much as storing
    def studies(self) -> QuerySet[Study]:
        return self.visible_studies()

    @cached_property
    def series(self) -> QuerySet[Series]:
        return self.visible_series()

    @cached_property
    def projects(self) -> tuple[int, ...] | None:
        return self.visible_projects() if self.visible_projects is not None else None

    @property
    def several_projects(self) -> bool:
        """Whether a study UID may occur more than once; then the first study answers."""
        return self.projects is not None and len(self.projects) > 1

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


def writable_projects(user: User) -> list[Project]:
    return list(projects_where(user, Action.IMPORT).order_by("pk"))


class _Storing:
    """Where objects sent to the general root go; asked once for each study of a request."""

    def __init__(self, request: HttpRequest) -> None:
        self.request = request
        self.user: Any = request.user
        self.known: dict[str, Project] = {}

    @cached_property
    def writable(self) -> list[Project]:
        known: list[Project] | None = getattr(self.request, "dicomweb_writable", None)  # the front has asked already
        return known if known is not None else writable_projects(self.user)

    def target(self, header: Header) -> StoreTarget:
        uid = header.study_instance_uid
        if uid not in self.known:
            self.known[uid] = self._project(uid)
        return _target(self.known[uid], header, self.user)

    def _project(self, uid: str) -> Project:
        if not self.writable:
            raise Problem(403, "You may not store into any project. Ask a project's manager for the role of engineer.")
        if len(self.writable) == 1:
            return self.writable[0]
        held = rows.project_holding(uid, [project.pk for project in self.writable])
        for project in self.writable:
            if project.pk == held:
                return project
        raise Problem(409, "You may store into several projects. Send to /dicomweb/projects/<slug>/studies.")

    def unreadable_target(self) -> StoreTarget | None:
        return StoreTarget(self.writable[0], created_by=self.user) if len(self.writable) == 1 else None


def projects_of(user: User) -> dict[str, int]:
    """The projects that a user may see: slug → key, the oldest first."""

    def build(somebody: User, _: Any) -> QuerySet[Any, Any]:
        return Project.objects.visible_to(somebody).order_by("pk").values_list("slug", "pk")

    return dict(prepared.rows("projects_of", build, user, ()))


def _projects_of(request: HttpRequest) -> dict[str, int]:
    known: dict[str, int] | None = getattr(request, "dicomweb_projects", None)  # the front has asked already
    user: Any = request.user
    return projects_of(user) if known is None else known


def general_scope(request: HttpRequest) -> Scope:
    """`/dicomweb/`: everything that the user may see."""
    user: Any = request.user
    storing = _Storing(request)
    return Scope(
        base_path="/dicomweb",
        user=user,
        visible_studies=lambda: Study.objects.visible_to(user),
        visible_series=lambda: Series.objects.visible_to(user),
        store_target=storing.target,
        unreadable_target=storing.unreadable_target,
        visible_projects=lambda: tuple(_projects_of(request).values()),
    )


def project_scope(request: HttpRequest, slug: str) -> Scope:
    """`/dicomweb/projects/<slug>/`: one project."""
    user: Any = request.user
    writable = {project.slug: project for project in getattr(request, "dicomweb_writable", ())}
    key = writable[slug].pk if slug in writable else _projects_of(request).get(slug)
    if key is None:
        raise Http404
    asked = cache(lambda: Project.objects.get(pk=key))  # once for all objects of a request

    def project() -> Project:
        return writable.get(slug) or asked()

    def allowed() -> bool:
        return slug in writable or may(user, Action.IMPORT, project())

    def store_target(header: Header) -> StoreTarget:
        if not allowed():
            raise Problem(403, f"Your role in “{slug}” does not allow storing.")
        return _target(project(), header, user)

    return Scope(
        base_path=f"/dicomweb/projects/{slug}",
        user=user,
        visible_studies=lambda: Study.objects.visible_to(user).filter(project=key),
        visible_series=lambda: Series.objects.visible_to(user).filter(study__project=key),
        store_target=store_target,
        unreadable_target=lambda: StoreTarget(project(), created_by=user) if allowed() else None,
        project=key,
        visible_projects=lambda: (key,),
    )
