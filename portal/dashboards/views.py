"""Home, search and the project page."""

from __future__ import annotations

from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from inference.jobs.models import Job
from inference.registry.models import Model
from portal.accounts.current import current_project
from portal.accounts.forms import MemberForm
from portal.accounts.models import Project, Role
from portal.accounts.permissions import Action, may, projects_where, role_in
from portal.annotation.models import Campaign
from portal.dashboards import home as home_page
from portal.dashboards.search import find
from studies.cohorts.models import Cohort
from studies.models import ImportBatch, Series, Study


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    user = request.user
    projects = home_page.shown_projects(user, current_project(request))
    studies = home_page.recent_studies(user, projects)
    reading = home_page.reading(user, projects)
    context = {
        "reading": reading,
        "waiting": sum(entry["total"] - entry["done"] for entry in reading),
        "jobs": home_page.jobs(user, projects),
        "failures": home_page.failures(user, projects),
        "campaigns": home_page.campaigns(user, projects, timezone.localdate()),
        "studies": studies,
        "archive_empty": not studies and not Study.objects.visible_to(user).exists(),
        "may_import": projects_where(user, Action.IMPORT).exists(),
        "may_campaign": projects_where(user, Action.MANAGE).exists(),
    }
    return render(request, "dashboards/home.html", context)


@require_POST
def search(request: HttpRequest) -> HttpResponse:
    """Hits as a fragment for the top bar, or as a page without JavaScript. POST, so that names stay out of URLs."""
    text = request.POST.get("q", "")
    template = "dashboards/found.html" if request.htmx else "dashboards/search.html"
    return render(request, template, {"found": find(request.user, text), "text": text.strip()})


@require_safe
def project(request: HttpRequest, slug: str) -> HttpResponse:
    project = get_object_or_404(Project.objects.visible_to(request.user), slug=slug)
    user = request.user
    jobs = Job.objects.visible_to(user).filter(project=project)
    context = {
        "project": project,
        "role": role_in(user, project),
        "may_manage": may(user, Action.MANAGE, project),
        "may_import": may(user, Action.IMPORT, project),
        "roles": Role.choices,
        "member_form": MemberForm(),
        "members": project.memberships.select_related("user").order_by("role", "user__username"),
        "counts": {
            "studies": Study.objects.visible_to(user).filter(project=project).count(),
            "series": Series.objects.visible_to(user).filter(study__project=project).count(),
            "patients": project.patients.count(),
        },
        "cohorts": Cohort.objects.visible_to(user)
        .filter(project=project)
        .annotate(size=Count("cases"))
        .order_by("-id")[:10],
        "campaigns": Campaign.objects.visible_to(user).filter(project=project).order_by("-id")[:10],
        "models": Model.objects.visible_to(user)
        .filter(project=project)
        .annotate(version_count=Count("versions"))
        .order_by("-id")[:10],
        "jobs": jobs.select_related("created_by")[:8],
        "imports": ImportBatch.objects.visible_to(user)
        .from_outside()
        .filter(project=project)
        .select_related("created_by")
        .order_by("-id")[:5],
    }
    return render(request, "dashboards/project.html", context)
