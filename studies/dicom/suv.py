"""Standardised uptake values by body weight of PET images.

After the vendor-neutral procedure of QIBA's FDG-PET/CT profile (SUV technical subgroup, "SUV calculation"): the
modality values (Bq/ml, rescaled slice by slice) times `factor` are SUVbw in g/ml. The times of an object carry no zone
that matters here, as all of them come from one scanner.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Any

from pydicom.dataset import Dataset
from pydicom.valuerep import DA, DT, TM

from studies.dicom.errors import PixelError

LEAST_DOSE = 1e5  # Bq; less is a dose given in MBq by mistake
LONGEST_WAIT = timedelta(hours=24)

_PHILIPS = "Philips PET Private Group"
_GE = "GEMS_PETD_01"


def factor(dataset: Dataset) -> float:
    """What turns modality values of a PET image into SUVbw (g/ml).

    Raises `PixelError` (code `suv`) where the object does not say what is needed.
    """
    units = str(dataset.get("Units", "")).upper()
    if units == "GML":  # SUVType absent: body weight (PS3.3 C.8.9.1.1.3)
        kind = str(dataset.get("SUVType") or "BW").upper()
        if kind != "BW":
            raise _missing(f"The values are SUV by {kind}, not by body weight.")
        return 1.0
    if units == "CNTS":
        scale = _private(dataset, 0x7053, _PHILIPS, 0x00)
        if scale:
            return scale
        concentration = _private(dataset, 0x7053, _PHILIPS, 0x09)
        if not concentration:
            raise _missing("The values are counts, and Philips' private scale factors are absent.")
        return concentration * _per_activity(dataset)
    if units != "BQML":
        raise _missing(f"Values in {units or 'unknown units'} cannot be turned into SUV.")
    return _per_activity(dataset)


def _per_activity(dataset: Dataset) -> float:
    """g/Bq: body weight over the dose that is left at the time to which the image is corrected."""
    corrected = {str(word) for word in _many(dataset.get("CorrectedImage"))}
    if not {"ATTN", "DECY"} <= corrected:
        raise _missing("The image is not corrected for attenuation and decay.")
    weight = _positive(dataset.get("PatientWeight"), "The patient's weight")
    item = (dataset.get("RadiopharmaceuticalInformationSequence") or [None])[0]
    if item is None:
        raise _missing("The radiopharmaceutical is not described.")
    dose = _positive(item.get("RadionuclideTotalDose"), "The injected dose")
    if dose < LEAST_DOSE:
        raise _missing(f"An injected dose of {dose:g} Bq is implausible; it was probably given in MBq.")
    correction = str(dataset.get("DecayCorrection", "")).upper()
    if correction == "ADMIN":
        return weight * 1000.0 / dose
    if correction != "START":
        raise _missing("To which time decay was corrected is not said (Decay Correction).")
    half_life = _positive(item.get("RadionuclideHalfLife"), "The half-life")
    waited = _waited(dataset, item, half_life)
    return weight * 1000.0 / (dose * 2.0 ** (-waited / half_life))


def _waited(dataset: Dataset, item: Dataset, half_life: float) -> float:
    """Seconds from the injection to the time to which the images of the series are corrected."""
    scan = _scan_time(dataset, half_life)
    start = _moment(item.get("RadiopharmaceuticalStartDateTime"))
    if start is None:
        time = item.get("RadiopharmaceuticalStartTime")
        if not time:
            raise _missing("The time of injection is absent.")
        start = _combined(scan.strftime("%Y%m%d"), time)
        if start is not None and start > scan:
            start -= timedelta(days=1)  # injected before midnight, scanned after it
    if start is None or not timedelta(0) <= scan - start < LONGEST_WAIT:
        raise _missing("The time between injection and scan is not plausible.")
    return (scan - start).total_seconds()


def _scan_time(dataset: Dataset, half_life: float) -> datetime:
    """The start of the scan. The series' time is it, unless the series was made later than its images."""
    series = _combined(dataset.get("SeriesDate"), dataset.get("SeriesTime"))
    acquired = _combined(dataset.get("AcquisitionDate") or dataset.get("SeriesDate"), dataset.get("AcquisitionTime"))
    if series is not None and (acquired is None or series <= acquired):
        return series
    private = _moment(_private_value(dataset, 0x0009, _GE, 0x0D))
    if private is not None:
        return private
    if acquired is None:
        raise _missing("The time of the scan is absent.")
    reference, duration = dataset.get("FrameReferenceTime"), dataset.get("ActualFrameDuration")
    if reference is None or not duration:
        raise _missing("The series was made after the scan, and when the scan began is not said.")
    decay = math.log(2) / half_life
    during = decay * float(duration) / 1000.0
    average = math.log(during / -math.expm1(-during)) / decay
    return acquired - timedelta(seconds=float(reference) / 1000.0 - average)


def _combined(date: Any, time: Any) -> datetime | None:
    try:
        day, clock = DA(date), TM(time)
    except (ValueError, TypeError):
        return None
    return datetime.combine(day, clock) if day and clock else None


def _moment(value: Any) -> datetime | None:
    try:
        found = DT(value.decode("latin-1").strip(" \0") if isinstance(value, bytes) else value)
    except (ValueError, TypeError):
        return None
    return datetime(*found.timetuple()[:6], found.microsecond) if found else None


def _private_value(dataset: Dataset, group: int, creator: str, number: int) -> Any:
    try:
        return dataset.private_block(group, creator)[number].value
    except KeyError:
        return None


def _private(dataset: Dataset, group: int, creator: str, number: int) -> float:
    value = _private_value(dataset, group, creator, number)
    if isinstance(value, bytes):  # Implicit VR, or UN
        value = value.decode("latin-1").strip(" \0")
    try:
        found = float(value)
    except (ValueError, TypeError):
        return 0.0
    return found if math.isfinite(found) and found > 0 else 0.0


def _positive(value: Any, what: str) -> float:
    try:
        found = float(value)
    except (ValueError, TypeError):
        found = 0.0
    if not math.isfinite(found) or found <= 0:
        raise _missing(f"{what} is absent.")
    return found


def _many(value: Any) -> list[Any]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _missing(cause: str) -> PixelError:
    return PixelError(cause, "SUV cannot be given; use the stored activity instead.", code="suv")
