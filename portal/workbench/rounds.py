"""The summary of a cross-validation as the tables of its page."""

from __future__ import annotations

from typing import Any

from inference.training import crossvalidation
from inference.training.config import BASELINES, TITLES
from inference.training.models import CrossValidation


def shown(validation: CrossValidation) -> dict[str, Any]:
    """What the template needs: for each scheme its methods with their figures, and the warning about sources."""
    summary = validation.summary
    schemes = [
        {
            **table,
            "methods": [
                {
                    "name": f"{TITLES[key]} on handcrafted features" if key in BASELINES else TITLES[key],
                    "figures": figures,
                    "confusion": [
                        {"name": name, "counts": list(zip(summary["classes"], counts, strict=True))}
                        for name, counts in zip(summary["classes"], figures["confusion"]["counts"], strict=True)
                    ],
                }
                for key, figures in table["methods"]
            ],
        }
        for table in crossvalidation.tables(summary)
    ]
    confounding = summary.get("confounding") or {}
    return {
        "classes": summary["classes"],
        "schemes": schemes,
        "confounding": confounding,
        "by_source": [
            {"name": name, "counts": counts}
            for name, counts in zip(confounding.get("classes", []), confounding.get("counts", []), strict=True)
        ],
    }
