from __future__ import annotations

import random
from io import BytesIO

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.uid import ComputedRadiographyImageStorage, SegmentationStorage

from studies.dicom import segmentation
from studies.dicom.errors import SegmentationError
from studies.dicom.labels import parse
from studies.dicom.segmentation import Algorithm
from studies.dicom.volume import Volume, from_datasets
from tests.studies.dicom.slices import rotation, series

LABELS = parse("1=Left hippocampus,2=Brain tumour")


@pytest.fixture
def sources():
    return series(np.zeros((6, 8, 9), np.int16), direction=rotation(10, -20, 33))


@pytest.fixture
def label_map():
    label_map = np.zeros((6, 8, 9), np.uint8)
    label_map[1:4, 2:5, 3:8] = 1
    label_map[3:5, 5:7, 1:4] = 2
    label_map[2, 3, 5] = 0
    return label_map


def stored(dataset):
    """The object as another program reads it from its file."""
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    buffer.seek(0)
    return pydicom.dcmread(buffer)


def test_a_label_map_comes_back_from_its_file(sources, label_map):
    dataset = stored(segmentation.write(sources, label_map, LABELS))
    np.testing.assert_array_equal(segmentation.read(dataset, from_datasets(sources), LABELS), label_map)


def test_source_order_does_not_matter(sources, label_map):
    shuffled = random.Random(5).sample(sources, len(sources))
    dataset = segmentation.write(shuffled, label_map, LABELS)
    np.testing.assert_array_equal(segmentation.read(dataset, from_datasets(sources)), label_map)


def test_highdicom_reads_the_same_masks_at_the_same_places(sources, label_map):
    dataset = hd.seg.Segmentation.from_dataset(stored(segmentation.write(sources, label_map, LABELS)))
    uids = [source.SOPInstanceUID for source in sources]
    theirs = dataset.get_pixels_by_source_instance(uids, combine_segments=True)
    np.testing.assert_array_equal(theirs, label_map)
    assert dataset.FrameOfReferenceUID == sources[0].FrameOfReferenceUID
    assert dataset.StudyInstanceUID == sources[0].StudyInstanceUID
    assert dataset.ReferencedSeriesSequence[0].SeriesInstanceUID == sources[0].SeriesInstanceUID


def test_a_person_draws_by_hand_and_a_model_names_itself(sources, label_map):
    by_hand = segmentation.write(sources, label_map, LABELS, content_creator_name="Reader^One")
    assert by_hand.SOPClassUID == SegmentationStorage
    assert by_hand.SegmentationType == "BINARY"
    assert {item.SegmentAlgorithmType for item in by_hand.SegmentSequence} == {"MANUAL"}
    assert by_hand.ContentCreatorName == "Reader^One"
    by_model = segmentation.write(sources, label_map, LABELS, algorithm=Algorithm("unet", "3"))
    for item in by_model.SegmentSequence:
        assert item.SegmentAlgorithmType == "AUTOMATIC"
        identification = item.SegmentationAlgorithmIdentificationSequence[0]
        assert (identification.AlgorithmName, identification.AlgorithmVersion) == ("unet", "3")


def test_codes_are_given_or_found_by_name(sources, label_map):
    labels = [
        {"number": 1, "name": "Left hippocampus"},
        {"number": 2, "name": "Thing", "category": ["49755003", "SCT", "M"], "type": ["86049000", "SCT", "Neoplasm"]},
    ]
    first, second = segmentation.write(sources, label_map, labels).SegmentSequence
    # SNOMED CT 5366008 is the hippocampus (PS3.16 CID 7140)
    assert first.SegmentedPropertyTypeCodeSequence[0].CodeValue == "5366008"
    assert first.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "91723000"
    assert second.SegmentedPropertyTypeCodeSequence[0].CodeValue == "86049000"
    assert first.TrackingUID != second.TrackingUID


def test_every_segment_carries_the_colour_that_viewers_show(sources, label_map):
    labels = [{"number": 1, "name": "Liver", "color": "#ff0000"}, {"number": 2, "name": "Spleen", "color": "#0000ff"}]
    red, blue = stored(segmentation.write(sources, label_map, labels)).SegmentSequence
    # CIE L*a*b* (D65, as OHIF and 3D Slicer take it) of the sRGB primaries, scaled to 16 bits as in PS3.3 C.10.7.1.1
    for item, lab in ((red, (53.24, 80.09, 67.20)), (blue, (32.30, 79.19, -107.86))):
        scaled = [lab[0] / 100 * 65535, (lab[1] + 128) / 255 * 65535, (lab[2] + 128) / 255 * 65535]
        np.testing.assert_allclose(item.RecommendedDisplayCIELabValue, scaled, atol=300)


def test_an_empty_label_map_is_a_valid_object(sources):
    dataset = stored(segmentation.write(sources, np.zeros((6, 8, 9), np.uint8), LABELS))
    assert len(dataset.SegmentSequence) == 2
    assert not segmentation.read(dataset, from_datasets(sources), LABELS).any()


def test_label_numbers_with_gaps_come_back_by_name(sources, label_map):
    labels = [{"number": 5, "name": "Liver"}, {"number": 40, "name": "Spleen"}]
    gaps = np.choose(label_map, [0, 40, 5]).astype(np.uint8)
    dataset = segmentation.write(sources, gaps, labels)
    assert [item.SegmentNumber for item in dataset.SegmentSequence] == [1, 2]
    np.testing.assert_array_equal(segmentation.read(dataset, from_datasets(sources), labels), gaps)


def test_frames_are_placed_by_geometry_on_part_of_the_stack(sources, label_map):
    dataset = segmentation.write(sources, label_map, LABELS)
    part = from_datasets(sources[2:5])
    np.testing.assert_array_equal(segmentation.read(dataset, part), label_map[2:5])


def test_a_turned_grid_takes_the_same_voxels(label_map):
    """Reading into the same grid seen with other index axes gives the turned label map."""
    sources = series(np.zeros((6, 8, 9), np.int16), spacing=(2, 1, 1))
    dataset = segmentation.write(sources, label_map, LABELS)
    volume = from_datasets(sources)
    flipped = Volume(
        volume.array[::-1].transpose(1, 0, 2),  # index axes: x, z from the top, y
        (volume.spacing[1], volume.spacing[0], volume.spacing[2]),
        tuple((volume.affine @ [0, 0, 5, 1])[:3]),
        np.column_stack([volume.direction[:, 0], -volume.direction[:, 2], volume.direction[:, 1]]),
    )
    np.testing.assert_array_equal(segmentation.read(dataset, flipped), label_map[::-1].transpose(1, 0, 2))


def test_a_finer_grid_takes_the_nearest_voxel(label_map):
    sources = series(np.zeros((6, 8, 9), np.int16), spacing=(2, 1, 1), origin=(0, 0, 0))
    dataset = segmentation.write(sources, label_map, LABELS)
    # Two fine voxels to each coarse one, along every axis: voxel centres at ∓ a quarter.
    fine = Volume(np.zeros((12, 16, 18), np.int16), (1, 0.5, 0.5), (-0.25, -0.25, -0.5), np.eye(3))
    expected = label_map.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    np.testing.assert_array_equal(segmentation.read(dataset, fine), expected)


def test_fractional_and_labelmap_objects_of_others_are_read(sources, label_map):
    described = [
        hd.seg.SegmentDescription(
            n, name, pydicom.sr.codedict.codes.SCT.Organ, pydicom.sr.codedict.codes.SCT.Liver, "MANUAL"
        )
        for n, name in [(1, "Left hippocampus"), (2, "Brain tumour")]
    ]
    common = dict(
        source_images=sources, segment_descriptions=described, series_instance_uid=hd.UID(), series_number=1,
        sop_instance_uid=hd.UID(), instance_number=1, manufacturer="a", manufacturer_model_name="b",
        software_versions="c", device_serial_number="d",
    )  # fmt: skip
    volume = from_datasets(sources)
    label = hd.seg.Segmentation(pixel_array=label_map, segmentation_type="LABELMAP", **common)
    np.testing.assert_array_equal(segmentation.read(stored(label), volume, LABELS), label_map)
    chances = np.stack([np.where(label_map == n, 0.8, 0.3) for n in (1, 2)], axis=-1)
    fractional = hd.seg.Segmentation(pixel_array=chances, segmentation_type="FRACTIONAL", **common)
    np.testing.assert_array_equal(segmentation.read(stored(fractional), volume, LABELS), label_map)


def test_a_radiograph_can_be_segmented():
    (source,) = series(np.zeros((1, 8, 9), np.int16))
    del source.ImagePositionPatient, source.ImageOrientationPatient, source.FrameOfReferenceUID
    source.SOPClassUID, source.Modality = ComputedRadiographyImageStorage, "CR"
    mask = np.zeros((1, 8, 9), np.uint8)
    mask[0, 2:4, 3:7] = 1
    dataset = stored(segmentation.write([source], mask, [{"number": 1, "name": "Lung"}]))
    np.testing.assert_array_equal(segmentation.read(dataset, from_datasets([source])), mask)


@pytest.mark.parametrize(
    ("change", "code"),
    [(lambda m: m[:5], "shape"), (lambda m: m + 7, "unknown_label"), (lambda m: m.astype(int) + 300, "unknown_label")],
)
def test_a_wrong_label_map_is_refused(sources, label_map, change, code):
    with pytest.raises(SegmentationError) as refused:
        segmentation.write(sources, change(label_map), LABELS)
    assert refused.value.code == code


def test_a_source_without_frame_of_reference_is_refused(sources, label_map):
    for source in sources:
        del source.FrameOfReferenceUID
    with pytest.raises(SegmentationError, match="Frame Of Reference") as refused:
        segmentation.write(sources, label_map, LABELS)
    assert refused.value.code == "source"


def test_an_image_is_no_segmentation(sources):
    with pytest.raises(SegmentationError) as refused:
        segmentation.read(sources[0], from_datasets(sources))
    assert refused.value.code == "not_a_segmentation"


@pytest.mark.parametrize("text", ["", "Liver", "1=", "0=Liver", "1=Liver,1=Spleen", "1=Liver,2=Liver", "300=Liver"])
def test_labels_that_make_no_sense_are_refused(text):
    with pytest.raises(SegmentationError) as refused:
        parse(text)
    assert refused.value.code == "labels"


def test_structures_that_overlap_keep_all_of_their_voxels(sources, label_map):
    tumour = label_map == 2
    masks = np.stack([(label_map == 1) | tumour, tumour])
    dataset = stored(segmentation.write(sources, masks, LABELS))
    assert dataset.SegmentsOverlap == "YES"
    found = segmentation.read_masks(dataset, from_datasets(sources), LABELS)
    assert np.array_equal(found, masks)
    assert np.array_equal(segmentation.read_masks(dataset, from_datasets(sources), LABELS[::-1]), masks[::-1])
    with pytest.raises(SegmentationError) as refusal:
        segmentation.write(sources, masks[:1], LABELS)
    assert refusal.value.code == "shape"


def test_a_label_that_a_segment_is_called_like_takes_no_other_by_its_number(sources, label_map):
    """The only label wanted has the number of the other segment."""
    dataset = stored(segmentation.write(sources, label_map, LABELS))
    wanted = [{"number": 1, "name": "Brain tumour"}]
    found = segmentation.read(dataset, from_datasets(sources), wanted)
    assert np.array_equal(found == 1, label_map == 2)
    assert np.array_equal(segmentation.read_masks(dataset, from_datasets(sources), wanted)[0], label_map == 2)
