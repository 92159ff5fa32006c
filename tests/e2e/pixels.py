"""What can be seen in a viewport, measured on a screenshot."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from playwright.sync_api import Frame, Page


def viewport_pixels(page: Page, frame: Frame) -> np.ndarray:
    """[row, column, RGB] of the image area of the active viewport, without the texts in its corners."""
    element = frame.frame_element() if frame.parent_frame else None
    outer = element.bounding_box() if element else {"x": 0, "y": 0}
    box = frame.wait_for_function(
        """() => {
          const id = services.viewportGridService.getActiveViewportId();
          const r = services.cornerstoneViewportService.getCornerstoneViewport(id)?.canvas.getBoundingClientRect();
          if (!r) return null;  // the layout is just being made
          return [r.x, r.y, r.width, r.height];
        }"""
    ).json_value()
    x, y, width, height = box
    clip = {
        "x": outer["x"] + x + 0.2 * width,
        "y": outer["y"] + y + 0.15 * height,
        "width": 0.6 * width,
        "height": 0.7 * height,
    }
    image = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
    return np.asarray(image).astype(int)


def coloured_share(pixels: np.ndarray) -> float:
    """The share of pixels with a colour; a CT slice has none of its own."""
    return float((pixels.max(axis=2) - pixels.min(axis=2) > 24).mean())


def grey_share(pixels: np.ndarray) -> float:
    """The share of pixels that are neither black nor coloured."""
    spread, brightest = pixels.max(axis=2) - pixels.min(axis=2), pixels.max(axis=2)
    return float(((spread < 12) & (brightest > 60)).mean())
