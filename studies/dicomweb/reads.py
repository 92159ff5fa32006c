"""What the audit trail keeps of DICOMweb: one row for each user, address, study and ten minutes, before the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.http import HttpRequest

from portal.accounts.audit import trail
from portal.accounts.audit.models import Outcome
from portal.accounts.models import User
from studies.dicomweb.scope import Scope
from studies.models import Study

_known = trail.Remembered(trail.READ_SECONDS)


def recorded(user: User, environ: Mapping[str, Any], base_path: str, study: str) -> bool:
    """Whether this process has written the row of such a read in this window. Costs no query."""
    return _known.holds(_key(user, environ, base_path, study))


def record(request: HttpRequest, scope: Scope, study: str) -> None:
    """Something of a study (its UID as stored), or for "" a list, goes to the user. Raises `NotRecorded`."""
    key = _key(scope.user, request.META, scope.base_path, study)
    if _known.holds(key):
        return
    if study:
        _record(request, scope, scope.studies.filter(study_instance_uid=study), Outcome.SUCCESS)
    else:
        with trail.occasion(request):
            trail.record(
                "list.view", kind="dicomweb", key=scope.base_path, project=scope.project, seconds=trail.READ_SECONDS
            )
    _known.add(key)


def record_denied(request: HttpRequest, scope: Scope, study: str) -> None:
    """Somebody asked for a study that exists and is not for them."""
    hidden = Study.objects.filter(study_instance_uid=study).exclude(pk__in=scope.studies.values("pk"))
    _record(request, scope, hidden, Outcome.DENIED)


def _record(request: HttpRequest, scope: Scope, studies: Any, outcome: Outcome) -> None:
    with trail.occasion(request):
        for pk, project, patient in studies.values_list("pk", "project_id", "patient_id"):
            trail.record(
                "study.read",
                kind="studies.study",
                key=pk,
                project=project,
                patient=patient,
                user=scope.user,
                outcome=outcome,
                seconds=trail.READ_SECONDS,
                root=scope.base_path,
            )


def _key(user: User, environ: Mapping[str, Any], base_path: str, study: str) -> tuple[Any, ...]:
    get = environ.get
    return (user.id, user.token_id, get("REMOTE_ADDR"), get("HTTP_X_FORWARDED_FOR"), base_path, study)
