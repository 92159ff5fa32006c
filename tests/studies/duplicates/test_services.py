from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from django.core.management import call_command
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from portal.accounts.models import Role
from studies.dicom import phash
from studies.duplicates import services
from studies.duplicates.models import Look, Pair
from tests.conftest import SHARED
from tests.factories import ProjectFactory, ct_pixels, make_ct_series, member, patient_pixels


@pytest.fixture(autouse=True)
def media(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path


@pytest.fixture
def project():
    return ProjectFactory()


def scene(seed: int, side: int = 256) -> np.ndarray:
    """A picture of large and small blobs, as different from seed to seed as photographs are."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    picture = np.zeros((side, side))
    for _ in range(200):
        cy, cx, size = random.random(3)
        picture += (random.random() - 0.4) * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (0.0008 + 0.03 * size**4))
    low, high = picture.min(), picture.max()
    return (20 + 200 * (picture - low) / (high - low)).astype(np.uint8)


def changed(picture: np.ndarray, how: str) -> np.ndarray:
    image = Image.fromarray(picture)
    if how == "saved again":
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=30)
        return np.asarray(Image.open(stream))
    if how == "half the size":
        return np.asarray(image.resize((image.width // 2, image.height // 2)))
    if how == "brighter":
        return np.clip(picture * 1.15 + 10, 0, 255).astype(np.uint8)
    if how == "as colour":
        return np.stack([picture] * 3, -1)
    return np.asarray(image.crop((2, 2, image.width - 2, image.height - 2)))


@pytest.mark.parametrize("how", ["saved again", "half the size", "brighter", "as colour", "cut by one per cent"])
def test_a_copy_stays_near_and_another_picture_far(how):
    one, other = scene(1), scene(2)
    assert phash.distance(phash.fingerprint(one), phash.fingerprint(changed(one, how))) <= services.FURTHEST
    assert phash.distance(phash.fingerprint(one), phash.fingerprint(changed(other, how))) > 2 * services.FURTHEST


def test_a_picture_that_shows_nothing_has_no_fingerprint():
    assert phash.fingerprint(np.full((40, 50), 90, np.uint8)) is None


@settings(max_examples=40)
@given(st.lists(st.binary(min_size=64, max_size=64), min_size=1, max_size=12), st.integers(0, 255))
def test_the_search_finds_what_counting_bits_one_by_one_finds(hashes, furthest):
    def bits(one: bytes, other: bytes) -> int:
        a, b = (int.from_bytes(part) for part in (one, other))
        return (a ^ b).bit_count()

    expected = {
        (i, j, max(bits(a[:32], b[:32]), bits(a[32:], b[32:])))
        for i, a in enumerate(hashes)
        for j, b in enumerate(hashes)
    }
    expected = {entry for entry in expected if entry[2] <= furthest}
    assert set(phash.near(hashes, hashes, furthest)) == expected


@pytest.mark.shared
def test_of_real_radiographs_exactly_the_marked_copies_are_near():
    rows = list(csv.DictReader((SHARED / "data/cxr/labels.csv").open()))
    hashes = [phash.fingerprint(np.asarray(Image.open(SHARED / "data/cxr" / row["file"]))) for row in rows]
    found = {(i, j) for i, j, _ in phash.near(hashes, hashes, services.FURTHEST) if i < j}
    marked = {
        (i, j)
        for i, one in enumerate(rows)
        for j, other in enumerate(rows)
        if i < j and one["dup_group"] and one["dup_group"] == other["dup_group"]
    }
    assert marked
    assert found == marked


@pytest.mark.django_db
def test_the_same_image_under_two_patients_is_a_pair_and_other_images_are_not(project):
    same = [make_ct_series(project, 1, PatientID="P1", PatientName=name) for name in ("A", "B")]
    copy = make_ct_series(ProjectFactory(), 1, PatientID="P1")
    make_ct_series(project, 1, PatientID="P7")
    assert services.compare_pending(settled=False) == 4
    pairs = {(pair.one_id, pair.other_id, pair.distance) for pair in Pair.objects.all()}
    assert pairs == {(one.pk, copy.pk, 0) for one in same}  # the two of one patient stay together anyhow


@pytest.mark.django_db
def test_a_volume_is_compared_by_three_slices(project):
    # Only the first of its slices is the same picture, so the volumes are not.
    one = make_ct_series(project, 8, PatientID="P1")
    other = make_ct_series(project, 8, PatientID="P2")
    services.compare_pending(settled=False)
    assert not Pair.objects.exists()
    assert one.fingerprints.get().pictures == other.fingerprints.get().pictures == 3
    pixels = patient_pixels("P2", ct_pixels(3)).astype("<i2").tobytes()
    third = make_ct_series(project, 8, PatientID="P3", PixelData=pixels)
    services.compare_pending(settled=False)
    assert {(pair.one_id, pair.other_id) for pair in Pair.objects.all()} == {(other.pk, third.pk)}


@pytest.mark.django_db
def test_a_series_that_grows_is_looked_at_again(project):
    series = make_ct_series(project, 1)
    services.compare_pending(settled=False)
    assert not services.pending(settled=False).exists()
    make_ct_series(
        project,
        1,
        StudyInstanceUID=series.study.study_instance_uid,
        SeriesInstanceUID=series.series_instance_uid,
    )
    assert list(services.pending(settled=False)) == [series]
    assert not services.pending().exists()  # not before it is at rest
    services.compare_pending(settled=False)
    assert Look.objects.get().number_of_instances == 2


@pytest.mark.django_db
def test_a_pair_is_seen_by_whoever_sees_both_sides(project):
    elsewhere = ProjectFactory()
    make_ct_series(project, 1), make_ct_series(elsewhere, 1)
    services.compare_pending(settled=False)
    both, one = member(project, Role.ENGINEER), member(project, Role.MANAGER)
    elsewhere.memberships.create(user=both, role=Role.VIEWER)
    assert Pair.objects.visible_to(both).count() == 1
    assert not Pair.objects.visible_to(one).exists()


@pytest.mark.django_db
def test_the_command_lists_pairs_without_identity(project):
    make_ct_series(project, 1, PatientID="P1"), make_ct_series(ProjectFactory(slug="other"), 1, PatientID="P1")
    out = io.StringIO()
    call_command("find_duplicates", project="other", json=True, stdout=out)
    answer = json.loads(out.getvalue())
    assert answer["compared"] == 1
    call_command("find_duplicates", json=True, stdout=(out := io.StringIO()))
    answer = json.loads(out.getvalue())
    assert [pair["distance"] for pair in answer["pairs"]] == [0]
    assert "Tessa" not in out.getvalue()
