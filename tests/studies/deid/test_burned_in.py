from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from studies.deid.burned_in import Box, blanked, suspicions, text_boxes
from studies.dicom import phantom
from studies.dicom.rendering import picture
from tests.factories import ct_slice


def textured(seed=1):
    """Smooth structures with noise, without any text."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:256, :384]
    base = 110 + 60 * np.sin(x / 31) * np.cos(y / 23) + random.normal(0, 8, x.shape)
    return np.clip(base, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", [12, 16, 28])
@pytest.mark.parametrize("shade", [255, 0])
def test_drawn_text_is_found_where_it_is(size, shade):
    image = Image.fromarray(textured())
    ImageDraw.Draw(image).text((40, 90), "DOE JOHN 1960", fill=shade, font=ImageFont.load_default(size=size))
    boxes = text_boxes(np.asarray(image))
    assert boxes
    for box in boxes:
        assert 85 <= box.top < box.bottom <= 90 + 2 * size
        assert box.left >= 36


def test_images_without_text_have_none():
    assert text_boxes(textured()) == []
    for modality in ("CT", "MR"):
        dataset = phantom.make(2, modality=modality).datasets()[20]
        assert text_boxes(picture(dataset.pixel_array, dataset)) == []


def test_what_the_header_lets_suspect():
    assert suspicions(ct_slice()) == []
    assert suspicions(ct_slice(BurnedInAnnotation="YES")) == ["BurnedInAnnotation is YES"]
    assert any("ultrasound" in reason for reason in suspicions(ct_slice(Modality="US")))
    assert "the object is a secondary capture" in suspicions(ct_slice(SOPClassUID="1.2.840.10008.5.1.4.1.1.7"))


def test_blanking_fills_the_box_and_nothing_else():
    image = np.full((50, 60), 9)
    filled = blanked(image, [Box(10, 20, 15, 30)], 0, margin=2)
    assert (filled[8:17, 18:32] == 0).all()
    assert (filled == 0).sum() == 9 * 14
    assert (image == 9).all()
