"""What a job is about, in words, and where its results are."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from django.conf import settings
from django.core.exceptions import ObjectDoesNotExist
from django.urls import NoReverseMatch, reverse

from inference.errors import LossError
from inference.explanation.settings import METHODS
from inference.jobs.models import Job
from inference.routing.models import RoutedStudy
from inference.training import exporting
from portal.workbench import tuning, validation_figures
from studies.cohorts.models import Case, ReferenceStandard, Split

WORDS = {
    "train": "Training",
    "import_model": "Model import",
    "make_ensemble": "Ensemble",
    "predict": "Model run",
    "explain": "Explanation",
    "evaluate": "Evaluation",
    "cross_validate": "Cross-validation",
    "preview_preprocessing": "Preview of preprocessing",
    "measure_network": "Memory estimate",
    "export_run": "Export to MLflow",
    "search_settings": "Search for settings",
    "find_learning_rate": "Learning rate",
    "measure_overlaps": "Agreement of readers",
    "publish_consensus": "Consensus",
    "retrieve": "Retrieval",
    "send": "Sending",
    "import_pictures": "Import of pictures",
}


@dataclass
class About:
    """What the job's page tells besides the job itself."""

    facts: list[tuple[str, str, str]] = field(default_factory=list)  # name, text, address or ""
    results: list[tuple[str, str, str]] = field(default_factory=list)  # icon, text, address
    kept: str = ""
    lost: str = ""  # what cancelling costs
    validation_cases: int = 0
    validation: dict[str, dict] = field(default_factory=dict)  # figure → estimate, bounds, n on the validation patients
    validation_method: str = ""
    search: dict = field(default_factory=dict)  # trials of a search for settings
    classical: int = 0  # training run whose settings can be compared with classical methods
    exportable: bool = False  # a training run that may go to MLflow
    failed_cases: list[dict] = field(default_factory=list)  # name, cause, next_step


def words_of(task: str) -> str:
    kind = task.rsplit(".", 1)[-1]
    return WORDS.get(kind, kind.replace("_", " ").capitalize())


def about(job: Job) -> About:
    found = About(lost="What it has done so far is given up.")
    for tell in (
        _training,
        _cross_validation,
        _settings_search,
        _learning_rate,
        _made_version,
        _preview,
        _evaluation,
        _predictions,
        _routing,
        _explanation,
        _transfers,
        _pictures,
        _failed_cases,
    ):
        tell(job, found)
    return found


def _made_version(job: Job, found: About) -> None:
    if job.kind in ("import_model", "make_ensemble") and (pk := job.result.get("version")):
        text = f"Version {job.result['model']} {job.result['number']}"
        found.results.append(("model", text, reverse("version", args=[pk])))


def _training(job: Job, found: About) -> None:
    try:
        run = job.training_run
    except ObjectDoesNotExist:
        return
    cohort = run.reference.cohort
    training, config = run.config.get("training", {}), run.config
    labelled = Case.objects.filter(reference_labels__reference=run.reference)
    found.validation_cases = labelled.filter(cohort_patient__split=Split.VALIDATION).count()
    trained_on = labelled.filter(cohort_patient__split=Split.TRAIN).count()
    found.facts += [
        ("Cohort", f"{cohort.name}, {trained_on} training and {found.validation_cases} validation cases",
         _address("cohort", cohort.pk)),
        ("Reference", str(run.reference), ""),
        ("Network", str(config.get("network", {}).get("name", "")), ""),
        ("Image" if config.get("task") == "classification" else "Patch",
         " × ".join(map(str, training.get("patch", []))) + " voxels (z, y, x)", ""),
        ("Ends after", _limit(training), ""),
        ("Seed", str(training.get("seed", "")), ""),
    ]  # fmt: skip
    if config.get("task") == "classification":
        found.facts.insert(3, ("Strategy", str(training.get("strategy", "")), ""))
    found.facts.append(("Settings", "as TOML", reverse("training_toml", args=[run.pk])))
    if device := run.environment.get("device"):
        found.facts.append(("Device", str(device), ""))
    if run.version is not None:
        found.exportable = exporting.configured()
        found.results.append(("model", f"Version {run.version}", reverse("version", args=[run.version.pk])))
        chosen = f"version={run.version.pk}&cohort={cohort.pk}&reference={run.reference_id}"
        found.results += [
            ("evaluation", "Evaluate it on the test patients", f"{reverse('evaluate_create')}?{chosen}"),
            ("evaluation", "Compare it with other runs", f"{reverse('training_runs')}?run={run.pk}"),
        ]
        found.validation = validation_figures.of(run.version.manifest)
        found.validation_method = validation_figures.method(run.version.manifest)
    if config.get("task") == "classification" and run.version is not None:
        found.classical = run.pk
    if job.ended:
        found.results.append(("run", "Train again with other settings", f"{reverse('training_create')}?run={run.pk}"))
    folder = Path(settings.MEDIA_ROOT) / "training" / str(run.pk)
    if folder.is_dir() and any(folder.iterdir()):
        found.kept = "The last checkpoint is kept: running the job again goes on from there."
        if job.error_class == LossError.__name__:  # it would come to the same step
            found.kept = "The checkpoint of the last whole epoch is kept."
        found.lost = "The last checkpoint is kept, so running it again goes on from there."
    found.lost += " No model version is registered."


def _cross_validation(job: Job, found: About) -> None:
    try:
        validation = job.cross_validation
    except ObjectDoesNotExist:
        return
    cohort, config = validation.reference.cohort, validation.config
    found.facts += [
        ("Cohort", cohort.name, _address("cohort", cohort.pk)),
        ("Reference", str(validation.reference), ""),
        ("Network", f"{config['network']['name']}, {config['training']['strategy']}", ""),
        ("Seed", str(config["training"]["seed"]), ""),
    ]
    words = "Figures of this cross-validation" if validation.finished_at else "Its rounds"
    found.results.append(("evaluation", words, reverse("cross_validation", args=[validation.pk])))
    found.kept = "Rounds that were trained keep their checkpoints: running the job again goes through them quickly."
    found.lost = "Rounds that were trained keep their checkpoints. No figures are stored."


def _settings_search(job: Job, found: About) -> None:
    search = tuning.search_of(job)
    if search is None:
        return
    cohort, config = search.reference.cohort, search.config
    found.facts += [
        ("Cohort", cohort.name, _address("cohort", cohort.pk)),
        ("Reference", str(search.reference), ""),
        ("Network", str(config.get("network", {}).get("name", "")), ""),
        ("Seed", str(config.get("training", {}).get("seed", "")), ""),
    ]
    found.search = tuning.table(search)
    if ended := found.search["ended"]:
        found.kept = f"{ended} trials have ended and are kept: running the job again goes on from there."
        found.lost = "Trials that have ended are kept, and running it again goes on from there."


def _learning_rate(job: Job, found: About) -> None:
    if job.kind != "find_learning_rate":
        return
    found.lost = "Nothing is lost: it is quickly started over."
    reference = ReferenceStandard.objects.select_related("cohort").filter(pk=job.parameters["reference"]).first()
    if reference is not None:
        found.facts += [
            ("Cohort", reference.cohort.name, _address("cohort", reference.cohort_id)),
            ("Reference", str(reference), ""),
            ("Network", str(job.parameters["config"]["network"]["name"]), ""),
        ]


def _preview(job: Job, found: About) -> None:
    if job.kind != "preview_preprocessing":
        return
    found.lost = "Nothing is lost: a preview changes nothing."
    series = job.parameters["series"]
    found.facts.append(("Steps", ", ".join(step["name"] for step in job.parameters["steps"]), ""))
    address = f"{reverse('preprocessing_preview', args=[series])}?job={job.pk}"
    found.results.append(("contrast", "Before and after, step by step", address))


def _limit(training: dict) -> str:
    if training.get("strategy") == "frozen":
        return "one fit of the last layer"
    epochs, minutes = training.get("epochs"), training.get("max_minutes")
    return f"{epochs} epochs" + (f" or {minutes:g} min" if minutes else "")


def _evaluation(job: Job, found: About) -> None:
    try:
        evaluation = job.evaluation
    except ObjectDoesNotExist:
        return
    cohort = evaluation.reference.cohort
    found.facts += [
        ("Version", str(evaluation.version), reverse("version", args=[evaluation.version_id])),
        ("Cohort", f"{cohort.name}, {evaluation.get_split_display() if evaluation.split else 'every case'}",
         _address("cohort", cohort.pk)),
        ("Reference", str(evaluation.reference), ""),
    ]  # fmt: skip
    if evaluation.finished_at and (address := _address("evaluation", evaluation.pk)):
        found.results.append(("evaluation", "Figures of this evaluation", address))


def _predictions(job: Job, found: About) -> None:
    count = job.predictions.count()
    if not count:
        return
    first = job.predictions.select_related("version__model").order_by("id").first()
    if not any(name == "Version" for name, _, _ in found.facts):
        found.facts.append(("Version", str(first.version), reverse("version", args=[first.version_id])))
    stored = f"{count} {'study has its result' if count == 1 else 'studies have their results'}"
    found.results.append(("studies", f"{stored} in the archive", _address("job_results", job.pk)))
    found.kept = f"{stored} in the archive already; running the job again goes on with the others."
    found.lost = f"{stored} already and keep{'s' if count == 1 else ''} {'it' if count == 1 else 'them'}."


def _routing(job: Job, found: About) -> None:
    names = RoutedStudy.objects.filter(job=job, rule__isnull=False).values_list("rule", "rule_name").distinct()
    found.facts += [("Rule", name, _address("rule", key)) for key, name in names.order_by("rule_name")]


def _explanation(job: Job, found: About) -> None:
    if not job.task.endswith(".explain"):
        return
    found.lost = "No map is stored."
    found.facts.append(("Method", METHODS.get(job.parameters["method"], ""), ""))
    found.facts.append(("Labels", ", ".join(job.parameters["labels"]), ""))
    address = reverse("prediction_explain", args=[job.parameters["prediction"]])
    found.facts.append(("Result", "The answer that is explained", address))
    if made := job.result.get("maps"):
        found.results.append(
            ("open", f"{len(made)} map{'' if len(made) == 1 else 's'}, to open over the image", address)
        )


def _transfers(job: Job, found: About) -> None:
    kind = job.task.rsplit(".", 1)[-1]
    if kind not in ("retrieve", "send"):
        return
    found.lost = "Studies that came through whole stay; the one under way is given up."
    if "objects" not in job.result:
        return
    objects, whole, studies = (job.result[name] for name in ("objects", "whole", "studies"))
    came = "stored" if kind == "retrieve" else "sent"
    found.facts += [
        ("From" if kind == "retrieve" else "To", job.result["node"], ""),
        ("Objects", f"{objects} {came}", ""),
        ("Studies", f"{whole} of {studies} whole", ""),
    ]
    if kind == "retrieve" and objects:
        found.results.append(("studies", "Open the worklist, newest first", f"{_address('studies')}?sort=-added"))


def _pictures(job: Job, found: About) -> None:
    if not job.task.endswith(".import_pictures"):
        return
    found.facts += [("Cohort", str(job.parameters.get("cohort", "")), "")]
    found.lost = "Pictures that are stored stay; the others are not imported."
    told = job.result
    if not told:
        return
    found.facts += [
        ("Pictures", f"{told['stored']} stored, {told['duplicate']} there already, {told['refused']} refused", ""),
    ]
    found.results += [
        ("cohort", "The cohort with its cases and classes", _address("cohort", told["cohort"])),
        ("upload", "Report of the import, with every refused row", _address("import_batch", told["batch"])),
    ]


def _failed_cases(job: Job, found: About) -> None:
    cases = job.result.get("cases") or job.result.get("overlap", {}).get("failed_cases") or []
    found.failed_cases = [
        {"name": case.get("name") or case.get("case"), "cause": case["cause"], "next_step": case.get("next_step", "")}
        for case in cases
        if isinstance(case, dict) and case.get("cause")
    ]


def _address(route: str, *arguments: int) -> str:
    try:
        return reverse(route, args=arguments)
    except NoReverseMatch:
        return ""
