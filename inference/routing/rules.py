"""The only writers of rules."""

from __future__ import annotations

from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import F, Max
from django.utils import timezone

from inference.jobs.models import Job
from inference.registry.models import Model, ModelVersion, Stage
from inference.routing import conditions
from inference.routing.conditions import RuleError
from inference.routing.models import RoutingRule
from portal.accounts.audit import trail
from portal.accounts.models import Project, User
from studies.models import ImportBatch

FIELDS = ("name", "conditions", "model", "version", "priority", "push", "node")


def create(project: Project, *, by: User | None, **values: Any) -> RoutingRule:
    """A rule at the end of the order, switched off. `values`: FIELDS. Raises `RuleError`."""
    with transaction.atomic():
        Project.objects.select_for_update(no_key=True).get(pk=project.pk)
        last = RoutingRule.objects.filter(project=project).aggregate(last=Max("position"))["last"]
        rule = RoutingRule(project=project, created_by=by, position=0 if last is None else last + 1)
        _save(rule, values)
        trail.record("rule.create", rule, user=by)
    return rule


def change(rule: RoutingRule, *, by: User | None, **values: Any) -> RoutingRule:
    """What is routed already stays as it is. Raises `RuleError`."""
    with transaction.atomic():
        rule = _locked(rule)
        _save(rule, values)
        trail.record("rule.change", rule, user=by)
    return rule


def switch(rule: RoutingRule, on: bool, *, by: User | None) -> RoutingRule:
    """On: what comes in from now on is routed; what is in the archive already is not. Raises `RuleError`."""
    with transaction.atomic():
        rule = _locked(rule)
        if on and rule.push and rule.node is None:
            raise RuleError("The node to which results should go was removed.", "Choose another one, or none.")
        if on and rule.version is not None and rule.version.stage == Stage.RETIRED:
            raise RuleError(f"{rule.version} is retired.", "Choose another version.")
        if rule.enabled != on:
            rule.enabled, rule.enabled_at = on, timezone.now() if on else rule.enabled_at
            rule.save(update_fields=["enabled", "enabled_at", "changed_at"])
            trail.record("rule.enable" if on else "rule.disable", rule, user=by)
    return rule


def move(rule: RoutingRule, up: bool, *, by: User | None) -> None:
    """One place up or down in the order of its project."""
    with transaction.atomic():
        order = list(RoutingRule.objects.select_for_update().filter(project=rule.project_id).order_by("position", "pk"))
        at = next((number for number, one in enumerate(order) if one.pk == rule.pk), None)
        if at is None:
            return
        to = at - 1 if up else at + 1
        if not 0 <= to < len(order):
            return
        order[at], order[to] = order[to], order[at]
        for number, one in enumerate(order):
            if one.position != number:
                RoutingRule.objects.filter(pk=one.pk).update(position=number)
        trail.record("rule.move", rule, user=by, position=to)


def remove(rule: RoutingRule, *, by: User | None) -> None:
    """What it did stays in the log, under its name."""
    with transaction.atomic():
        trail.record("rule.remove", rule, user=by)
        RoutingRule.objects.filter(project=rule.project_id, position__gt=rule.position).update(
            position=F("position") - 1
        )
        rule.delete()


def draft(project: Project, **values: Any) -> RoutingRule:
    """A rule that is not stored, to try it out. Raises `RuleError`."""
    rule = RoutingRule(project=project, position=0)
    _apply(rule, values)
    _check(rule)
    return rule


def _locked(rule: RoutingRule) -> RoutingRule:
    locked = (
        RoutingRule.objects.select_for_update(of=("self",))
        .select_related("project", "model", "version__model", "node")
        .filter(pk=rule.pk)
        .first()
    )
    if locked is None:
        raise RuleError("The rule was deleted meanwhile.", "Reload the page.")
    return locked


def _apply(rule: RoutingRule, values: dict[str, Any]) -> None:
    unknown = values.keys() - set(FIELDS)
    if unknown:
        raise TypeError(f"A rule has no {', '.join(sorted(unknown))}.")
    for name, value in values.items():
        setattr(rule, name, value.strip() if isinstance(value, str) else value)


def _save(rule: RoutingRule, values: dict[str, Any]) -> None:
    _apply(rule, values)
    if not rule.name:
        raise RuleError("The rule has no name.", "Give it one.")
    _check(rule)
    if rule.push and rule.node is None:
        raise RuleError("It is not said where results shall go.", "Choose a node, or switch sending off.")
    try:
        with transaction.atomic():
            rule.save()
    except IntegrityError as error:
        if "routing_rule_name_once" in str(error):
            raise RuleError(f"The project has a rule “{rule.name}” already.", "Choose another name.") from None
        raise


def _check(rule: RoutingRule) -> None:
    asked = conditions.parse(rule.conditions)
    sources = asked.lists.get("import_source", ())
    if wrong := set(sources) - set(ImportBatch.Source.values):
        raise RuleError(
            f"There is no way in called {', '.join(sorted(wrong))}.",
            f"Choose among {', '.join(ImportBatch.Source.values)}.",
        )
    rule.conditions = asked.as_dict()
    if (rule.model is None) == (rule.version is None):
        raise RuleError("A rule runs either a version or what is in production of a model.", "Choose one of the two.")
    runs: Model | ModelVersion = rule.model or rule.version  # type: ignore[assignment]
    belongs_to = runs.project_id if isinstance(runs, Model) else runs.model.project_id
    if belongs_to != rule.project_id:
        raise RuleError("The model belongs to another project.", "Choose a model of the rule's project.")
    if rule.priority not in Job.Priority.values:
        raise RuleError("There is no such priority.", f"Choose among {', '.join(map(str, Job.Priority.values))}.")
    if not rule.push:
        rule.node = None
    elif rule.node is not None and rule.node.project_id != rule.project_id:
        raise RuleError("The node belongs to another project.", "Choose a node of the rule's project.")
