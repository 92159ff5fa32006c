"""The components that pages share. `{% load components %}`, then:

    {% icon 'upload' %}                            an icon of icons.svg
    {% pill 'ok' 'Succeeded' %}                    state of a thing: ok | run | info | warn | bad | none
    {% pill 'info' 'Queued' 'queue' %}             … with another icon
    {% state job.state %}                          pill of a job, task, campaign, batch state or model stage
    {% est 0.873 0.861 0.884 26 %}                 0.87 [0.86–0.88] n=26
    {% est value lower upper n digits=3 needs=30 %} below `needs`: insufficient data (n=12, needs 30)
    {% est_of summary_entry %}                     the same from {"estimate", "lower", "upper", "n"}
    {% progress 0.62 'Epoch 5 of 8' '3 min left' %}  a bar; None as value: cannot be told yet
    {% empty 'studies' 'No studies yet' 'Import some.' url 'Import images' %}   url and action optional
    {% failure 'What failed' cause next_step kept %}  why, what to do, what was kept (each may be empty)
    {% note 'warn' 'Title' 'Text' %}               stays until solved: info | ok | warn | bad | none
    {% prov who when what %}                       who, when, which version, under what somebody made
    {% thumb url 44 'CT' 'Nodule 0.87' %}          a thumbnail; corner texts top left and bottom right
    {% field form.name %}                          label, control, hint, errors
    {% chart 'roc' spec 'ROC curve, AUC 0.91 …' 320 %}   Plotly chart from a dict {data, layout}; needs
                                                   {% include 'includes/chart_scripts.html' %} in block scripts
    {% styles %}                                   links to the style sheets of every page
    {{ value|number }} {{ value|number:3 }}        2 (3) decimals with a real minus sign; en dash for None
    {{ 0.0123|p_value }}                           0.012, < 0.001
    {{ 0.412|percent }}                            41 %
    {{ seconds|duration }}                         41 s, 2:18 min, 1 h 10 min
    {{ 'DEMO^ANNA'|person_name }}                  DEMO, ANNA
    {{ mapping|get:key }}                          a value by a key known only at run time
    {{ a_date|day }} {{ a_datetime|moment }}       23 Nov 2026 · 23 Nov 2026 14:32
    {{ a_datetime|stamp }}                         23 Nov 2026 14:32:07

Interval and n are never left out: `est` says "insufficient data" or "no interval" where there is none.
"""

from __future__ import annotations

import math
from datetime import date, datetime

from django import template
from django.forms import Select
from django.templatetags.static import static
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from portal.frame import styles

register = template.Library()

ICON_OF_STATE = {"ok": "ok", "run": "run", "info": "info", "warn": "warn", "bad": "bad", "none": "none"}

# value of a state field → (data-s, word, icon)
STATES = {
    "queued": ("info", "Queued", "queue"),
    "running": ("run", "Running", "run"),
    "succeeded": ("ok", "Succeeded", "ok"),
    "failed": ("bad", "Failed", "bad"),
    "cancelled": ("none", "Cancelled", "none"),
    "open": ("info", "Open", "info"),
    "started": ("info", "Draft", "saved"),
    "submitted": ("ok", "Submitted", "ok"),
    "skipped": ("none", "Skipped", "none"),
    "withdrawn": ("none", "Withdrawn", "none"),
    "draft": ("info", "Draft", "edit"),
    "reading": ("run", "Reading", "reading"),
    "paused": ("warn", "Paused", "warn"),
    "closed": ("none", "Closed", "lock"),
    "candidate": ("info", "Candidate", "info"),
    "validated": ("ok", "Validated", "ok"),
    "production": ("ok", "In production", "ok"),
    "retired": ("none", "Retired", "none"),
}


@register.simple_tag(name="styles")
def style_links() -> str:
    return format_html_join("\n", '<link rel="stylesheet" href="{}">', ((address,) for address in styles.addresses()))


@register.simple_tag
def icon(name: str) -> SafeString:
    return format_html('<svg class="i" aria-hidden="true"><use href="{}#i-{}"/></svg>', static("icons.svg"), name)


@register.simple_tag
def pill(status: str, text: str, icon_name: str = "") -> SafeString:
    shape = icon(icon_name or ICON_OF_STATE.get(status, "info"))
    return format_html('<span class="pill" data-s="{}">{}{}</span>', status, shape, text)


@register.simple_tag
def state(value: str) -> SafeString:
    return pill(*STATES.get(str(value), ("info", str(value).capitalize(), "info")))


@register.filter
def number(value, digits: int = 2) -> str:
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return "–"
    rounded = round(float(value), int(digits)) + 0.0  # no "−0.00"
    return f"{rounded:.{int(digits)}f}".replace("-", "−")


@register.filter
def p_value(value) -> str:
    """A p-value as papers print it."""
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


@register.filter
def percent(value) -> str:
    if value is None or value == "":
        return "–"
    share = 100 * float(value)
    return f"{share:.1f} %" if 0 < share < 1 else f"{share:.0f} %"


@register.simple_tag
def est(value, lower, upper, n, digits: int = 2, needs: int = 0) -> SafeString:
    """An estimate with its 95 % interval and n; "to" between bounds of which one is negative."""
    if value is None or (needs and (n or 0) < needs):
        detail = f"n={n or 0}" + (f", needs {needs}" if needs else "")
        return format_html('<span class="quiet">insufficient data ({})</span>', detail)
    if lower is None or upper is None:
        # For example DeLong's variance of a perfect separation: the figure exists, its interval does not.
        return format_html(
            '<span class="est"><b>{}</b> <span class="ci">no interval</span> <span class="n">n={}</span></span>',
            number(value, digits),
            n,
        )
    between = " to " if min(float(lower), float(upper)) < 0 else "–"
    return format_html(
        '<span class="est"><b>{}</b> <span class="ci">[{}{}{}]</span> <span class="n">n={}</span></span>',
        number(value, digits),
        number(lower, digits),
        between,
        number(upper, digits),
        n,
    )


@register.simple_tag
def est_of(entry: dict | None, digits: int = 2, needs: int = 0) -> SafeString:
    entry = entry or {}
    return est(entry.get("estimate"), entry.get("lower"), entry.get("upper"), entry.get("n"), digits, needs)


@register.inclusion_tag("components/progress.html")
def progress(fraction, text: str = "", right: str = "", label: str = "") -> dict:
    known = fraction is not None and fraction != ""
    value = round(100 * min(1.0, max(0.0, float(fraction)))) if known else 0
    return {"known": known, "value": value, "text": text, "right": right, "label": label or text or "Progress"}


@register.inclusion_tag("components/empty.html")
def empty(icon_name: str, title: str, text: str = "", url: str = "", action: str = "") -> dict:
    return {"icon_name": icon_name, "title": title, "text": text, "url": url, "action": action}


@register.inclusion_tag("components/failure.html")
def failure(title: str, cause: str = "", next_step: str = "", kept: str = "") -> dict:
    return {"title": title, "cause": cause, "next_step": next_step, "kept": kept}


@register.inclusion_tag("components/note.html")
def note(status: str, title: str, text: str = "") -> dict:
    return {"status": status, "title": title, "text": text, "shape": ICON_OF_STATE.get(status, "info")}


@register.simple_tag
def prov(who=None, when=None, what: str = "") -> SafeString:
    parts: list[str] = []
    if what:
        parts.append(format_html("<b>{}</b>", what))
    if who:
        parts.append(format_html("<b>{}</b>", who))
    if when:
        parts.append(moment(when))
    joined = format_html_join(" · ", "{}", ((part,) for part in parts))
    return format_html('<p class="prov">{}</p>', joined)


@register.inclusion_tag("components/thumb.html")
def thumb(url: str, width: int = 44, top: str = "", bottom: str = "") -> dict:
    return {"url": url, "width": width, "top": top, "bottom": bottom}


@register.inclusion_tag("components/field.html")
def field(bound) -> dict:
    """A form field; an error sits under it and is announced with it."""
    described = [f"{bound.auto_id}_hint"] if bound.help_text else []
    attributes = {}
    if bound.errors:
        described.append(f"{bound.auto_id}_error")
        attributes["aria-invalid"] = "true"
    if described:
        attributes["aria-describedby"] = " ".join(described)
    kind = getattr(bound.field.widget, "input_type", "")
    # An empty choice of a select says itself what happens without one.
    optional = not bound.field.required and not isinstance(bound.field.widget, Select)
    control = bound.as_widget(attrs=attributes)
    return {"field": bound, "control": control, "switch": kind == "checkbox", "optional": optional}


@register.inclusion_tag("components/chart.html")
def chart(name: str, spec: dict, label: str, height: int = 300, least: int = 300) -> dict:
    return {"name": name, "spec": spec, "label": label, "height": height, "least": least, "data_id": f"{name}-data"}


@register.filter
def duration(seconds) -> str:
    if seconds is None or seconds == "":
        return "–"
    whole = round(float(seconds))
    if whole < 60:
        return f"{whole} s" if whole or not seconds else f"{float(seconds):.1f} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


@register.filter
def day(value) -> str:
    if not value:
        return "–"
    if isinstance(value, datetime):
        value = timezone.localtime(value).date()
    return f"{value.day} {value:%b %Y}"


@register.filter
def moment(value) -> str:
    if not value:
        return "–"
    if not isinstance(value, datetime):
        return day(value) if isinstance(value, date) else str(value)
    local = timezone.localtime(value)
    return format_html('<time datetime="{}">{} {}</time>', local.isoformat(), day(local.date()), f"{local:%H:%M}")


@register.filter
def stamp(value) -> str:
    """To the second: when exactly something happened."""
    if not value:
        return "–"
    local = timezone.localtime(value)
    return format_html('<time datetime="{}">{} {}</time>', local.isoformat(), day(local.date()), f"{local:%H:%M:%S}")


@register.filter
def person_name(value: str) -> str:
    """A DICOM person name (PS3.5 6.2: family^given^middle^prefix^suffix, groups split by =) as people write it."""
    parts = str(value or "").split("=")[0].split("^")
    given = " ".join(part.strip() for part in parts[1:3] if part.strip())
    return ", ".join(part for part in (parts[0].strip(), given) if part)


@register.filter
def get(mapping, key):
    """mapping[key], or None: for keys that are known only at run time."""
    return mapping.get(key) if mapping else None


@register.filter
def case_level(figures: dict) -> list[dict]:
    """The two case-level entries of a structure's summary: sensitivity and specificity."""
    return [figures.get("case_sensitivity") or {}, figures.get("case_specificity") or {}]
