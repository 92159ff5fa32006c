"""Actions and objects of the audit trail in words, and the way to the object."""

from __future__ import annotations

from dataclasses import dataclass

from django.urls import NoReverseMatch, reverse

from portal.accounts.audit.models import AuditEvent

WORDS = {
    "login.success": "Signed in",
    "login.failure": "Sign-in failed",
    "login.end": "Signed out",
    "login.locked": "Sign-in locked",
    "login.unlock": "Sign-in unlocked",
    "login.second_factor": "Second factor changed",
    "login.reset_second_factor": "Second factor reset",
    "login.codes": "Recovery codes seen",
    "user.connect": "Account taken over by single sign-on",
    "study.delete": "Study deleted",
    "study.move": "Study moved to another project",
    "prediction.view": "Model result seen",
    "study.route": "Study routed to a model",
    "study.resend": "Result sent again",
    "rule.create": "Routing rule made",
    "rule.change": "Routing rule changed",
    "rule.enable": "Routing rule switched on",
    "rule.disable": "Routing rule switched off",
    "rule.move": "Routing rule moved",
    "rule.remove": "Routing rule deleted",
    "rule.run": "Routing rule run on the archive",
    "rule.try": "Routing rule tried out",
    "rule.view": "Routing rule seen",
    "prediction.delete": "Model result deleted",
    "node.search": "Another archive searched",
    "user.create": "Account made",
    "user.activate": "Account let in again",
    "user.deactivate": "Account deactivated",
    "user.password": "Password changed",
    "user.change": "Account changed",
    "token.create": "API token made",
    "token.revoke": "API token revoked",
    "project.create": "Project made",
    "project.view": "Project opened",
    "member.set": "Role given",
    "member.remove": "Member removed",
    "list.view": "List seen",
    "study.view": "Study page seen",
    "study.open": "Study opened in the viewer",
    "study.read": "Images read (DICOMweb)",
    "study.store": "Images stored",
    "study.export": "Images sent elsewhere",
    "study.thumbnail": "Thumbnail seen",
    "series.view": "Series seen",
    "series.thumbnail": "Thumbnail seen",
    "patient.view": "Patient page seen",
    "import.open": "Import begun",
    "import.view": "Import seen",
    "refusal.view": "Refused file seen",
    "refusal.export": "Refused file fetched",
    "refusal.settle": "Refused file settled",
    "cohort.export": "Cohort exported",
    "export.order": "De-identified export ordered",
    "export.write": "De-identified export written",
    "export.view": "De-identified export seen",
    "export.fetch": "De-identified export fetched",
    "export.discard": "De-identified export deleted",
    "pixels.sign": "Text in pixels judged",
    "pseudonym.reveal": "Pseudonym looked up",
    "study.deidentify": "De-identified copy written",
    "campaign.export": "Reads exported",
    "campaign.case": "All readers' answers seen",
    "campaign.adjudicate": "Case adjudicated",
    "task.open": "Reading task opened",
    "task.submit": "Read submitted",
    "evaluation.export": "Case results exported",
    "version.card": "Model card written",
    "version.export": "Model card exported",
    "version.promote": "Model version promoted",
    "job.submit": "Job started",
    "audit.view": "Audit trail seen",
    "audit.export": "Audit trail exported",
    "root.open": "DICOMweb root asked for",
    "page.view": "Page seen",
    "page.change": "Change made",
    "file.export": "File fetched",
}
# What the page offers to narrow by: the part of an action before the point.
GROUPS = (
    ("login", "Signing in"),
    ("user", "Accounts"),
    ("token", "API tokens"),
    ("member", "Members and roles"),
    ("project", "Projects"),
    ("patient", "Patient pages"),
    ("study", "Studies"),
    ("series", "Series"),
    ("list", "Lists"),
    ("import", "Imports"),
    ("node", "Other imaging systems"),
    ("refusal", "Refused files"),
    ("cohort", "Cohorts"),
    ("export", "De-identified exports"),
    ("pixels", "Text in pixels"),
    ("pseudonym", "Pseudonyms"),
    ("campaign", "Campaigns"),
    ("task", "Reading"),
    ("version", "Model versions"),
    ("rule", "Routing rules"),
    ("evaluation", "Evaluations"),
    ("job", "Jobs"),
    ("audit", "Audit trail"),
    ("page", "Other pages"),
    ("file", "Other files"),
)
ROUTES = {
    "studies.study": "study",
    "studies.patient": "patient",
    "studies.importbatch": "import_batch",
    "studies.refusal": "refusal",
    "cohorts.cohort": "cohort",
    "deid.export": "export",
    "annotation.campaign": "campaign",
    "registry.model": "model",
    "registry.modelversion": "version",
    "evaluation.evaluation": "evaluation",
    "jobs.job": "job",
    "routing.routingrule": "rule",
}
NAMES = {
    "studies.importbatch": "import",
    "studies.refusal": "refused file",
    "cohorts.referencestandard": "reference standard",
    "annotation.task": "reading task",
    "registry.modelversion": "model version",
    "accounts.apitoken": "token",
    "routing.routingrule": "routing rule",
    "routing.routedstudy": "routed study",
    "training.trainingrun": "training run",
}


@dataclass(frozen=True)
class Shown:
    text: str
    url: str = ""


def words_of(action: str) -> str:
    return WORDS.get(action) or action.replace(".", ": ").replace("_", " ").capitalize()


def object_of(row: AuditEvent) -> Shown:
    """The object as text, and its page where it has one; the page may be gone."""
    kind = row.object_kind
    name = NAMES.get(kind) or kind.rpartition(".")[2].replace("_", " ")
    text = f"{name} {row.object_id}".strip()
    if kind not in ROUTES or not row.object_id:
        return Shown(text)
    try:
        return Shown(text, reverse(ROUTES[kind], args=[row.object_id]))
    except NoReverseMatch:
        return Shown(text)
