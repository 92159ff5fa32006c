"""The button on the home page."""

from __future__ import annotations

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_POST

from portal.accounts.current import select_project
from portal.demo import services


@require_POST
def demo(request: HttpRequest) -> HttpResponse:
    """Ask for the demonstration and show its job."""
    if not request.user.is_superuser:
        raise PermissionDenied("Only an administrator loads the demonstration.")
    job = services.request(by=request.user)
    select_project(request, job.project)
    return redirect("job", pk=job.pk)
