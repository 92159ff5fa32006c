"""The figures that an evaluation holds: their names, what they mean, how they are shown."""

from __future__ import annotations

from dataclasses import dataclass

# Below this number of cases the matrix says "insufficient data" instead of an estimate.
NEEDS = 10


@dataclass(frozen=True)
class Figure:
    key: str  # in Evaluation.summary[structure]
    name: str
    unit: str = ""
    share: bool = False  # from 0 to 1, more is better
    detail: str = ""


FIGURES = {
    figure.key: figure
    for figure in (
        Figure("dice", "Dice", share=True, detail="overlap of model and reference, mean over cases"),
        Figure("sensitivity", "Sensitivity, voxels", share=True, detail="share of reference voxels that were found"),
        Figure("precision", "Precision, voxels", share=True, detail="share of found voxels that are right"),
        Figure("specificity", "Specificity, voxels", share=True),
        Figure("iou", "Intersection over union", share=True),
        Figure("nsd", "Surface Dice", share=True, detail="share of the surface within the tolerance"),
        Figure("hd95_mm", "Hausdorff distance, 95th percentile", "mm"),
        Figure("assd_mm", "Mean surface distance", "mm"),
        Figure("volume_difference_ml", "Volume difference, model − reference", "mL"),
        Figure("absolute_volume_difference_ml", "Volume difference, absolute", "mL"),
        Figure("case_sensitivity", "Sensitivity, cases", share=True, detail="cases with the structure that were found"),
        Figure("case_specificity", "Specificity, cases", share=True, detail="cases without it, left without it"),
        Figure("auc", "AUC", share=True, detail="area under the ROC curve of the case scores"),
        Figure("froc_score", "FROC score", share=True, detail="mean sensitivity at 1/8 to 8 false positives an image"),
        Figure(
            "average_precision", "Average precision", share=True, detail="area under precision over recall, lesions"
        ),
    )
}
# What the matrix can show, in this order.
SWITCH = {
    "dice": "Dice",
    "sensitivity": "Sensitivity, voxels",
    "case_sensitivity": "Sensitivity, cases",
    "case_specificity": "Specificity, cases",
    "auc": "AUC",
    "froc_score": "FROC score",
}


def step(value: float) -> int:
    """Colour step 1 to 7 of a share; the steps are narrow near 1, where models differ."""
    for number, limit in enumerate((0.5, 0.65, 0.75, 0.82, 0.88, 0.94), start=1):
        if value < limit:
            return number
    return 7
