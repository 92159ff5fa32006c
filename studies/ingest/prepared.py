"""Statements that every group of objects needs. They are prepared once in each connection, because planning them costs
more than running them; what is rare goes through the ORM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.postgresql.base import ServerBindingCursor

HELD = """
SELECT sop_instance_uid FROM studies_instance WHERE project_id = %s AND sop_instance_uid = ANY(%s::text[])
"""

PROJECT_HOLDING = """
SELECT project_id FROM studies_study WHERE study_instance_uid = %s AND project_id = ANY(%s::bigint[])
ORDER BY id LIMIT 1
"""

# All of them, or none where one is missing. Whoever waited for a lock asks for the series in a statement of its own,
# which sees them as they are after the other's commit.
LOCK_STUDIES = """
SELECT study.id, study.study_instance_uid, study.number_of_instances, patient.id, patient.patient_id
FROM studies_study AS study JOIN studies_patient AS patient ON patient.id = study.patient_id
WHERE study.project_id = %(project)s AND study.study_instance_uid = ANY(%(uids)s::text[])
    AND cardinality(%(uids)s::text[]) = (
        SELECT count(*) FROM studies_study
        WHERE project_id = %(project)s AND study_instance_uid = ANY(%(uids)s::text[]))
ORDER BY study.study_instance_uid FOR UPDATE OF study
"""

SERIES = """
SELECT id, study_id, series_instance_uid, number_of_instances, origin, created_by_id
FROM studies_series WHERE study_id = ANY(%s::bigint[]) AND series_instance_uid = ANY(%s::text[])
"""

# New instances of series that exist, all of them or none, with the numbers and lists that series, studies and the
# import repeat; an import that starts with them gets its row, and the audit trail one for each study. `given` is a JSON
# array with an object for each file. A series takes objects of its own kind only, of drawings and annotations those of
# its own author, and images of its own patient (`rows.misplaced` says it in words).
JOIN = """
WITH given AS (
    SELECT * FROM json_to_recordset(%(given)s::json) AS given (
        study_uid text, series_uid text, patient_id text, derived boolean, sop_uid text, sop_class text, syntax text,
        number integer, rows integer, columns integer, frames integer, file text, size bigint, sha256 text,
        frame_table jsonb, header text)
), place AS (
    SELECT series.id AS series_id, study.id AS study_id, patient.id AS patient_key, study_instance_uid AS study_uid,
        series_instance_uid AS series_uid, patient.patient_id AS its_patient_id
    FROM studies_study AS study
    JOIN studies_patient AS patient ON patient.id = study.patient_id
    JOIN studies_series AS series ON series.study_id = study.id
    WHERE study.project_id = %(project)s
        AND study_instance_uid = ANY (%(studies)s::text[])
        AND series_instance_uid = ANY (%(series)s::text[])
        AND origin = %(origin)s
        AND (NOT %(own)s::boolean OR created_by_id IS NOT DISTINCT FROM %(author)s::bigint)
    ORDER BY study_instance_uid, series_instance_uid
    FOR NO KEY UPDATE OF study, series
), placed AS (
    SELECT * FROM given JOIN place USING (study_uid, series_uid)
    WHERE derived OR patient_id = '' OR its_patient_id = '' OR patient_id = its_patient_id
), added AS (
    INSERT INTO studies_instance (
        project_id, created_at, series_id, sop_instance_uid, sop_class_uid, transfer_syntax_uid, instance_number,
        rows, columns, number_of_frames, file, file_size, sha256, frame_table, header)
    SELECT %(project)s, %(now)s::timestamptz, series_id, sop_uid, sop_class, syntax, number, rows, columns, frames,
        file, size, sha256, frame_table, header
    FROM placed WHERE (SELECT count(*) FROM placed) = (SELECT count(*) FROM given)
    ORDER BY sop_uid
    ON CONFLICT DO NOTHING
    RETURNING id, series_id, sop_instance_uid
), grown AS (
    UPDATE studies_series AS series
    SET number_of_instances = series.number_of_instances + more.n, updated_at = %(now)s
    FROM (SELECT series_id, count(*) AS n FROM added GROUP BY series_id) AS more
    WHERE series.id = more.series_id
    RETURNING series.id, series.study_id, more.n, series.number_of_instances = more.n AS started,
        series.modality, series.body_part_examined
), counted AS (
    UPDATE studies_study AS study
    SET number_of_instances = study.number_of_instances + more.n,
        number_of_series = study.number_of_series + more.started,
        modalities_in_study = study.modalities_in_study || ARRAY(
            SELECT value FROM unnest(more.modalities) WITH ORDINALITY AS one (value, k)
            WHERE value <> ALL (study.modalities_in_study) GROUP BY value ORDER BY min(k)),
        body_parts_examined = study.body_parts_examined || ARRAY(
            SELECT value FROM unnest(more.body_parts) WITH ORDINALITY AS one (value, k)
            WHERE value <> ALL (study.body_parts_examined) GROUP BY value ORDER BY min(k)),
        updated_at = %(now)s
    FROM (
        SELECT study_id, sum(n) AS n, count(*) FILTER (WHERE started) AS started,
            array_agg(modality ORDER BY id) FILTER (WHERE started AND modality <> '') AS modalities,
            array_agg(body_part_examined ORDER BY id) FILTER (WHERE started AND body_part_examined <> '') AS body_parts
        FROM grown GROUP BY study_id
    ) AS more
    WHERE study.id = more.study_id
), total AS (
    SELECT count(*) AS n FROM added
), new_batch AS (
    INSERT INTO studies_importbatch (project_id, source, created_by_id, created_at, stored, duplicate, refused)
    SELECT %(project)s, %(source)s::text, %(by)s::bigint, %(now)s, n, 0, 0
    FROM total WHERE %(source)s::text IS NOT NULL AND n > 0
    RETURNING id
), told AS (
    INSERT INTO audit_auditevent (
        user_id, token_id, action, object_kind, object_id, project_id, patient, address, request_id, outcome, detail)
    SELECT %(by)s::bigint, %(token)s::bigint, 'study.store', 'studies.study', study_id::text, %(project)s,
        patient_key, %(address)s::inet, %(request)s::text, 'success', jsonb_build_object('batch', new_batch.id)
    FROM (SELECT DISTINCT study_id, patient_key FROM added JOIN place USING (series_id)) AS grown_study, new_batch
), old_batch AS (
    UPDATE studies_importbatch SET stored = stored + n
    FROM total WHERE id = %(batch)s::bigint AND n > 0
)
SELECT sop_instance_uid, added.id, series_id, series_uid, new_batch.id
FROM added JOIN place USING (series_id) LEFT JOIN new_batch ON true
"""
JOIN = " ".join(JOIN.split())  # psycopg takes a text apart at every call where it is longer than 4096 characters


def fetch(statement: str, values: Sequence[Any] | dict[str, Any]) -> list[tuple[Any, ...]]:
    """Run one of the statements above on Django's connection, inside its transaction; all rows of the answer."""
    database = connections[DEFAULT_DB_ALIAS]
    database.close_if_health_check_failed()
    database.ensure_connection()
    cursor_class: Any = ServerBindingCursor
    raw = cursor_class(database.connection)
    wrapped = database.make_debug_cursor(raw) if database.queries_logged else database.make_cursor(raw)
    with wrapped as cursor:
        cursor.execute(statement, values)
        return cursor.fetchall()
