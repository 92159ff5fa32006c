"""What can be wrong with series, volumes and segmentations, in words that a user can act on."""

from __future__ import annotations


class ImageError(Exception):
    """`code` is for programs, `cause` and `next_step` for people; none of them carries patient identity."""

    code = "image"

    def __init__(self, cause: str, next_step: str = "", *, code: str = ""):
        super().__init__(f"{cause} {next_step}".strip())
        self.cause = cause
        self.next_step = next_step
        self.code = code or self.code


class GeometryError(ImageError):
    """The images do not make one regular 3-D grid."""

    code = "geometry"


class PixelError(ImageError):
    """The pixels are missing, cannot be decoded or are not one grey value each."""

    code = "pixels"


class SegmentationError(ImageError):
    """A label map or a SEG object that cannot be written or read."""

    code = "segmentation"


class MapError(ImageError):
    """A map of values that cannot be written, or an object that is not one."""

    code = "map"


class ReportError(ImageError):
    """A structured report that cannot be written or read."""

    code = "report"
