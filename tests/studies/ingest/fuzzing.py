"""Mutated files through everything that reads them: store, pictures, DICOM JSON, volumes, comparison, the check."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field

from portal.accounts.models import Project
from studies.dicom import part10
from studies.dicom.comparison import differences
from studies.dicom.errors import ImageError
from studies.dicom.rendering import RenderError, encode, render
from studies.ingest import checking, store
from studies.models import ImportBatch, Instance, Refusal
from studies.volumes import load_volume
from tests.studies.ingest.mutations import mutated, originals

SLOW = 10.0  # seconds for one file


@dataclass
class Figures:
    outcomes: Counter[str] = field(default_factory=Counter)
    pictures: Counter[str] = field(default_factory=Counter)
    crashes: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    slowest: float = 0.0


def fuzz(project: Project, seeds: range, figures: Figures | None = None) -> Figures:
    """Import a file for each seed. Crashes, slow files and lost bytes are listed by their seed."""
    found = figures or Figures()
    files = originals()
    batch = store.open_batch(project, ImportBatch.Source.COMMAND)
    for seed in seeds:
        data = mutated(files, seed)
        began = time.monotonic()
        try:
            _one(project, batch, data, found, seed)
        except Exception as error:
            found.crashes.append(f"seed {seed}: {type(error).__name__}: {str(error)[:200]}")
        spent = time.monotonic() - began
        found.slowest = max(found.slowest, spent)
        if spent > SLOW:
            found.slow.append(f"seed {seed}: {spent:.1f} s")
    return found


def _one(project: Project, batch: ImportBatch, data: bytes, found: Figures, seed: int) -> None:
    outcome = store.store_file(data, batch=batch, name=f"{seed}.dcm")
    found.outcomes[outcome.code or outcome.state.value] += 1
    if outcome.refused:
        _refused(outcome, data, found, seed)
        return
    instance = Instance.objects.select_related("series__study").get(pk=outcome.instance.pk)  # type: ignore[union-attr]
    path = store.absolute_path(instance.file)
    if hashlib.sha256(path.read_bytes()).hexdigest() != instance.sha256 or not path.read_bytes().endswith(data[132:]):
        found.lost.append(f"seed {seed}: the stored bytes are not those that were sent")
    json.loads(instance.header)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if instance.number_of_frames:
            try:
                encode(render(path), size=(64, 64))
                found.pictures["drawn"] += 1
            except RenderError:
                found.pictures["cannot be drawn"] += 1
            with contextlib.suppress(ImageError):
                load_volume(instance.series)


def _refused(outcome: store.Outcome, data: bytes, found: Figures, seed: int) -> None:
    refusal = Refusal.objects.latest("pk")
    if not outcome.reason or refusal.code != outcome.code:
        found.lost.append(f"seed {seed}: refused without a reason")
    if refusal.file:
        path = checking.quarantined(refusal.file)
        if not path.read_bytes().endswith(data[132:]):
            found.lost.append(f"seed {seed}: the kept bytes are not those that were sent")
        if outcome.code == "conflict":
            held = Instance.objects.get(project=refusal.batch.project_id, sop_instance_uid=outcome.sop_instance_uid)
            with part10.mapped(store.absolute_path(held.file)) as a, part10.mapped(path) as b:
                differences(part10.walk(a), part10.walk(b))
    elif outcome.code not in ("empty", "not_dicom", "dicomdir"):
        found.lost.append(f"seed {seed}: refused as {outcome.code}, and not kept")
