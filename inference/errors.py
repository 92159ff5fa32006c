"""What can go wrong with models, in words for people."""

from __future__ import annotations


class InferenceError(Exception):
    """An error with a cause and a next step. Neither carries a patient's identity."""

    def __init__(self, cause: str, next_step: str = "") -> None:
        super().__init__(f"{cause} {next_step}".strip())
        self.cause = cause
        self.next_step = next_step


class PreprocessingError(InferenceError):
    """A preprocessing step that is unknown or wrongly set, or an image that it cannot work on."""


class NetworkError(InferenceError):
    """An unknown network, or parameters that it does not take."""


class ConfigError(InferenceError):
    """A training configuration that cannot be used. `problems` has one sentence for each key that is wrong."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems), "Correct the configuration and start again.")
        self.problems = problems


class BundleError(InferenceError):
    """A model folder that is incomplete, damaged or unsafe to load."""


class StageError(InferenceError):
    """A change of stage that the rules do not allow."""


class TrainingError(InferenceError):
    """Training cannot start, or cannot go on."""


class LossError(TrainingError):
    """The loss is not a number any more."""


class PredictionError(InferenceError):
    """A version cannot be run on these images."""


class EvaluationError(InferenceError):
    """A version cannot be evaluated on this cohort."""


class ExplanationError(InferenceError):
    """What a model looked at cannot be shown in the way that was asked for."""


class CardError(InferenceError):
    """A change of a model card that cannot be kept."""
