"""`manage.py routing`: the routing rules, and what they would do with the archive."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from inference.routing import matching, preview
from inference.routing.conditions import RuleError
from inference.routing.matching import Verdict
from inference.routing.models import RoutingRule
from portal.accounts.models import Project


class Command(BaseCommand):
    help = (
        "List the routing rules in the order in which they are asked. With --dry-run say what each would do with the"
        " studies that are in the archive; nothing is written and nothing is run."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="ask the rules about the archive")
        parser.add_argument("--project", metavar="SLUG", help="of this project only")
        parser.add_argument("--rule", metavar="NAME", help="this rule only")
        parser.add_argument("--days", default="30", help="studies that came in within so many days, or all")
        parser.add_argument("--studies", action="store_true", help="name every study with the reason, not counts alone")
        parser.add_argument("--json", action="store_true", help="print one JSON object for a program to read")

    def handle(self, **options: Any) -> None:
        try:
            days = preview.days_of(options["days"])
        except RuleError as error:
            raise CommandError(str(error)) from None
        found = self._rules(options)
        told = [self._told(rule, days, options) for rule in found]
        if options["json"]:
            self.stdout.write(json.dumps({"rules": told}, ensure_ascii=False))
            return
        for rule, one in zip(found, told, strict=True):
            words = "; ".join(f"{name} {asked}" for name, asked in rule.parsed().words()) or "every acquired series"
            self.stdout.write(
                f"{one['project']} {rule.position + 1}. {rule} ({'on' if rule.enabled else 'off'}): {words}"
            )
            self.stdout.write(f"    runs {one['runs']}" + (f", results to {rule.node}" if rule.node else ""))
            if "counts" in one:
                said = ", ".join(f"{matching.WORDS[Verdict(key)].lower()} {n}" for key, n in one["counts"].items() if n)
                period = "of all time" if days is None else f"of {days} days"
                some = "" if one["complete"] else ", the newest"
                self.stdout.write(f"    {one['studies']} studies {period}{some}: {said or 'none'}")
            for study in one.get("decisions", []):
                self.stdout.write(f"    study {study['study']}: {study['verdict']}. {study['reason']}".rstrip())
        if not found:
            self.stdout.write("There is no rule.")

    def _rules(self, options: dict[str, Any]) -> list[RoutingRule]:
        rules = RoutingRule.objects.select_related("project", "model", "version__model__project", "node")
        if options["project"]:
            if not Project.objects.filter(slug=options["project"]).exists():
                raise CommandError(f"There is no project “{options['project']}”.")
            rules = rules.filter(project__slug=options["project"])
        if options["rule"]:
            rules = rules.filter(name=options["rule"])
            if not rules.exists():
                raise CommandError(f"There is no rule “{options['rule']}”.")
        return list(rules.order_by("project__slug", "position", "pk"))

    def _told(self, rule: RoutingRule, days: int | None, options: dict[str, Any]) -> dict[str, Any]:
        told: dict[str, Any] = {
            "id": rule.pk, "project": rule.project.slug, "name": rule.name, "enabled": rule.enabled,
            "conditions": rule.conditions, "runs": str(rule.version or f"{rule.model} in production"),
        }  # fmt: skip
        if options["dry_run"]:
            size = preview.MOST if options["studies"] else 0
            tally, found = preview.page(rule, days, None, number=1, size=size)
            told |= tally.as_dict()
            if options["studies"]:
                told["decisions"] = [
                    {"study": one.study.pk, "verdict": str(one.verdict), "reason": one.reason} for one in found
                ]
        return told
