"""Model version × cohort: the newest finished evaluation in each cell, or why there is none."""

from __future__ import annotations

from dataclasses import dataclass, field

from django.db.models import Count, Q

from inference.evaluation import overlap
from inference.evaluation.models import Evaluation
from inference.jobs.models import Job
from inference.registry.models import ModelVersion, Stage
from portal.accounts.models import Project, User
from portal.accounts.permissions import Action, projects_where
from portal.dashboards.figures import NEEDS, step
from studies.cohorts.models import Cohort

MOST_VERSIONS = 60

# Task → figure that stands for a model where others have Dice, and its name
OWN = {"classification": ("auc", "AUC"), "detection": ("froc_score", "FROC")}


@dataclass
class Line:
    """One structure in a cell."""

    structure: str
    entry: dict
    enough: bool
    reason: str = ""


@dataclass
class Cell:
    state: str  # done | running | failed | none | elsewhere
    evaluation: Evaluation | None = None
    lines: list[Line] = field(default_factory=list)
    step: int = 0  # colour by the worst structure; 0: no colour
    warnings: list[str] = field(default_factory=list)
    may_start: bool = False


@dataclass
class Matrix:
    cohorts: list[Cohort]
    rows: list[tuple[ModelVersion, list[tuple[Cohort, Cell]]]]
    structures: list[str]
    notes: list[str]


def build(user: User, chosen: Project | None, metric: str, structure: str = "") -> Matrix:
    projects = Project.objects.filter(pk=chosen.pk) if chosen else Project.objects.visible_to(user)
    versions = list(
        ModelVersion.objects.visible_to(user)
        .filter(model__project__in=projects)
        .annotate(evaluated=Count("evaluations", filter=Q(evaluations__finished_at__isnull=False)))
        .exclude(stage=Stage.RETIRED, evaluated=0)
        .select_related("model__project")
        .order_by("model__project__name", "model__name", "-number")[:MOST_VERSIONS]
    )
    cohorts = list(
        Cohort.objects.visible_to(user)
        .filter(project__in=projects, reference_standards__isnull=False)
        .distinct()
        .select_related("project")
        .order_by("project__name", "name")
    )
    runs = projects_where(user, Action.RUN).values_list("pk", flat=True)
    runnable = set(runs)
    newest: dict[tuple[int, int], Evaluation] = {}
    going: dict[tuple[int, int], Evaluation] = {}
    rows = Evaluation.objects.visible_to(user).filter(version__in=versions).select_related("job", "reference")
    for evaluation in rows.order_by("-id"):
        key = (evaluation.version_id, evaluation.reference.cohort_id)
        (newest if evaluation.finished_at else going).setdefault(key, evaluation)
    structures = sorted({name for evaluation in newest.values() for name in evaluation.summary})
    notes: list[str] = []
    table = []
    for version in versions:
        cells = []
        for cohort in cohorts:
            cell = _cell(version, cohort, newest, going, metric, structure)
            cell.may_start = cell.state in ("none", "failed") and cohort.project_id in runnable
            for warning in cell.warnings:
                note = f"{version} on {cohort.name}: {warning}."
                if note not in notes:
                    notes.append(note)
            cells.append((cohort, cell))
        table.append((version, cells))
    return Matrix(cohorts, table, structures, notes)


def _cell(version, cohort, newest, going, metric: str, structure: str) -> Cell:
    key = (version.pk, cohort.pk)
    if version.model.project_id != cohort.project_id:
        return Cell("elsewhere")
    evaluation = newest.get(key)
    if evaluation is None:
        unfinished = going.get(key)
        if unfinished is None or unfinished.job is None:
            return Cell("none")
        if unfinished.job.state in (Job.State.QUEUED, Job.State.RUNNING):
            return Cell("running", unfinished)
        return Cell("failed" if unfinished.job.state == Job.State.FAILED else "none", unfinished)
    cell = Cell("done", evaluation, warnings=overlap.words(evaluation.overlap))
    # Dice is asked for first, and classifiers and detectors have none: their own figure stands there, with its name.
    own, title = OWN.get(version.manifest.get("task"), ("", "")) if metric == "dice" else ("", "")
    for name, figures in evaluation.summary.items():
        if structure and name != structure:
            continue
        entry = figures.get(own or metric) or {}
        n = entry.get("n") or 0
        known = entry.get("estimate") is not None
        enough = known and n >= NEEDS
        reason = "" if enough else (f"insufficient data (n={n}, needs {NEEDS})" if known else _why(entry))
        cell.lines.append(Line(f"{title}, {name}" if own else name, entry, enough, reason))
    estimates = [line.entry["estimate"] for line in cell.lines if line.enough]
    if estimates and len(estimates) == len(cell.lines):
        cell.step = step(min(estimates))
    return cell


def _why(entry: dict) -> str:
    return entry.get("reason") or "not computed"
