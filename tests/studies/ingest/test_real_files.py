"""Every file of the development data is stored, or refused for a reason that pydicom confirms; lossless is lossless."""

from __future__ import annotations

import csv
import hashlib
import warnings

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from studies.dicom.rendering import RenderError, decoded, render
from studies.dicom.vr import is_image_class
from studies.ingest import store
from studies.models import ImportBatch
from tests import factories
from tests.conftest import SHARED

pytestmark = [pytest.mark.django_db, pytest.mark.shared]

FILES = SHARED / "data" / "dicom"
CT = FILES / "cornerstone3D"
LOSSLESS = {
    "BigEndianExplicitTransferSyntax_1.2.840.10008.1.2.2",
    "DeflatedExplicitVRLittleEndianTransferSyntax_1.2.840.10008.1.2.1.99",
    "JPEG2000LosslessOnlyTransferSyntax_1.2.840.10008.1.2.4.90", "JPEGLSLosslessTransferSyntax_1.2.840.10008.1.2.4.80",
    "JPEGProcess14SV1TransferSyntax_1.2.840.10008.1.2.4.70", "JPEGProcess14TransferSyntax_1.2.840.10008.1.2.4.57",
    "LittleEndianImplicitTransferSyntax_1.2.840.10008.1.2", "RLELosslessTransferSyntax_1.2.840.10008.1.2.5",
}  # fmt: skip
# No maintained decoder reads these two retired processes (full progression, spectral selection).
UNDECODABLE = {"1.2.840.10008.1.2.4.55", "1.2.840.10008.1.2.4.53"}


@pytest.fixture(autouse=True)
def media(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path / "media"


def judged(dataset: Dataset) -> str:
    """What pydicom finds missing, in the store's words; "" where nothing is."""
    if (
        str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID", ""))
        == "1.2.840.10008.1.3.10"
    ):
        return "dicomdir"
    if not all(dataset.get(keyword) for keyword in ("StudyInstanceUID", "SeriesInstanceUID")):
        return "no_identity"
    pixels = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
    if is_image_class(str(dataset.get("SOPClassUID", ""))) and not any(keyword in dataset for keyword in pixels):
        return "no_pixel_data"
    return ""


def test_every_file_is_stored_or_refused_with_the_right_reason():
    batch = store.open_batch(factories.ProjectFactory(), ImportBatch.Source.COMMAND)
    first: dict[str, str] = {}
    with open(FILES / "manifest.csv", newline="") as table:
        names = [row["file"] for row in csv.DictReader(table)]
    assert len(names) > 300
    wrong = []
    for name in names:
        path = FILES / name
        outcome = store.store_file(path, batch=batch)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = dcmread(path, force=True)
            missing = judged(dataset)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if outcome.code == "conflict":
            right = first[outcome.sop_instance_uid] != digest
        elif outcome.code in ("truncated", "not_dicom"):
            right = "truncated" in path.name or len(dataset) < 2 or not missing_bytes_fit(dataset)
        elif outcome.refused:
            right = outcome.code == missing
        else:
            right = not missing and first.setdefault(outcome.sop_instance_uid, digest) == digest
        if not right:
            wrong.append((name, outcome.state, outcome.code, missing))
    assert wrong == []


def missing_bytes_fit(dataset: Dataset) -> bool:
    """Whether uncompressed pixels are as many as rows, columns, frames and bits announce."""
    if "PixelData" not in dataset:
        return False
    frames = int(dataset.get("NumberOfFrames") or 1)
    bits = dataset.Rows * dataset.Columns * dataset.get("SamplesPerPixel", 1) * dataset.BitsAllocated * frames
    return len(dataset.PixelData) * 8 >= bits


@pytest.mark.parametrize("syntax", sorted(LOSSLESS))
def test_lossless_syntaxes_decode_to_the_uncompressed_pixels(syntax):
    plain = decoded(CT / "CTImage.dcm_LittleEndianExplicitTransferSyntax_1.2.840.10008.1.2.1.dcm", 0)
    assert plain.shape == (512, 512)
    np.testing.assert_array_equal(decoded(CT / f"CTImage.dcm_{syntax}.dcm", 0), plain)


def test_what_has_no_decoder_says_so():
    for path in CT.glob("CTImage.dcm_JPEGProcess*"):
        if any(path.name.endswith(f"{syntax}.dcm") for syntax in UNDECODABLE):
            with pytest.raises(RenderError, match="cannot be decoded"):
                render(path)
        else:
            assert render(path).shape == (512, 512)
