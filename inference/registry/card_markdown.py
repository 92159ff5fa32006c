"""A model card as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def markdown(card: dict[str, Any]) -> str:
    """The card of `inference.registry.card.card_of` as one Markdown document."""
    model = card["model"]
    parts = [
        f"# Model card: {_plain(model['name'])}, version {model['version']}",
        f"{card['use']}",
        _table(
            ("", ""),
            [
                ("Task", model["task"]),
                ("Project", model["project"]),
                ("Stage", model["stage"]),
                ("Made", f"{model['made_at'][:10]} by {model['made_by'] or 'the portal'}"),
                ("Digest", f"sha256 {model['digest']}"),
                ("Text", _written(card["revision"])),
            ],
        ),
    ]
    for section in card["sections"]:
        parts += [f"## {section['title']}", _quoted(section["text"]) if section["text"] else "Not stated."]
    parts += ["## Inputs", _inputs(card["inputs"]), "## Outputs", _outputs(card["outputs"])]
    parts += ["## Training", *_training(card["training"]), "## Results", *_results(card["results"])]
    if card["stages"]:
        rows = [(row["at"][:10], f"{row['from']} → {row['to']}", row["by"], row["reason"]) for row in card["stages"]]
        parts += ["## Stages", _table(("When", "Stage", "Signed by", "Why"), rows)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _written(revision: dict[str, Any]) -> str:
    if not revision["number"]:
        return "as it came with the bundle"
    return f"revision {revision['number']} by {revision['by']}, {revision['at'][:10]}"


def _inputs(inputs: dict[str, Any]) -> str:
    rows = [
        (
            entry["name"],
            " or ".join(entry["modality"]) or "any",
            "×".join(map(str, entry["smallest"])) if entry["smallest"] else "",
        )
        for entry in inputs["images"]
    ]
    steps = "; ".join(
        " ".join([str(step.get("name")), *(f"{key} {value}" for key, value in step.items() if key != "name")])
        for step in inputs["preprocessing"]
    )
    made = _table(("Input", "Modality", "Smallest, voxels (z, y, x)"), rows)
    return f"{made}\n\nPreprocessing: {_plain(steps) or 'none'}."


def _outputs(outputs: dict[str, Any]) -> str:
    rows = [
        (label["number"], label["name"], label["unit"] or "", outputs["thresholds"].get(label["name"], ""))
        for label in outputs["labels"]
    ]
    made = _table(("Number", "Label", "Unit", "Threshold"), rows)
    return f"{made}\n\nThey exclude each other; the likeliest counts." if outputs["exclusive"] else made


def _training(training: dict[str, Any]) -> list[str]:
    if not training["known"]:
        rows = [(key.replace("_", " "), value) for key, value in training["told"].items()]
        return [training["reason"], _table(("", ""), rows) if rows else ""]
    parts = []
    for run in training["runs"]:
        parts.append(
            f"{_plain(run['version'])}: cohort {_plain(run['cohort'])} (digest {run['cohort_digest'][:12]}), reference "
            f"standard {_plain(run['reference'])} ({_plain(run['reference_source'])})."
        )
        people = [(name, told(run["learned_from"]), told(run["chosen_by"])) for name, told in COMPOSITION.items()]
        parts.append(_table(("", "Learned from", "Chosen by (validation)"), people))
    return parts


def _age(people: dict[str, Any]) -> str:
    age = people["age"]
    if not age["known"]:
        return "unknown"
    return f"median {age['median']}, {age['youngest']} to {age['oldest']} (known of {age['known']})"


def _sex(people: dict[str, Any]) -> str:
    return ", ".join(f"{count} {name}" for name, count in people["sex"].items() if count) or "unknown"


COMPOSITION: dict[str, Callable[[dict[str, Any]], str]] = {
    "Cases": lambda people: str(people["cases"]),
    "Patients": lambda people: str(people["patients"]),
    "Sex": _sex,
    "Age, years": _age,
    "Modalities": lambda people: ", ".join(f"{name} {count}" for name, count in people["modalities"].items()) or "–",
    "Scanners": lambda people: ", ".join(people["scanners"]) or "unknown",
    "Sites": lambda people: ", ".join(people["sites"]) or "unknown",
    "Years": lambda people: "–".join(map(str, people["years"])) or "unknown",
    "Synthetic": lambda people: f"{people['synthetic']} of {people['cases']} cases" if people["synthetic"] else "none",
}


def _results(results: list[dict[str, Any]]) -> list[str]:
    if not results:
        return ["Not evaluated."]
    parts = []
    for one in results:
        shared = "; ".join(one["shared"]) or (
            "nothing is shared with the training data" if one["shared_known"] else "what is shared is not recorded"
        )
        parts.append(
            f"### {_plain(one['cohort'])}, {one['part'].lower()}\n\nReference standard {_plain(one['reference'])} "
            f"({_plain(one['reference_source'])}), {one['at'][:10]}; {_plain(shared)}."
        )
        if one["matching"]:
            parts.append(one["matching"])
        rows = [
            (row["structure"], row["figure"], _number(row["estimate"]), _interval(row), row["n"],
             row["method"] or row["reason"] or "")
            for row in one["figures"]
        ]  # fmt: skip
        parts.append(_table(("Structure", "Figure", "Estimate", "95 % interval", "n", "Method"), rows))
    return parts


def _interval(row: dict[str, Any]) -> str:
    if row["estimate"] is None or row["lower"] is None or row["upper"] is None:
        return "no interval"
    return f"{_number(row['lower'])} to {_number(row['upper'])}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}".replace("-", "−")


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *[[_plain(cell) for cell in row] for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: Any) -> str:
    """Text as text: nothing in it is taken for Markdown or HTML, and it stays in its cell."""
    made = " ".join(str(text).split())
    for sign in "\\`*_[]<>|#":
        made = made.replace(sign, f"\\{sign}" if sign not in "<>" else {"<": "&lt;", ">": "&gt;"}[sign])
    return made


def _quoted(text: str) -> str:
    """Paragraphs that people wrote, as quotation, so that they cannot pass for a generated part."""
    return "\n".join(f"> {_plain(line)}".rstrip() for line in text.splitlines())
