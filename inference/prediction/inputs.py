"""Which series of a study a model works on, and those series as images on one grid."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from inference.errors import PredictionError
from inference.registry import series_rule
from inference.registry.manifest import Manifest
from studies.dicom.volume import Volume
from studies.models import Origin, Series, Study
from studies.volumes import load_image, load_volume, load_with_headers

BY_HAND = "Choose the series by hand: “Run a model” on this study alone, or `inputs` over REST."
NAMED = 12  # series of a study that a message names


@dataclass(frozen=True)
class Loaded:
    """volume: what the first input sees; others: the further ones on its grid; how: what to keep of the choice;
    headers: of the first input's images, where they were read with them."""

    volume: Volume
    others: tuple[Volume, ...]
    how: list[dict[str, Any]]
    headers: list[Dataset] | None = None


def names(manifest: Manifest) -> list[str]:
    entries = manifest["inputs"]
    return [str(entry.get("name") or "image") for entry in entries]


def images_of(study: Study) -> list[Series]:
    """The acquired series of a study, those with most images first."""
    return list(study.series.filter(origin=Origin.ACQUIRED).order_by("-number_of_instances", "series_number", "pk"))


def choose(
    manifest: Manifest, study: Study, *, image: Series | None = None, by_hand: Mapping[str, int] | None = None
) -> list[Series]:
    """A series for each input of the model. image: the one to work on, where that is known; by_hand: input → series.

    A model of one input without a rule takes the series of its modality with most images. Raises `PredictionError`
    where a series is missing, or where more than one choice fits.
    """
    by_hand = by_hand or {}
    entries = manifest["inputs"]
    series = images_of(study)
    if not series and image is None:
        raise PredictionError("The study has no images.", "Import its images, or choose another study.")
    if len(entries) == 1 and not by_hand:
        return [image or _single(entries[0], study, series)]
    known = {one.pk: one for one in series}
    wanted: list[list[Series]] = []
    for number, (entry, name) in enumerate(zip(entries, names(manifest), strict=True)):
        if name in by_hand:
            if by_hand[name] not in known:
                raise PredictionError(
                    f"The series that was chosen for {name} is not in the study any more.", "Choose another one."
                )
            wanted.append([known[by_hand[name]]])
            continue
        found = candidates(entry, series)
        if number == 0 and image is not None and image in found:
            found = [image]
        if not found:
            raise PredictionError(f"No series fits the input {name}. {_contents(series)}", BY_HAND)
        wanted.append(found)
    options = list(islice(_options(wanted), 2))
    if not options:
        raise PredictionError(
            f"The study has no series of its own for each of {', '.join(names(manifest))}. {_contents(series)}", BY_HAND
        )
    if len(options) > 1:
        unclear = [
            name for name, one, other in zip(names(manifest), options[0], options[1], strict=True) if one.pk != other.pk
        ]
        raise PredictionError(f"More than one series fits {' and '.join(unclear)}. {_contents(series)}", BY_HAND)
    return options[0]


def candidates(entry: Mapping[str, Any], series: Sequence[Series]) -> list[Series]:
    """The series that fit one input: its modality and its rule."""
    accepted = entry.get("modality") or []
    found = [one for one in series if not accepted or one.modality in accepted]
    rule = entry.get("series")
    if not rule:
        return found
    keywords = series_rule.keywords(rule)
    return [one for one in found if series_rule.fits(rule, one.series_description, _attributes(one, keywords))]


def load(manifest: Manifest, chosen: Sequence[Series]) -> Loaded:
    """The images of the chosen series on the grid of the first. Raises `PredictionError`, `ImageError`."""
    from inference.imaging import registration

    whole = manifest["task"] != "segmentation"
    first_volume, headers = (load_image(chosen[0]), None) if whole else load_with_headers(chosen[0])
    volumes = [first_volume, *(load_image(series) if whole else load_volume(series) for series in chosen[1:])]
    if len(volumes) == 1:
        return Loaded(volumes[0], (), [], headers)
    first, fixed = chosen[0], volumes[0]
    how: list[dict[str, Any]] = [{"name": names(manifest)[0], "series": first.pk, "placed": "as it is"}]
    placed = []
    for entry, name, series, moving in zip(
        manifest["inputs"][1:], names(manifest)[1:], chosen[1:], volumes[1:], strict=True
    ):
        transform, word = None, "by geometry"
        if not first.frame_of_reference_uid or series.frame_of_reference_uid != first.frame_of_reference_uid:
            if entry.get("registration", "none") != "rigid":
                raise PredictionError(
                    f"The series for {name} lies in another frame of reference than the one for {names(manifest)[0]}, "
                    "so nothing says how they fit together.",
                    "Choose series of one examination, or register them first. A model whose manifest says "
                    "registration: rigid for this input aligns them by itself.",
                )
            transform, word = registration.rigid(moving, fixed), "by rigid registration"
        placed.append(registration.on_grid(moving, fixed, transform))
        how.append({"name": name, "series": series.pk, "placed": word})
    return Loaded(fixed, tuple(placed), how, headers)


def _single(entry: Mapping[str, Any], study: Study, series: Sequence[Series]) -> Series:
    found = candidates(entry, series)
    if not entry.get("series"):
        return found[0] if found else series[0]
    if not found:
        raise PredictionError(f"No series fits the input {entry.get('name', 'image')}. {_contents(series)}", BY_HAND)
    if len(found) > 1:
        raise PredictionError(f"More than one series fits {entry.get('name', 'image')}. {_contents(series)}", BY_HAND)
    return found[0]


def _options(wanted: Sequence[Sequence[Series]], chosen: tuple[Series, ...] = ()) -> Iterator[list[Series]]:
    """The ways to give every input a series of its own."""
    if len(chosen) == len(wanted):
        yield list(chosen)
        return
    for series in wanted[len(chosen)]:
        if all(series.pk != one.pk for one in chosen):
            yield from _options(wanted, (*chosen, series))


def _contents(series: Sequence[Series]) -> str:
    """What a study has, in words: a description is written by the scanner, not by the patient's name."""
    told = [
        f"{one.series_description or 'without description'} ({one.modality or 'unknown modality'}, "
        f"{one.number_of_instances} image{'' if one.number_of_instances == 1 else 's'})"
        for one in series[:NAMED]
    ]
    more = f" and {len(series) - NAMED} more" if len(series) > NAMED else ""
    return f"The study has: {'; '.join(told)}{more}."


def _attributes(series: Series, keywords: set[str]) -> dict[str, list[Any]]:
    """Values of the first object's header by keyword."""
    if not keywords:
        return {}
    header = series.instances.order_by("instance_number", "pk").values_list("header", flat=True).first()
    told = json.loads(header) if header else {}
    return {keyword: _values(told, keyword) for keyword in keywords}


def _values(header: Mapping[str, Any], keyword: str) -> list[Any]:
    tag = tag_for_keyword(keyword)
    found = header.get(f"{tag:08X}", {}) if tag is not None else {}
    values: list[Any] = found.get("Value", [])
    return [value.get("Alphabetic", "") if isinstance(value, dict) else value for value in values]
