"""Stored objects on their way out: byte for byte where the peer takes their transfer syntax, else uncompressed."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.db.models import QuerySet
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom.association import Association

from studies.dicom.vr import EXPLICIT_LE
from studies.dicomweb import transcoding
from studies.dicomweb.answers import Payload
from studies.dicomweb.negotiation import DICOM
from studies.dimse.network import NATIVE
from studies.ingest import store
from studies.models import Instance

SendStore = Callable[..., Dataset]
_COLUMNS = ("pk", "sop_class_uid", "sop_instance_uid", "transfer_syntax_uid", "file", "file_size")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What sending needs of a row, so that a long list costs little."""

    pk: int
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    file: str
    file_size: int


class NotTransferable(Exception):
    """The peer takes no transfer syntax in which the object can be had."""


def outgoing(rows: QuerySet[Instance]) -> list[Outgoing]:
    return [Outgoing(*values) for values in rows.values_list(*_COLUMNS)]


def kinds(objects: list[Outgoing]) -> set[tuple[str, str]]:
    return {(one.sop_class_uid, one.transfer_syntax_uid) for one in objects}


def send(assoc: Association, send_c_store: SendStore, one: Outgoing, **how: Any) -> Dataset:
    """C-STORE one object; returns the status data set, empty where the peer fell silent. Raises NotTransferable."""
    accepted = {
        context.transfer_syntax[0]
        for context in assoc.accepted_contexts
        if context.abstract_syntax == one.sop_class_uid and context.as_scu and context.transfer_syntax
    }
    path = store.absolute_path(one.file)
    if one.transfer_syntax_uid in accepted:
        try:
            return send_c_store(path, **how)
        except AttributeError:  # a file whose meta header is not whole
            return send_c_store(dcmread(path), **how)
    if not accepted & set(NATIVE):
        raise NotTransferable(one.transfer_syntax_uid)
    row = Instance(transfer_syntax_uid=one.transfer_syntax_uid, file_size=one.file_size)
    stored = Payload(DICOM, path=path, pieces=((0, one.file_size),))
    plain = transcoding.instance(stored, row, EXPLICIT_LE)
    source = io.BytesIO(plain.data) if plain.data is not None else path
    return send_c_store(dcmread(source), **how)  # type: ignore[arg-type]  # pynetdicom makes it implicit where needed


class Parcel(Dataset):
    """Stands for an object in the list that pynetdicom works through for C-MOVE and C-GET; nothing is read for it."""

    def __init__(self, one: Outgoing) -> None:
        super().__init__()
        self.SOPInstanceUID = one.sop_instance_uid
        self.one = one


def unpacking(assoc: Association, **always: Any) -> SendStore:
    """A `send_c_store` that sends a parcel's object in a form which this peer accepts."""
    original: SendStore = type(assoc).send_c_store.__get__(assoc)

    def send_parcel(dataset: Any, **how: Any) -> Dataset:
        if isinstance(dataset, Parcel):
            return send(assoc, original, dataset.one, **{**how, **always})
        return original(dataset, **how)

    return send_parcel
