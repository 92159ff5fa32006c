"""STOW-RS: objects in (PS3.18 10.5). Parts go straight to disk; the answer comes when all of them are safe."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from django.http import HttpRequest, HttpResponse, JsonResponse

from studies.dicomweb import addresses, multipart
from studies.dicomweb.negotiation import DICOM, JSON
from studies.dicomweb.problems import Problem
from studies.dicomweb.scope import Scope, StoreTarget
from studies.ingest import limits, store
from studies.ingest.outcome import Outcome, Refused, State
from studies.ingest.staging import Staged, incoming, stage
from studies.models import ImportBatch, Origin

# Failure reasons of PS3.18 table 10.5.3-2 and PS3.7 annex C.
_REASONS = {
    "conflict": 0x0111,  # duplicate SOP instance
    "forbidden": 0x0124,
    "wrong_study": 0xA900,
    "patient_mismatch": 0xA900,
    "series_mismatch": 0xA900,
    "too_large": 0xA700,
    "no_space": 0xA700,
}
_CANNOT_UNDERSTAND = 0xC000


class _Stored(NamedTuple):
    """What the answer says of an object that is in the archive now."""

    study: str
    series: str
    sop_class: str
    sop_instance: str


class _Conversation:
    """One request: objects by target, stored a group at a time."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.groups: dict[StoreTarget, store.Group] = {}
        self.batches: dict[tuple[int, str], ImportBatch] = {}
        self.stored: list[_Stored] = []
        self.failed: list[Outcome] = []
        self.denied: Problem | None = None
        self.received = 0

    def add(self, part: multipart.Part, study: str | None) -> None:
        self.received += 1
        entry = store.stage_written(part.path, f"part {self.received}", part.size, part.sha256)
        if not isinstance(entry, Staged):
            self._unreadable(*entry)
            return
        assert self.scope.store_target is not None
        try:
            target = self.scope.store_target(entry.header)
        except Problem as problem:
            self.denied = problem
            self._drop(entry, "forbidden", problem.detail)
            return
        if study is not None and entry.header.study_instance_uid != study:
            self._wrong_study(entry, target)
            return
        if self.scope.amend is not None:
            try:
                entry = _amended(entry, self.scope.amend)
            except Refused as refusal:
                self._only_answer(entry.name, refusal)
                return
        self._put(target, entry)

    def _put(self, target: StoreTarget, entry: Staged | tuple[str, Refused]) -> None:
        group = self.groups.setdefault(target, store.Group())
        group.add(entry)
        if group.full:
            self._store(target)

    def close(self) -> None:
        for target in list(self.groups):
            self._store(target)

    def discard(self) -> None:
        """Drop what was received but not stored; the client is told that the request failed and sends it again."""
        for group in self.groups.values():
            for entry in group.entries:
                _forget(entry.path if isinstance(entry, Staged) else entry[1].path)

    def _store(self, target: StoreTarget) -> None:
        group = self.groups.pop(target)
        source = ImportBatch.Source.READING if target.origin == Origin.DRAFT else ImportBatch.Source.STOW
        batch = self.batches.get((target.project.pk, source))
        if batch is None:
            batch = ImportBatch(project=target.project, source=source, created_by=self.scope.user)
            self.batches[target.project.pk, source] = batch
        for outcome in store.store_staged(
            group.entries,
            batch=batch,
            origin=target.origin,
            created_by=target.created_by,
            provenance=target.provenance,
        ):
            if outcome.instance is None:
                self.failed.append(outcome)
            else:
                series = outcome.instance.series.series_instance_uid
                uids = (outcome.study_instance_uid, series, outcome.sop_class_uid, outcome.sop_instance_uid)
                self.stored.append(_Stored(*uids))

    def _drop(self, entry: Staged, code: str, reason: str) -> None:
        """An object that this user may not store here leaves nothing behind."""
        entry.path.unlink(missing_ok=True)
        header = entry.header
        self.failed.append(
            Outcome(
                State.REFUSED,
                entry.name,
                code=code,
                reason=reason,
                study_instance_uid=header.study_instance_uid,
                sop_class_uid=header.sop_class_uid,
                sop_instance_uid=header.sop_instance_uid,
            )
        )

    def _wrong_study(self, entry: Staged, target: StoreTarget) -> None:
        reason = "The object belongs to another study than the address says."
        if self.scope.amend is not None:  # its bytes are not those that the archive would keep
            self._drop(entry, "wrong_study", reason)
            return
        refusal = Refused("wrong_study", reason)
        refusal.path, refusal.header = entry.path, entry.header
        self._put(target, (entry.name, refusal))

    def _unreadable(self, name: str, refusal: Refused) -> None:
        """Bytes that are no object name no study; they are kept where the project is certain all the same."""
        target = self.scope.unreadable_target()
        if target is not None:
            self._put(target, (name, refusal))
            return
        refusal.reason += " Nothing was kept of it: only /dicomweb/projects/<slug>/studies says into whose quarantine."
        self._only_answer(name, refusal)

    def _only_answer(self, name: str, refusal: Refused) -> None:
        _forget(refusal.path)
        self.failed.append(Outcome(State.REFUSED, name, code=refusal.code, reason=refusal.reason))


def _forget(path: Path | None) -> None:
    if path is not None:
        path.unlink(missing_ok=True)


def _amended(entry: Staged, amend: Callable[[Path], bytes]) -> Staged:
    try:
        return stage(amend(entry.path), entry.name)
    finally:
        entry.path.unlink(missing_ok=True)


def store_instances(request: HttpRequest, scope: Scope, study: str | None = None) -> HttpResponse:
    if scope.store_target is None:
        raise Problem(403, "Nothing can be stored here.")
    conversation = _Conversation(scope)
    count = 0
    try:
        for part in _parts(request):
            count += 1
            if count > limits.MAX_PARTS:
                part.path.unlink(missing_ok=True)
                raise Problem(413, f"The request has more than {limits.MAX_PARTS:,} parts. Send several requests.")
            kind = part.kind.split(";")[0].strip().lower()
            if kind and kind != DICOM:
                part.path.unlink(missing_ok=True)
                raise Problem(415, f"Part {count} is {kind[:60]}; only {DICOM} is taken.")
            conversation.add(part, study)
        conversation.close()
    except BaseException:
        conversation.discard()
        raise
    if not count:
        raise Problem(400, "The body has no part.")
    return _answer(request, conversation, study)


def _parts(request: HttpRequest) -> Iterator[multipart.Part]:
    header = request.META.get("CONTENT_TYPE", "")
    kind = header.split(";")[0].strip().lower()
    # Django reads no more than Content-Length says; a chunked body has none.
    chunked = "chunked" in request.META.get("HTTP_TRANSFER_ENCODING", "").lower()
    stream: Any = request.META["wsgi.input"] if chunked else request
    if kind == "multipart/related":
        return multipart.receive(stream, multipart.boundary_of(header), incoming)
    if kind == DICOM:
        return _alone(stream)
    raise Problem(415, f'Send multipart/related; type="{DICOM}", or one object as {DICOM}.')


def _alone(stream: Any) -> Iterator[multipart.Part]:
    path, digest, size = incoming(), hashlib.sha256(), 0
    try:
        with open(path, "wb") as out:
            while piece := stream.read(multipart.CHUNK):
                size += len(piece)
                if size > limits.MAX_FILE:
                    raise Problem(413, f"The object is larger than {limits.MAX_FILE:,} bytes.")
                digest.update(piece)
                out.write(piece)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    yield multipart.Part(DICOM, path, size, digest.hexdigest())


def _answer(request: HttpRequest, conversation: _Conversation, study: str | None) -> HttpResponse:
    """PS3.18 table 10.5.3-1: 200 all stored, 202 some, 409 none (403 where nothing was allowed)."""
    base = addresses.root(request, conversation.scope.base_path)
    done, failed = conversation.stored, conversation.failed
    body: dict[str, Any] = {}
    studies = {stored.study for stored in done}
    if len(studies) == 1:
        body["00081190"] = {"vr": "UR", "Value": [f"{base}/studies/{studies.pop()}"]}
    if failed:
        body["00081198"] = {"vr": "SQ", "Value": [_failure(outcome) for outcome in failed]}
    if done:
        body["00081199"] = {"vr": "SQ", "Value": [_success(stored, base) for stored in done]}
    status = 200 if not failed else 202 if done else 409
    if conversation.denied is not None and not done and all(outcome.code == "forbidden" for outcome in failed):
        status = conversation.denied.status
        body["detail"] = conversation.denied.detail
    return JsonResponse(body, status=status, content_type=JSON if "detail" not in body else "application/json")


def _success(stored: _Stored, base: str) -> dict[str, Any]:
    address = addresses.instance(base, stored.study, stored.series, stored.sop_instance)
    return {**_reference(stored.sop_class, stored.sop_instance), "00081190": {"vr": "UR", "Value": [address]}}


def _failure(outcome: Outcome) -> dict[str, Any]:
    reason = _REASONS.get(outcome.code, _CANNOT_UNDERSTAND)
    return {
        **_reference(outcome.sop_class_uid, outcome.sop_instance_uid),
        "00081197": {"vr": "US", "Value": [reason]},
        "00000902": {"vr": "LO", "Value": [f"{outcome.code}: {outcome.reason}"]},
    }


def _reference(sop_class: str, sop_instance: str) -> dict[str, Any]:
    found = {}
    if sop_class:
        found["00081150"] = {"vr": "UI", "Value": [sop_class]}
    if sop_instance:
        found["00081155"] = {"vr": "UI", "Value": [sop_instance]}
    return found
