"""How agreement is written: never without interval and n, grey where it rests on few cases."""

from __future__ import annotations

from django import template
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from inference.evaluation.statistics.agreement import Agreement
from portal.accounts.models import User
from portal.annotation.agreement import MINIMUM_CASES, Item
from portal.frame.templatetags.components import number

register = template.Library()


def interval(found: Agreement) -> str:
    if found.lower is None or found.upper is None:
        return "no interval"
    between = " to " if min(found.lower, found.upper) < 0 else "–"
    return f"[{number(found.lower)}{between}{number(found.upper)}]"


@register.simple_tag
def rests_on(found: Agreement) -> SafeString:
    """What stands under a headline figure: interval, n, and whether that is few."""
    few = ", few cases" if found.n < MINIMUM_CASES else ""
    return format_html("{} n={} cases{}", interval(found), found.n, few)


@register.filter
def without_estimate(found: Agreement | None) -> str:
    """Why there is no coefficient: no case with two reads, or one answer throughout, which κ cannot judge."""
    if found is None or not found.n:
        return "needs two readers on a case"
    return f"not defined: the same answer throughout, n={found.n} case{'s' if found.n != 1 else ''}"


@register.simple_tag
def agreed(found: Agreement) -> SafeString:
    """`0.71 [0.66–0.76] n=206`; grey with the words "few cases" below the minimum."""
    if found.estimate is None:
        return format_html('<span class="quiet">{}</span>', without_estimate(found))
    few = found.n < MINIMUM_CASES
    return format_html(
        '<span class="est{}"><b>{}</b> <span class="ci">{}</span> <span class="n">n={}</span>{}</span>',
        " few" if few else "",
        number(found.estimate),
        interval(found),
        found.n,
        SafeString(' <span class="n">few cases</span>') if few else "",
    )


@register.simple_tag
def heat(item: Item, readers: list[User]) -> SafeString:
    """Pairwise agreement as a table: a row and a column for each reader, coloured from q1 (0.40) to q7 (0.80)."""
    head = format_html_join("", '<th scope="col">{}</th>', ((str(reader),) for reader in readers))
    rows = []
    for row in readers:
        cells = format_html_join("", "{}", ((_cell(item, row, column),) for column in readers))
        rows.append((str(row), cells))
    return format_html(
        '<table class="heat-table"><caption class="vh">{}: {} of each pair of readers</caption>'
        "<thead><tr><td></td>{}</tr></thead><tbody>{}</tbody></table>",
        item.title,
        item.measure,
        head,
        format_html_join("", '<tr><th scope="row">{}</th>{}</tr>', rows),
    )


def _cell(item: Item, row: User, column: User) -> SafeString:
    if row.pk == column.pk:
        return SafeString('<td class="self"><span class="vh">same reader</span></td>')
    found = item.pairs.get((min(row.pk, column.pk), max(row.pk, column.pk)))
    if found is None or found.estimate is None:
        return format_html('<td class="self">–<small>n={}</small></td>', found.n if found else 0)
    shade = "few" if found.n < MINIMUM_CASES else step(found.estimate)
    return format_html(
        '<td class="{}"><b>{}</b><small>{}</small><small>n={}</small></td>',
        shade,
        number(found.estimate),
        interval(found),
        found.n,
    )


def step(value: float) -> str:
    """q1 … q7 for values from 0.40 to 0.80; what lies outside gets the end of the scale."""
    return f"q{min(7, max(1, 1 + int((value - 0.4) / 0.4 * 7)))}"


@register.simple_tag
def curve(daily: list[int]) -> SafeString:
    """Reads a day as a small line, 84 × 22."""
    top = max(daily) or 1
    width = 80 / max(1, len(daily) - 1)
    points = " ".join(f"{2 + i * width:.1f},{20 - 17 * n / top:.1f}" for i, n in enumerate(daily))
    return format_html(
        '<svg class="chart reads-a-day" viewBox="0 0 84 22" role="img" aria-label="{} reads in {} days">'
        '<polyline class="ln thin" points="{}"/></svg>',
        sum(daily),
        len(daily),
        points,
    )


@register.filter
def clock(seconds) -> str:
    """Minutes and seconds, `2:18`."""
    if seconds is None:
        return "–"
    whole = round(float(seconds))
    return f"{whole // 60}:{whole % 60:02d}"


@register.simple_tag
def address(route: str, *args) -> str:
    """The address of a page, empty where this installation has no such page."""
    try:
        return reverse(route, args=args)
    except NoReverseMatch:
        return ""


@register.filter
def get(mapping: dict, key):
    return mapping.get(key)
