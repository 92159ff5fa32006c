"""Another transfer syntax than the stored one: uncompressed little endian, made by pydicom's decoders."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.uid import UID, ExplicitVRLittleEndian

from studies.dicom.rendering import decoded
from studies.dicom.vr import EXPLICIT_LE
from studies.dicomweb.answers import Payload
from studies.dicomweb.negotiation import DICOM
from studies.dicomweb.problems import Problem
from studies.models import Instance

MAX_TRANSCODED = 1 << 30


def instance(stored: Payload, row: Instance, wanted: str) -> Payload:
    """The stored object, or its uncompressed form where exactly that is asked for. Raises `Problem` 406."""
    if wanted in ("", "*", row.transfer_syntax_uid):
        return stored
    if wanted != EXPLICIT_LE:
        raise Problem(
            406, f"The object is stored as {row.transfer_syntax_uid}; only that and {EXPLICIT_LE} are offered."
        )
    if row.file_size > MAX_TRANSCODED:
        raise Problem(406, "The object is too large to be decompressed on the way; ask for transfer-syntax=*.")
    source = io.BytesIO(stored.data) if stored.data is not None else stored.path
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = dcmread(source)  # type: ignore[arg-type]
            if UID(row.transfer_syntax_uid).is_compressed and not row.transfer_syntax_uid.endswith(".1.99"):
                dataset.decompress(generate_instance_uid=False)
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            out = io.BytesIO()
            dataset.save_as(out, implicit_vr=False, little_endian=True, enforce_file_format=True)
    except Exception as error:  # decoders raise whatever they like on bytes they cannot decode
        raise Problem(406, f"The pixel data cannot be decompressed ({type(error).__name__}).") from error
    return Payload(f"{DICOM}; transfer-syntax={EXPLICIT_LE}", data=out.getvalue(), location=stored.location)


def decoded_frame(path: Path, index: int) -> bytes:
    """Frame `index` (from 0) of a compressed object as little-endian bytes. Raises `Problem` 406."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            frame = decoded(path, index, raw=True)
    except Exception as error:
        raise Problem(406, f"The frame cannot be decompressed ({type(error).__name__}).") from error
    return np.ascontiguousarray(frame, frame.dtype.newbyteorder("<")).tobytes()
