"""Health, for load balancers and monitors: no login, no detail."""

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from portal.runtime.health import OK, checks


@login_not_required
@never_cache
@require_safe
def healthz(request: HttpRequest) -> JsonResponse:
    """The process answers."""
    return JsonResponse({"alive": True})


@login_not_required
@never_cache
@require_safe
def readyz(request: HttpRequest) -> JsonResponse:
    """200 if everything that work needs is there, else 503."""
    states = checks()
    ready = all(state == OK for state in states.values())
    response = JsonResponse({"ready": ready, "checks": states}, status=200 if ready else 503)
    # The checks have logged the reason; Django would call each question during a start an error.
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response
