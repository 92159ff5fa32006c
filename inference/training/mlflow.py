"""A training run told to an MLflow tracking server: parameters, curves, figures with intervals, where the version is.

A few calls of MLflow's REST API 2.0, so that no client library is needed. No patient's identity leaves: configuration
without free texts, numbers, and digests; cohort and reference standard go by their keys. Files: see `artefacts`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import requests  # type: ignore[import-untyped]

from inference.errors import TrainingError

TIMEOUT = 30  # seconds for a call
MOST_METRICS, MOST_PARAMETERS, MOST_TAGS = 1000, 100, 100  # of a batch, by MLflow's limits
LONGEST_VALUE = 500
# Free texts of people, and paths of this machine.
PRIVATE = ("name", "description", "data.project", "data.cohort", "data.reference", "training.weights")


class NoStore(Exception):
    """The server takes no files; the text says why, for people."""


class Server:
    """address: of the tracking server; token: for its `Authorization: Bearer`, or empty."""

    def __init__(self, address: str, token: str = "") -> None:
        self.address = address.rstrip("/")
        self.session = requests.Session()
        if token:
            self.session.headers["Authorization"] = f"Bearer {token}"

    def call(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        """The answer's JSON. Raises `TrainingError` with cause and next step."""
        where: dict[str, Any] = {"params": body} if method == "GET" else {"json": body}
        try:
            answer = self.session.request(
                method, f"{self.address}/api/2.0/mlflow/{path}", timeout=TIMEOUT, allow_redirects=False, **where
            )
        except requests.RequestException as error:
            raise TrainingError(
                f"The MLflow server does not answer ({type(error).__name__}).",
                "Ask the administrator whether it runs and whether MLFLOW_TRACKING_URI is right, then run this again.",
            ) from error
        if answer.status_code == 404 and path == "experiments/get-by-name":
            return {}
        if answer.status_code in (401, 403):
            raise TrainingError(
                "The MLflow server does not let Readroom in.", "Ask the administrator to renew MLFLOW_TRACKING_TOKEN."
            )
        try:
            found = answer.json() if answer.ok else None
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise TrainingError(
                f"The MLflow server refused {path} (HTTP {answer.status_code}).",
                "Check that MLFLOW_TRACKING_URI names an MLflow tracking server of version 2 or newer.",
            )
        return found

    def experiment(self, name: str) -> str:
        """The experiment's id; it is made where there is none."""
        found = self.call("GET", "experiments/get-by-name", experiment_name=name)
        if found:
            return str(found["experiment"]["experiment_id"])
        return str(self.call("POST", "experiments/create", name=name)["experiment_id"])

    def find_run(self, experiment: str, tag: str, value: str) -> dict[str, Any] | None:
        """The newest run with this tag that was not deleted."""
        found = self.call(
            "POST",
            "runs/search",
            experiment_ids=[experiment],
            filter=f"tags.`{tag}` = '{value}'",
            max_results=1,
        )
        return (found.get("runs") or [None])[0]

    def upload(self, folder: str, name: str, content: bytes) -> None:
        """Put a file into the artefacts of a run. folder: the run's `artifact_uri`. Raises `NoStore`."""
        place = urlsplit(folder)
        if place.scheme != "mlflow-artifacts":
            kept = f"at {place.scheme} addresses" if place.scheme else "in a folder"
            raise NoStore(
                f"The MLflow server takes no files itself: it keeps them {kept}, where programs write on their own. "
                "Start it with --serve-artifacts, make a new experiment, then export again."
            )
        path = quote(f"{place.path.strip('/')}/{name}")
        try:
            answer = self.session.put(
                f"{self.address}/api/2.0/mlflow-artifacts/artifacts/{path}",
                data=content,
                headers={"Content-Type": "application/octet-stream"},
                timeout=TIMEOUT,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise NoStore(f"The MLflow server broke off ({type(error).__name__}). Export again.") from error
        if not answer.ok:
            raise NoStore(
                f"The MLflow server takes no files (HTTP {answer.status_code}). Ask the administrator whether it runs "
                "with --serve-artifacts and whether its store has room, then export again."
            )

    def log(
        self,
        run: str,
        *,
        parameters: Mapping[str, str],
        metrics: Iterable[Mapping[str, Any]],
        tags: Mapping[str, str],
    ) -> None:
        for part in _parts(_pairs(parameters), MOST_PARAMETERS):
            self.call("POST", "runs/log-batch", run_id=run, params=part)
        for part in _parts(list(metrics), MOST_METRICS):
            self.call("POST", "runs/log-batch", run_id=run, metrics=part)
        for part in _parts(_pairs(tags), MOST_TAGS):
            self.call("POST", "runs/log-batch", run_id=run, tags=part)


def milliseconds(seconds: float | None = None) -> int:
    return int(1000 * (time.time() if seconds is None else seconds))


def flat(config: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """A configuration as MLflow's parameters: dotted keys and short texts, without what people wrote freely."""
    found: dict[str, str] = {}
    for key, value in config.items():
        place = f"{before}.{key}" if before else key
        if place in PRIVATE:
            continue
        if isinstance(value, Mapping):
            found |= flat(value, place)
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            for number, item in enumerate(value, start=1):
                found |= flat(item, f"{place}.{number}")
        else:
            found[key_of(place)] = str(value)[:LONGEST_VALUE]
    return found


def key_of(name: str) -> str:
    """A name in the letters that MLflow takes."""
    return re.sub(r"[^A-Za-z0-9_\-./ ]", "_", name)[:250].strip("/. ") or "_"


def _pairs(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in values.items()]


def _parts(rows: list[Any], most: int) -> Iterator[list[Any]]:
    for start in range(0, len(rows), most):
        yield rows[start : start + most]
