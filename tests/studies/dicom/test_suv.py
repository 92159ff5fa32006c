"""SUVbw against values worked out by hand from dose, weight and decay."""

from __future__ import annotations

import math

import pytest
from pydicom.dataset import Dataset

from studies.dicom.errors import PixelError
from studies.dicom.suv import factor

F18 = 6586.2  # s


def pet(item: dict | None = None, **overrides) -> Dataset:
    """370 MBq of F-18 at 09:00, 70 kg, scanned at 10:00."""
    dataset, drug = Dataset(), Dataset()
    values = {
        "Units": "BQML", "CorrectedImage": ["DECY", "ATTN", "SCAT"], "DecayCorrection": "START", "PatientWeight": 70,
        "SeriesDate": "20240315", "SeriesTime": "100000", "AcquisitionDate": "20240315", "AcquisitionTime": "100000",
    } | overrides  # fmt: skip
    for keyword, value in values.items():
        if value is not None:
            setattr(dataset, keyword, value)
    of_drug = {
        "RadionuclideTotalDose": 370e6, "RadionuclideHalfLife": F18, "RadiopharmaceuticalStartTime": "090000",
    } | (item or {})  # fmt: skip
    for keyword, value in of_drug.items():
        if value is not None:
            setattr(drug, keyword, value)
    dataset.RadiopharmaceuticalInformationSequence = [drug]
    return dataset


def test_one_hour_after_the_injection():
    # 370 MBq · 2^(-3600 / 6586.2) = 253.3 MBq; 5000 Bq/ml · 70 000 g / 253.3 MBq = 1.382
    assert 5000 * factor(pet()) == pytest.approx(1.382, abs=5e-4)


def test_corrected_to_the_injection_the_dose_does_not_decay():
    assert 5000 * factor(pet(DecayCorrection="ADMIN")) == pytest.approx(5000 * 70000 / 370e6)


def test_over_midnight():
    late = pet({"RadiopharmaceuticalStartTime": "233000"}, SeriesDate="20240316", SeriesTime="003000",
               AcquisitionDate="20240316", AcquisitionTime="003100")  # fmt: skip
    assert factor(late) == pytest.approx(factor(pet()))
    dated = pet({"RadiopharmaceuticalStartDateTime": "20240315233000.00"}, SeriesDate="20240316", SeriesTime="003000",
                AcquisitionDate="20240316", AcquisitionTime="003100")  # fmt: skip
    assert factor(dated) == pytest.approx(factor(pet()))


def test_a_series_made_later_counts_from_its_scan():
    """Siemens: the first frame of 3 min begins at 10:00, its reference time is that of its mean count rate."""
    decay = math.log(2) / F18
    during = decay * 180
    average_ms = 1000 * math.log(during / (1 - math.exp(-during))) / decay
    later = pet(SeriesTime="150000", FrameReferenceTime=average_ms, ActualFrameDuration=180_000)
    assert factor(later) == pytest.approx(factor(pet()), rel=1e-6)
    second = pet(SeriesTime="150000", AcquisitionTime="100300", FrameReferenceTime=180_000 + average_ms,
                 ActualFrameDuration=180_000)  # fmt: skip
    assert factor(second) == pytest.approx(factor(pet()), rel=1e-6)


def test_ge_says_when_the_scan_began():
    later = pet(SeriesTime="150000")
    block = later.private_block(0x0009, "GEMS_PETD_01", create=True)
    block.add_new(0x0D, "DT", "20240315100000.00")
    assert factor(later) == pytest.approx(factor(pet()))


def test_philips_private_scales():
    counts = pet(Units="CNTS")
    block = counts.private_block(0x7053, "Philips PET Private Group", create=True)
    block.add_new(0x00, "DS", "0.000551")
    block.add_new(0x09, "DS", "2.5")
    assert factor(counts) == pytest.approx(0.000551)
    block[0x00].value = "0"
    assert factor(counts) == pytest.approx(2.5 * factor(pet()))
    with pytest.raises(PixelError, match="private scale factors"):
        factor(pet(Units="CNTS"))


def test_values_that_are_suv_already():
    assert factor(pet(Units="GML")) == 1.0
    with pytest.raises(PixelError, match="LBM"):
        factor(pet(Units="GML", SUVType="LBM"))


@pytest.mark.parametrize(
    ("item", "overrides", "words"),
    [
        ({}, {"PatientWeight": None}, "weight"),
        ({}, {"PatientWeight": 0}, "weight"),
        ({"RadionuclideTotalDose": 370}, {}, "implausible"),
        ({"RadionuclideTotalDose": None}, {}, "dose"),
        ({"RadionuclideHalfLife": None}, {}, "half-life"),
        ({"RadiopharmaceuticalStartTime": None}, {}, "injection"),
        ({}, {"CorrectedImage": ["DECY"]}, "attenuation"),
        ({}, {"DecayCorrection": "NONE"}, "Decay Correction"),
        ({}, {"Units": "PROPCNTS"}, "PROPCNTS"),
        ({}, {"SeriesTime": "150000"}, "made after the scan"),
        ({"RadiopharmaceuticalStartDateTime": "20240313090000"}, {}, "not plausible"),
    ],
)
def test_what_is_not_said_is_not_guessed(item, overrides, words):
    with pytest.raises(PixelError, match=words) as refused:
        factor(pet(item, **overrides))
    assert refused.value.code == "suv"
