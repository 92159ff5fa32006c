"""What is recorded for each route. Changes record themselves where they happen (the services); here are the looks.

A route that is missing here is recorded under its name (`portal.accounts.audit.rules`).
"""

from __future__ import annotations

from portal.accounts.audit.rules import NOTHING, Rule, Subject
from portal.accounts.audit.trail import READ_SECONDS, THUMBNAIL_SECONDS

STUDY = Subject("studies.Study", "project_id", "patient_id")
STUDY_BY_UID = Subject(
    "studies.Study", "project_id", "patient_id", "study_instance_uid", "study_instance_uid", "StudyInstanceUIDs",
    "project__slug",
)  # fmt: skip
SERIES = Subject("studies.Series", "study__project_id", "study__patient_id")
PATIENT = Subject("studies.Patient", "project_id", "pk")
REFUSAL = Subject("studies.Refusal", "batch__project_id")
BATCH = Subject("studies.ImportBatch", "project_id")
NODE = Subject("dimse.RemoteNode", "project_id")
COHORT = Subject("cohorts.Cohort", "project_id")
REFERENCE = Subject("cohorts.ReferenceStandard", "cohort__project_id")
CAMPAIGN = Subject("annotation.Campaign", "project_id")
TASK = Subject("annotation.Task", "campaign__project_id", "case__study__patient_id")
TASK_IN_VIEWER = Subject("annotation.Task", "campaign__project_id", "case__study__patient_id", "task")
CASE = Subject("cohorts.Case", "cohort__project_id", "study__patient_id", "case")
TABLE = Subject("cohorts.TableImport", "project_id")
VARIABLE = Subject("cohorts.ClinicalVariable", "project_id")
PAIR = Subject("duplicates.Pair", "one__study__project_id")
JOB = Subject("jobs.Job", "project_id")
MODEL = Subject("registry.Model", "project_id")
VERSION = Subject("registry.ModelVersion", "model__project_id")
RULE = Subject("routing.RoutingRule", "project_id")
ROUTED = Subject("routing.RoutedStudy", "study__project_id", "study__patient_id")
PREDICTION = Subject("prediction.Prediction", "study__project_id", "study__patient_id")
EVALUATION = Subject("evaluation.Evaluation", "version__model__project_id")
CROSS_VALIDATION = Subject("training.CrossValidation", "project_id")
TRAINING = Subject("training.TrainingRun", "project_id")
TUNING = Subject("tuning.SettingsSearch", "project_id")
PROJECT = Subject("accounts.Project", "pk", argument="slug", field="slug")
USER = Subject("accounts.User")
MEMBER = Subject("accounts.Membership", "project_id")

EXPORT = Subject("deid.Export", "project_id")

LIST = Rule("list.view", seconds=READ_SECONDS)


def by_service(action: str, subject: Subject) -> Rule:
    """A change that its service records; of the route only what came to nothing is left to tell."""
    return Rule(action, subject, by_service=True)


RULES: dict[str, Rule] = {
    # Nothing of a patient, a project or another person.
    **dict.fromkeys(
        ["healthz", "readyz", "login", "logout", "profile", "theme", "project_select", "password", "token_create"],
        NOTHING,
    ),
    **dict.fromkeys(
        ["account_login", "account_reauthenticate", "openid_connect_login", "openid_connect_callback"], NOTHING
    ),
    **dict.fromkeys(["mfa_authenticate", "mfa_reauthenticate", "mfa_index", "mfa_activate_totp"], NOTHING),
    "mfa_deactivate_totp": NOTHING,
    **dict.fromkeys(["mfa_view_recovery_codes", "mfa_generate_recovery_codes"], Rule("login.codes", seconds=60)),
    "mfa_download_recovery_codes": Rule("login.codes"),
    **dict.fromkeys(["token_revoke", "api_schema", "api-root", "viewer", "viewer_asset", "viewer_module"], NOTHING),
    **dict.fromkeys(["viewer_config", "viewer_project_config", "viewer_task_config"], NOTHING),
    # Drafts are versions of their own that nobody can change; a row every few seconds would say no more.
    **dict.fromkeys(["reading_draft", "reading_state"], Rule("task.view", TASK, READ_SECONDS)),
    # Lists name patients. Which rows a list held is not kept.
    **dict.fromkeys(["home", "studies", "search", "projects", "users", "quarantine", "cohorts"], LIST),
    **dict.fromkeys(["campaigns", "my_reading", "models", "jobs", "evaluations", "upload"], LIST),
    **dict.fromkeys(["api_study-list", "api_series-list", "api_refusal-list", "api_cohort-list"], LIST),
    **dict.fromkeys(["api_reference-list", "api_job-list", "api_model-list", "api_version-list"], LIST),
    **dict.fromkeys(
        ["api_training_run-list", "api_cross_validation-list", "api_prediction-list", "api_evaluation-list"], LIST
    ),
    **dict.fromkeys(["api_campaign-list", "api_settings_search-list"], LIST),
    # Images
    "study": Rule("study.view", STUDY),
    "study_leave": Rule("study.view", STUDY, READ_SECONDS),
    **dict.fromkeys(["api_study-detail", "api_study-stakes"], Rule("study.view", STUDY, READ_SECONDS)),
    "api_study-move": by_service("study.move", STUDY),
    "api_series-detail": Rule("series.view", SERIES, READ_SECONDS),
    "patient": Rule("patient.view", PATIENT),
    "study_thumbnail": Rule("study.thumbnail", STUDY, THUMBNAIL_SECONDS),
    "series_thumbnail": Rule("series.thumbnail", SERIES, THUMBNAIL_SECONDS),
    "study_delete": by_service("study.delete", STUDY),
    "study_move": by_service("study.move", STUDY),
    "open_study": Rule("study.open", STUDY),
    "viewer_page": Rule("study.open", STUDY_BY_UID, READ_SECONDS),
    "viewer_project_page": Rule("study.open", STUDY_BY_UID, READ_SECONDS),
    "viewer_task_page": Rule("task.open", TASK_IN_VIEWER, READ_SECONDS),
    "viewer_results": Rule("study.view", STUDY_BY_UID, READ_SECONDS),
    "viewer_project_results": Rule("study.view", STUDY_BY_UID, READ_SECONDS),
    "import_batch": Rule("import.view", BATCH, READ_SECONDS),
    "api_import-detail": Rule("import.view", BATCH, READ_SECONDS),
    "refusal": Rule("refusal.view", REFUSAL),
    "api_refusal-detail": Rule("refusal.view", REFUSAL, READ_SECONDS),
    "refusal_file": Rule("refusal.export", REFUSAL),
    "api_refusal-file": Rule("refusal.export", REFUSAL),
    **dict.fromkeys(["refusal_retry", "refusal_keep", "refusal_discard"], by_service("refusal.change", REFUSAL)),
    **dict.fromkeys(
        ["api_refusal-retry", "api_refusal-keep", "api_refusal-discard"], by_service("refusal.change", REFUSAL)
    ),
    # Other imaging systems; what leaves is recorded for each study where it leaves
    **dict.fromkeys(["pacs", "api_node-list"], LIST),
    **dict.fromkeys(["node_query", "api_node-detail", "node_edit"], Rule("node.view", NODE, READ_SECONDS)),
    "api_node-find": Rule("node.search", NODE),
    **dict.fromkeys(["node_retrieve", "api_node-retrieve-studies"], by_service("node.retrieve", NODE)),
    "api_node-send": Rule("node.send", NODE),
    "node_remove": by_service("node.remove", NODE),
    **dict.fromkeys(["node_echo", "api_node-echo"], Rule("node.test", NODE, READ_SECONDS)),
    "preprocessing_preview": Rule("series.preview", SERIES, READ_SECONDS),
    "preprocessing_picture": Rule("series.preview", SERIES, READ_SECONDS),
    # Cohorts
    "preprocessing_of_cohort": Rule("cohort.view", COHORT, READ_SECONDS),
    "cohort": Rule("cohort.view", COHORT, READ_SECONDS),
    "api_cohort-detail": Rule("cohort.view", COHORT, READ_SECONDS),
    "api_cohort-cases": Rule("cohort.view", COHORT, READ_SECONDS),
    "cohort_export": Rule("cohort.export", COHORT),
    **dict.fromkeys(["cohort_freeze", "case_remove", "api_cohort-freeze"], by_service("cohort.change", COHORT)),
    # Clinical data and near-duplicates
    "cohort_variables": Rule("cohort.export", COHORT),
    **dict.fromkeys(["duplicates", "clinical", "api_pair-list", "api_variable-list", "api_value-list"], LIST),
    "api_table-list": LIST,
    "api_variable-detail": Rule("variable.view", VARIABLE, READ_SECONDS),
    "api_pair-detail": Rule("pair.view", PAIR, READ_SECONDS),
    **dict.fromkeys(["duplicate_settle", "api_pair-settle"], Rule("pair.change", PAIR)),
    **dict.fromkeys(["table", "api_table-detail", "api_table-preview"], Rule("table.view", TABLE, READ_SECONDS)),
    **dict.fromkeys(["table_finish", "api_table-finish"], Rule("table.import", TABLE)),
    **dict.fromkeys(["table_discard", "api_table-discard", "api_table-choose"], Rule("table.change", TABLE)),
    "table_create": Rule("table.upload"),
    "pictures": Rule("pictures.upload"),
    "api_cohort-add-studies": by_service("cohort.change", COHORT),
    # De-identified exports; what was ordered, signed and written is recorded by the services
    **dict.fromkeys(["exports", "api_export-list"], LIST),
    **dict.fromkeys(["export", "api_export-detail", "api_export-pixels"], Rule("export.view", EXPORT, READ_SECONDS)),
    "export_picture": Rule("export.view", EXPORT, READ_SECONDS),
    **dict.fromkeys(["export_download", "api_export-file"], Rule("export.fetch", EXPORT)),
    **dict.fromkeys(["export_restart", "export_discard", "export_review"], Rule("export.change", EXPORT)),
    "api_export-sign": Rule("export.change", EXPORT),
    "reidentify": Rule("pseudonym.reveal"),
    "api_reference-detail": Rule("reference.view", REFERENCE, READ_SECONDS),
    # Campaigns and reading
    "campaign": Rule("campaign.view", CAMPAIGN, READ_SECONDS),
    "campaign_agreement": Rule("campaign.view", CAMPAIGN, READ_SECONDS),
    "api_campaign-detail": Rule("campaign.view", CAMPAIGN, READ_SECONDS),
    "api_campaign-progress": Rule("campaign.view", CAMPAIGN, READ_SECONDS),
    "api_campaign-agreement": Rule("campaign.view", CAMPAIGN, READ_SECONDS),
    "api_campaign-consensus": Rule("campaign.view", CAMPAIGN, READ_SECONDS),
    "campaign_case": Rule("campaign.case", CASE),
    "campaign_export": Rule("campaign.export", CAMPAIGN),
    "api_campaign-export": Rule("campaign.export", CAMPAIGN),
    **dict.fromkeys(
        ["campaign_step", "campaign_readers", "campaign_consensus"], by_service("campaign.change", CAMPAIGN)
    ),
    **{
        f"api_campaign-{step}": by_service("campaign.change", CAMPAIGN)
        for step in ("start", "pause", "resume", "close")
    },
    "reading_next": Rule("campaign.view", CAMPAIGN, READ_SECONDS),
    "reading_task": Rule("task.open", TASK),
    "reading_submit": Rule("task.submit", TASK),
    "reading_skip": Rule("task.skip", TASK),
    "reading_flag": Rule("task.flag", TASK),
    # Models and jobs
    **dict.fromkeys(["model", "api_model-detail"], Rule("model.view", MODEL, READ_SECONDS)),
    **dict.fromkeys(["version", "api_version-detail"], Rule("version.view", VERSION, READ_SECONDS)),
    "api_version-promotions": Rule("version.view", VERSION, READ_SECONDS),
    **dict.fromkeys(["card", "card_edit"], Rule("version.view", VERSION, READ_SECONDS)),
    "api_version-card": Rule("version.view", VERSION, READ_SECONDS),
    "api_version-card-markdown": Rule("version.export", VERSION),
    "roll_back": by_service("version.roll_back", MODEL),
    **dict.fromkeys(["production", "api_model-production"], LIST),
    "api_settings_search-detail": Rule("job.view", TUNING, READ_SECONDS),
    "api_settings_search-train": by_service("settings.use", TUNING),
    "job_train": by_service("settings.use", JOB),
    "training_toml": Rule("job.view", TRAINING, READ_SECONDS),
    "job_export": by_service("job.submit", JOB),
    "api_training_run-detail": Rule("job.view", TRAINING, READ_SECONDS),
    **dict.fromkeys(["training_runs", "training_compare", "training_compare_export", "training_check"], LIST),
    "cross_validation": Rule("job.view", CROSS_VALIDATION, READ_SECONDS),
    "cross_validation_export": Rule("cross_validation.export", CROSS_VALIDATION),
    "api_cross_validation-detail": Rule("job.view", CROSS_VALIDATION, READ_SECONDS),
    **dict.fromkeys(["promote", "api_version-promote"], by_service("version.promote", VERSION)),
    **dict.fromkeys(["job", "api_job-detail", "api_job-metrics"], Rule("job.view", JOB, READ_SECONDS)),
    **dict.fromkeys(["job_log", "api_job-log"], Rule("job.log", JOB, READ_SECONDS)),
    **dict.fromkeys(["job_cancel", "api_job-cancel"], by_service("job.cancel", JOB)),
    **dict.fromkeys(["job_retry", "api_job-retry"], by_service("job.retry", JOB)),
    **dict.fromkeys(["job_priority", "api_job-priority"], by_service("job.prioritise", JOB)),
    **dict.fromkeys(
        ["prediction", "prediction_explain", "api_prediction-explain"],
        Rule("prediction.view", PREDICTION, READ_SECONDS),
    ),
    "api_prediction-detail": Rule("prediction.view", PREDICTION, READ_SECONDS),
    **dict.fromkeys(["evaluation", "api_evaluation-detail"], Rule("evaluation.view", EVALUATION, READ_SECONDS)),
    "evaluation_cases": Rule("evaluation.export", EVALUATION),
    # Routing: what a rule does, and every change, is recorded by the services
    **dict.fromkeys(["rules", "api_rule-list", "api_routed-list"], LIST),
    **dict.fromkeys(["rule", "api_rule-detail", "rule_edit"], Rule("rule.view", RULE, READ_SECONDS)),
    **dict.fromkeys(["rule_try", "api_rule-dry-run"], Rule("rule.try", RULE, READ_SECONDS)),
    **dict.fromkeys(["rule_preview", "api_rule-try", "rule_create"], LIST),
    **dict.fromkeys(["rule_switch", "rule_move", "rule_delete"], by_service("rule.change", RULE)),
    **dict.fromkeys(["api_rule-enable", "api_rule-disable", "api_rule-move"], by_service("rule.change", RULE)),
    **dict.fromkeys(["rule_run", "api_rule-run"], by_service("rule.run", RULE)),
    "api_routed-detail": Rule("rule.view", ROUTED, READ_SECONDS),
    **dict.fromkeys(["routed_resend", "api_routed-resend"], by_service("study.resend", ROUTED)),
    # Projects and people
    "project": Rule("project.view", PROJECT, READ_SECONDS),
    "member_set": by_service("member.set", PROJECT),
    "member_remove": by_service("member.remove", MEMBER),
    "user_active": by_service("user.change", USER),
    # The trail itself
    "audit": Rule("audit.view", seconds=READ_SECONDS),
    "api_audit-list": Rule("audit.view", seconds=READ_SECONDS),
}
