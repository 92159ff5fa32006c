"""An exception as words: what stopped the job and what to do next, without a patient's identity."""

from __future__ import annotations

import errno
import re
import traceback
from dataclasses import dataclass

from django.core.exceptions import ObjectDoesNotExist
from django.db import Error as DatabaseError
from django.db.models import F, Value
from django.db.models.functions import Length, Replace, StrIndex

from inference.jobs.durations import duration
from inference.jobs.errors import JobError
from studies.models import Patient

SHORTEST_IDENTITY = 4  # a patient ID of three characters would blank out half of a traceback
OUT_OF_MEMORY = re.compile(
    r"out of memory|not enough memory|cannot allocate memory|can't allocate memory|STATUS_ALLOC_FAILED", re.I
)
ON_A_CARD = re.compile(r"\b(cuda|cudnn|cublas|hip|rocm|xpu|mps)|CUBLAS_|CUDNN_", re.I)
LESS_MEMORY = "Use a smaller patch or batch, close other jobs on this machine, or run it on a larger one."


@dataclass(frozen=True)
class Failure:
    error_class: str
    cause: str
    next_step: str
    traceback: str = ""


def explain(error: BaseException, *, project_id: int) -> Failure:
    """What to tell people about `error`; a traceback only where the error was not foreseen."""
    name = type(error).__name__
    cause, next_step = getattr(error, "cause", ""), getattr(error, "next_step", "")
    if isinstance(error, JobError) or (isinstance(cause, str) and isinstance(next_step, str) and cause):
        return Failure(name, cause, next_step)  # the house's own errors come with words
    trace = without_identity(trace_of(error), project_id)
    if is_out_of_memory(error):
        return Failure(name, f"The {short_device(error)} ran out of memory.", LESS_MEMORY, trace)
    if is_disk_full(error):
        return Failure(
            name, "The disk is full.", "Free space in the portal's data folder, then run the job again.", trace
        )
    if isinstance(error, ObjectDoesNotExist):
        return Failure(
            name,
            f"Something that the job needs was deleted in the meantime: {without_identity(str(error), project_id)}",
            "Start the job anew with what exists now.",
            trace,
        )
    message = without_identity(message_of(error), project_id)
    return Failure(
        name,
        f"An error that was not foreseen stopped the job: {name}{': ' + message if message else ''}",
        "Run it again. If it fails in the same way, show the job's log to the administrator: it holds the details.",
        trace,
    )


def too_long(time_limit: float | None) -> Failure:
    return Failure(
        "TimeLimitReached",
        f"The job took longer than its time limit of {duration(time_limit or 0)}.",
        "Give it less to do (fewer studies, fewer epochs), or ask the administrator to raise the limit.",
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Also of a graphics card of any make: torch raises `OutOfMemoryError` for all, its libraries a RuntimeError."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error)) is not None


def short_device(error: BaseException) -> str:
    """Whose memory an out-of-memory error means: that of the graphics card, or of the machine."""
    card = type(error).__name__ == "OutOfMemoryError" or ON_A_CARD.search(str(error)) is not None
    return "graphics card" if card else "machine"


def is_disk_full(error: BaseException) -> bool:
    """Full, over a quota, or over the largest size of a file that this process may write."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, OSError) and chain.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        chain = chain.__cause__ or chain.__context__
    return False


def message_of(error: BaseException) -> str:
    """The error's first line. A database error repeats row values in its DETAIL, which is left out."""
    lines = str(error).strip().splitlines()
    return lines[0][:500] if lines else ""


def trace_of(error: BaseException) -> str:
    parts = traceback.format_exception(error)
    text = "".join(parts)
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, DatabaseError) or type(chain).__module__.startswith("psycopg"):
            text = text.replace(str(chain), message_of(chain))
        chain = chain.__cause__ or chain.__context__
    return text


def without_identity(text: str, project_id: int) -> str:
    """`text` with the names and IDs of the project's patients replaced."""
    if not text:
        return text
    patients = Patient.objects.filter(project_id=project_id)
    found: set[str] = set()
    for field in ("patient_id", "patient_name"):
        found.update(
            patients.annotate(length=Length(field), at=StrIndex(Value(text), F(field)))
            .filter(length__gte=SHORTEST_IDENTITY, at__gt=0)
            .values_list(field, flat=True)[:1000]
        )
    spoken = Replace(F("patient_name"), Value("^"), Value(" "))
    found.update(
        patients.annotate(spoken=spoken, length=Length("patient_name"), at=StrIndex(Value(text), spoken))
        .filter(length__gte=SHORTEST_IDENTITY, at__gt=0)
        .values_list("spoken", flat=True)[:1000]
    )
    for identity in sorted(found, key=len, reverse=True):
        text = text.replace(identity, "[patient]")
    return text
