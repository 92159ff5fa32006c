"""A map of a model over the images that it was made from: in the right place, with a legend, off and on."""

from __future__ import annotations

import numpy as np
import pytest
from django.urls import reverse
from playwright.sync_api import Page, expect

from inference.prediction import results
from inference.prediction.output import Map
from portal.accounts.models import Role
from studies.dicom import parametric_map, projection
from studies.dicom.segmentation import Algorithm
from studies.dicom.volume import Volume, from_datasets
from studies.ingest.store import open_batch
from studies.models import ImportBatch, Series
from tests.e2e.phantom import make_phantom
from tests.e2e.pixels import coloured_share, viewport_pixels
from tests.factories import ProjectFactory, ct_slice, member, store_datasets
from tests.portal.rows import prediction_row, version_row

pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True)]

SHOWN = """() => {
  const maps = window.readroom?.maps;
  const map = maps?.shown && maps.loaded.get(maps.shown);
  return map && [...map.pictures.values()].some((kept) => kept instanceof HTMLCanvasElement) &&
    document.querySelector("[data-readroom=map]:not([data-frame=''])") !== null;
}"""


@pytest.fixture
def project(transactional_db):
    return ProjectFactory(slug="thorax")


def add_map(series: Series, datasets: list, volume: Volume, kind: str, label: str = "Pneumonia") -> Series:
    prediction = prediction_row(version_row(series.study.project, "pneumonia", task="classification"), series.study)
    quantity = parametric_map.SALIENCY if kind == "occlusion" else parametric_map.GRADIENT_WEIGHTED_CLASS_ACTIVATION
    dataset = parametric_map.write(
        datasets, volume, quantity=quantity, label=f"{kind} of {label}", algorithm=Algorithm("pneumonia", "1")
    )
    batch = open_batch(series.study.project, ImportBatch.Source.MODEL)
    return results.store_map(prediction, Map(kind, label, volume, "activation"), dataset, batch=batch, by=None).series


def open_over(page: Page, image: Series, made: Series) -> None:
    address = reverse("open_study", args=[image.study_id])
    page.goto(f"{address}?series={image.series_instance_uid}&map={made.series_instance_uid}")
    page.wait_for_function(SHOWN)


def settled(page: Page) -> np.ndarray:
    """The viewport once two looks agree."""
    before = viewport_pixels(page, page.main_frame)
    for _ in range(40):
        page.wait_for_timeout(300)
        now = viewport_pixels(page, page.main_frame)
        if now.shape == before.shape and np.abs(now - before).mean() < 0.05:
            return now
        before = now
    return before


def centre(mask: np.ndarray) -> np.ndarray:
    return np.argwhere(mask).mean(axis=0)


def radiograph(project, at: tuple[int, int]):
    """A grey field with one bright disc, without a place in the patient; and where the disc is."""
    y, x = np.indices((120, 100))
    disc = (y - at[0]) ** 2 + (x - at[1]) ** 2 < 9**2
    dataset = ct_slice(0, rows=120, columns=100, SeriesDescription="Chest")
    dataset.Modality, dataset.RescaleIntercept, dataset.PixelRepresentation = "CR", 0, 0
    del dataset.ImagePositionPatient, dataset.ImageOrientationPatient, dataset.FrameOfReferenceUID
    dataset.WindowCenter, dataset.WindowWidth = 500, 1000
    dataset.PixelData = np.where(disc, 1000, 200).astype("<u2").tobytes()
    return store_datasets(project, [dataset]), dataset, disc


def test_a_map_lies_over_what_it_shows_in_a_radiograph(project, sign_in):
    image, dataset, disc = radiograph(project, (42, 62))
    volume = projection.from_dataset(dataset)
    made = add_map(image, [dataset], volume.like(disc[None].astype(np.float32)), "grad_cam")
    page = sign_in(member(project, Role.ENGINEER))
    open_over(page, image, made)
    over = settled(page)
    coloured = over.max(axis=2) - over.min(axis=2) > 24
    assert coloured_share(over) > 0.005

    # Without the map the disc itself is the brightest part, and lies at the same place.
    page.get_by_role("switch", name="Show Grad-CAM of Pneumonia").click()
    plain = settled(page)
    assert coloured_share(plain) < 0.001
    bright = plain.min(axis=2) > 180
    assert bright.sum() > 50
    assert np.linalg.norm(centre(coloured) - centre(bright)) < 3, (centre(coloured), centre(bright))
    assert coloured.sum() == pytest.approx(bright.sum(), rel=0.25)

    # On again, larger after zooming, still on its disc.
    page.get_by_role("switch", name="Show Grad-CAM of Pneumonia").click()
    page.wait_for_function(SHOWN)
    page.evaluate(
        """() => {
          const id = services.viewportGridService.getActiveViewportId();
          const viewport = services.cornerstoneViewportService.getCornerstoneViewport(id);
          viewport.setZoom(1.6);
          viewport.setRotation?.(90);
          viewport.render();
        }"""
    )
    turned = settled(page)
    again = turned.max(axis=2) - turned.min(axis=2) > 24
    assert again.sum() > 1.5 * coloured.sum()


def test_the_legend_names_the_map_and_its_limits(project, sign_in):
    image, dataset, disc = radiograph(project, (60, 50))
    volume = projection.from_dataset(dataset)
    signed = np.where(disc, 0.4, 0).astype(np.float32)
    signed[:20] = -0.4
    made = add_map(image, [dataset], volume.like(signed[None]), "occlusion")
    page = sign_in(member(project, Role.VIEWER))
    open_over(page, image, made)
    article = page.locator("article[data-kind=map]")
    expect(article).to_contain_text("Occlusion of Pneumonia")
    expect(article).to_contain_text("answer falls when covered, 0.4")
    expect(article).to_contain_text("not that the answer is right")
    over_image = page.locator("[data-readroom=map]:visible")
    expect(over_image).to_contain_text("Occlusion of Pneumonia")
    expect(over_image).to_contain_text("Research use, not a medical device")
    pixels = settled(page)
    warm = pixels[..., 0] - pixels[..., 2] > 24
    cold = pixels[..., 2] - pixels[..., 0] > 24
    assert warm.sum() > 50
    assert cold.sum() > 50
    assert centre(cold)[0] < centre(warm)[0], "what speaks against it is at the top"


def test_in_a_stack_the_map_opens_at_its_strongest_slice(project, sign_in):
    phantom = make_phantom(project)
    volume = from_datasets(phantom.datasets)
    values = (phantom.label_map == 1).astype(np.float32)
    values[:5] *= 0.3
    values[6:] *= 0.3
    made = add_map(phantom.series, phantom.datasets, volume.like(values), "grad_cam", "Left lobe")
    page = sign_in(member(project, Role.ENGINEER))
    open_over(page, phantom.series, made)
    strongest = phantom.datasets[5].SOPInstanceUID
    page.wait_for_function(
        """(uid) => services.cornerstoneViewportService.getCornerstoneViewport(
             services.viewportGridService.getActiveViewportId()).getCurrentImageId().includes(uid)""",
        arg=strongest,
    )
    pixels = settled(page)
    assert coloured_share(pixels) > 0.01
    coloured = pixels.max(axis=2) - pixels.min(axis=2) > 24
    # The left lobe is the brighter ellipsoid on the image's left.
    assert centre(coloured)[1] < pixels.shape[1] / 2
