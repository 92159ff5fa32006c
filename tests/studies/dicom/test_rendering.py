"""Pictures against constructed truth: each value's grey follows from the formulas of PS3.3."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread, examples
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_color_lut, pixel_array

from studies.dicom.rendering import RenderError, Window, encode, picture, render
from tests import factories


def image(values, **attributes):
    dataset = Dataset()
    dataset.PhotometricInterpretation = "MONOCHROME2"
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return np.asarray(values), dataset


def shades(values, window=None, **attributes):
    return picture(*image([values], **attributes), 0, window)[0].tolist()


def test_linear_window_with_rescale():
    # PS3.3 C.11.2.1.2.1: y = ((x - (c - 0.5)) / (w - 1) + 0.5) * 255, c = 50, w = 101
    got = shades([0, 1024, 1074, 1124, 4000], RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=50, WindowWidth=101)
    assert got == [0, round(255 * (0.5 + -49.5 / 100)), round(255 * 0.505), 255, 255]


def test_linear_exact_and_sigmoid():
    exact = shades([0, 25, 50, 75, 100], WindowCenter=50, WindowWidth=100, VOILUTFunction="LINEAR_EXACT")
    assert exact == [0, 64, 128, 191, 255]
    sigmoid = shades([0, 50, 100], WindowCenter=50, WindowWidth=100, VOILUTFunction="SIGMOID")
    assert sigmoid == [round(255 / (1 + np.exp(2))), 128, round(255 / (1 + np.exp(-2)))]


def test_width_of_one_is_a_threshold():
    # C.11.2.1.2.1: at and below c - 0.5 black, above white
    assert shades([99, 100, 101], WindowCenter=100.5, WindowWidth=1) == [0, 0, 255]


def test_monochrome1_is_inverted_and_presentation_shape_wins():
    plain = shades([0, 50, 100], window=Window(50, 100, "LINEAR_EXACT"))
    assert shades([0, 50, 100], Window(50, 100, "LINEAR_EXACT"), PhotometricInterpretation="MONOCHROME1") == [
        255 - plain[0],
        128,
        255 - plain[2],
    ]
    identity = {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "IDENTITY"}
    assert shades([0, 50, 100], Window(50, 100, "LINEAR_EXACT"), **identity) == plain


def test_the_asked_window_wins_over_the_files():
    assert shades([0, 100], Window(50, 100, "LINEAR_EXACT"), WindowCenter=1000, WindowWidth=2) == [0, 255]


def test_padding_is_black_and_does_not_stretch_the_automatic_window():
    values = [-2000] * 10 + list(range(100))
    got = shades(values, PixelPaddingValue=-2000, PixelRepresentation=1)
    assert got[:10] == [0] * 10
    assert got[10] == 0
    assert got[-1] == 255
    assert abs(got[60] - 127) <= 2


def test_modality_lut_and_voi_lut():
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [4, 10, 16], [100, 200, 300, 400]
    voi = Dataset()
    voi.LUTDescriptor, voi.LUTData = [301, 100, 8], [k * 255 // 300 for k in range(301)]
    assert shades([0, 10, 11, 13, 99], ModalityLUTSequence=[item], VOILUTSequence=[voi]) == [0, 0, 85, 255, 255]


def test_enhanced_frames_have_their_own_rescale_and_window():
    shared, frame = Dataset(), Dataset()
    scale = Dataset()
    scale.RescaleSlope, scale.RescaleIntercept = 2, 10
    frame.PixelValueTransformationSequence = [scale]
    voi = Dataset()
    voi.WindowCenter, voi.WindowWidth, voi.VOILUTFunction = 60, 100, "LINEAR_EXACT"
    shared.FrameVOILUTSequence = [voi]
    got = shades([0, 25, 50], SharedFunctionalGroupsSequence=[shared], PerFrameFunctionalGroupsSequence=[frame])
    assert got == [0, 128, 255]  # 10, 60, 110


def test_palette_colour_against_pydicom():
    path = examples.get_path("palette_color")
    got = render(path)
    expected = apply_color_lut(pixel_array(path), dcmread(path))
    assert got.shape == expected.shape
    assert np.abs(got.astype(int) - expected / 257).max() <= 1


def test_colour_comes_as_it_is():
    path = examples.get_path("rgb_color")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = dcmread(path).pixel_array
    assert np.array_equal(render(path), expected)


def test_encoding_keeps_proportions():
    pixels = np.zeros((20, 40), np.uint8)
    pixels[5:15] = 200
    png = Image.open(io.BytesIO(encode(pixels, "image/png")))
    assert np.array_equal(np.asarray(png), pixels)
    small = Image.open(io.BytesIO(encode(pixels, "image/jpeg", (10, 10))))
    assert (small.format, small.size) == ("JPEG", (10, 5))


def test_what_cannot_be_decoded_says_so(tmp_path):
    dataset = factories.ct_slice()
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.90"
    dataset.PixelData = encapsulate([b"not a codestream"])
    dataset["PixelData"].is_undefined_length = True
    (tmp_path / "a.dcm").write_bytes(factories.part10_bytes(dataset))
    with pytest.raises(RenderError, match="cannot be decoded"):
        render(tmp_path / "a.dcm")
