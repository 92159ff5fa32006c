"""A JPEG or PNG file as a DICOM object, without loss: computed radiography (PS3.3 A.2) or secondary capture (A.8.1).

A baseline JPEG of 8-bit grey or YCbCr values becomes the fragment of an encapsulated image as it is, byte for byte
(PS3.5 8.2.1, A.4.1). Everything else is decoded and stored uncompressed; pixels keep their values.
"""

from __future__ import annotations

import io
import struct
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    SecondaryCaptureImageStorage,
)

from studies.dicom.errors import PixelError
from studies.dicom.series import MANUFACTURER, Identity
from studies.dicom.uids import derived_uid

MAX_BYTES = 256 << 20
MAX_PIXELS = 100_000_000
XRAY = ("CR", "DX")  # modalities that a grey picture of is stored as computed radiography
VIEWS = ("AP", "PA", "LL", "RL", "RLD", "LLD", "RLO", "LLO")  # ViewPosition (PS3.3 C.8.1.1)
_FRAME_HEADERS = {0xC0: "baseline", 0xC1: "extended", 0xC2: "progressive", 0xC3: "lossless"}
_ORIENTATION = 0x0112  # EXIF
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length


@dataclass(frozen=True)
class Picture:
    """Pixels as they will be stored.

    array: uint8 or uint16, rows × columns or rows × columns × 3 (RGB); None where `jpeg` is stored as it is.
    """

    rows: int
    columns: int
    samples: int
    bits: int
    array: np.ndarray | None = None
    jpeg: bytes = b""
    photometric: str = "MONOCHROME2"


def read(data: bytes) -> Picture:
    """The picture in the bytes of a file. Raises `PixelError` with a code: `not_an_image`, `damaged`, `too_large`,
    `several_images`, `colour_model`, `transparent`, `depth`."""
    if len(data) > MAX_BYTES:
        raise PixelError(f"The file is larger than {MAX_BYTES >> 20} MB.", "Scale the picture down.", code="too_large")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=["JPEG", "PNG"])
    except UnidentifiedImageError as error:
        raise PixelError("This is neither a JPEG nor a PNG.", "Save it as PNG.", code="not_an_image") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _damaged() from error
    if image.width * image.height > MAX_PIXELS:
        raise PixelError(
            f"The picture has {image.width} × {image.height} pixels; at most {MAX_PIXELS:,} are allowed.",
            "Scale it down.",
            code="too_large",
        )
    if getattr(image, "n_frames", 1) > 1:
        raise PixelError("The file holds several images.", "Save each as a file of its own.", code="several_images")
    try:
        image.load()
    except (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError) as error:
        raise _damaged() from error
    turned = image.getexif().get(_ORIENTATION, 1) not in (0, 1)
    photometric = _encapsulated_as(data) if image.format == "JPEG" and not turned else ""
    if photometric:
        samples = 1 if photometric == "MONOCHROME2" else 3
        return Picture(image.height, image.width, samples, 8, jpeg=data, photometric=photometric)
    return _decoded(image, _png_depth(data))


def _damaged() -> PixelError:
    return PixelError("The picture is damaged or cut short.", "Copy or save it again.", code="damaged")


def _decoded(image: Image.Image, depth: int) -> Picture:
    if image.mode in ("RGB", "RGBA", "LA") and depth == 16:
        raise PixelError(
            "The PNG has 16 bits for each colour, which cannot be kept.", "Save it with 8 bits.", code="depth"
        )
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        alpha = np.asarray(image.convert("RGBA").getchannel("A"))
        if (alpha != 255).any():
            raise PixelError(
                "The picture is partly transparent; what lies behind is not known.",
                "Save it without transparency.",
                code="transparent",
            )
        image = image.convert("RGB" if image.mode in ("RGBA", "PA", "P", "RGB") else "L")
    if image.mode in ("1", "P"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    if image.mode not in ("L", "RGB", "I;16", "I;16B", "I"):
        raise PixelError(
            f"Pictures with the colour model {image.mode} cannot be stored without loss.",
            "Save it as grey or RGB.",
            code="colour_model",
        )
    array = np.asarray(ImageOps.exif_transpose(image))
    if array.dtype.kind in "iu" and array.dtype.itemsize > 1:
        array = array.astype(np.uint16)
    return Picture(
        array.shape[0],
        array.shape[1],
        1 if array.ndim == 2 else 3,
        8 * array.dtype.itemsize,
        array=np.ascontiguousarray(array),
        photometric="MONOCHROME2" if array.ndim == 2 else "RGB",
    )


def _png_depth(data: bytes) -> int:
    """Bits of a sample as the header of a PNG says (ISO 15948 11.2.2); 8 for other files."""
    return data[24] if data.startswith(b"\x89PNG") and len(data) > 24 else 8


def _encapsulated_as(data: bytes) -> str:
    """The PhotometricInterpretation under which the JPEG can be stored as it is, or "" where it has to be decoded."""
    frame, components, jfif, adobe = "", [], False, None
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return ""
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker in _ALONE:
            at += 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + length]
        if marker == 0xE0 and body.startswith(b"JFIF\0"):
            jfif = True
        elif marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12:
            adobe = body[11]
        elif marker in _FRAME_HEADERS and len(body) >= 6:
            frame = _FRAME_HEADERS[marker] if body[0] == 8 else "deep"
            components = [tuple(body[6 + 3 * n : 8 + 3 * n]) for n in range(body[5])]
        elif 0xC5 <= marker <= 0xCF and marker not in (0xC8, 0xCC, 0xC4):
            return ""
        elif marker == 0xDA:
            break
        at += 2 + length
    if frame != "baseline":
        return ""
    if len(components) == 1:
        return "MONOCHROME2"
    if len(components) != 3 or adobe == 0 or (not jfif and adobe is None and [c[0] for c in components] != [1, 2, 3]):
        return ""  # four components, or RGB
    subsampled = any(sampling != components[0][1] for _, sampling in components[1:])
    return "YBR_FULL_422" if subsampled else "YBR_FULL"


@dataclass(frozen=True)
class About:
    """What is known of the picture beside whose it is."""

    modality: str = "OT"
    view: str = ""  # as the file says it, for example "AP Supine"
    age: int | None = None  # years


def dataset(picture: Picture, identity: Identity, about: About) -> Dataset:
    """The picture as one object. The same picture, identity and facts give the same bytes."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    radiograph = about.modality in XRAY and picture.samples == 1
    made.SpecificCharacterSet = "ISO_IR 192"
    made.ImageType = ["DERIVED", "SECONDARY"]
    made.SOPClassUID = ComputedRadiographyImageStorage if radiograph else SecondaryCaptureImageStorage
    made.SOPInstanceUID = UID(identity.sop_instance_uid(0))
    made.StudyDate = made.SeriesDate = made.ContentDate = identity.study_date
    made.StudyTime = made.SeriesTime = made.ContentTime = ""
    made.AccessionNumber = made.ReferringPhysicianName = made.StudyID = ""
    made.Modality = about.modality
    if not radiograph:
        made.ConversionType = "WSD"  # workstation
    made.Manufacturer = MANUFACTURER
    made.StudyDescription = identity.study_description[:64]
    made.SeriesDescription = identity.series_description[:64]
    made.PatientName, made.PatientID = identity.patient_name, identity.patient_id
    made.PatientBirthDate, made.PatientSex = identity.patient_birth_date, identity.patient_sex
    if about.age is not None:
        made.PatientAge = f"{about.age:03d}Y"
    made.StudyInstanceUID = identity.study_instance_uid
    made.SeriesInstanceUID = identity.series_instance_uid
    made.SeriesNumber = made.InstanceNumber = 1
    made.PatientOrientation = ""
    made.BodyPartExamined = identity.body_part_examined
    if radiograph:
        first = about.view.upper().split()[:1]
        made.ViewPosition = first[0] if first and first[0] in VIEWS else ""
    if identity.image_comments:
        made.ImageComments = identity.image_comments
    if identity.synthetic:
        made.SyntheticData = "YES"
    _pixels(made, picture)
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    return made


def _pixels(made: Dataset, picture: Picture) -> None:
    made.SamplesPerPixel, made.PhotometricInterpretation = picture.samples, picture.photometric
    if picture.samples == 3:
        made.PlanarConfiguration = 0
    made.Rows, made.Columns = picture.rows, picture.columns
    made.BitsAllocated = made.BitsStored = picture.bits
    made.HighBit, made.PixelRepresentation = picture.bits - 1, 0
    if picture.samples == 1:
        full = 1 << picture.bits
        low, high = (0, full - 1) if picture.array is None or picture.bits == 8 else _reach(picture.array)
        made.WindowCenter, made.WindowWidth = str((low + high + 1) // 2), str(max(high - low + 1, 1))
    if picture.array is None:
        made.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        made.LossyImageCompression = "01"
        made.LossyImageCompressionMethod = "ISO_10918_1"
        whole = picture.rows * picture.columns * picture.samples
        made.LossyImageCompressionRatio = f"{whole / len(picture.jpeg):.2f}"
        made.add_new("PixelData", "OB", encapsulate([picture.jpeg]))
        made["PixelData"].is_undefined_length = True
        return
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    little = picture.array.astype(picture.array.dtype.newbyteorder("<")).tobytes()
    made.add_new("PixelData", "OW" if picture.bits == 16 else "OB", little + b"\0" * (len(little) % 2))


def _reach(array: np.ndarray) -> tuple[int, int]:
    low, high = np.percentile(array, [0.5, 99.5])
    return int(low), int(high)


def key_of(project: str, patient_id: str, file: str, digest: str) -> str:
    """What the UIDs of a picture derive from: the same file of a patient becomes the same object again."""
    return derived_uid("picture", project, patient_id, file, digest)
