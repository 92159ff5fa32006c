"""Which queued job is next. One rule: in SQL for the claim, and played forward in Python for places in the queue.

Jobs of one project and one priority wait in one line. The next job is the head of a line:
1. of the highest level: the line's priority, and one more for every `JOB_AGEING_SECONDS` that it has waited since one
   of its jobs was last served, so that nothing waits for ever behind what is more urgent;
2. of the project with the fewest running jobs in this queue, then of the one whose last job started longest ago:
   projects take turns, whatever number of jobs they bring;
3. the more urgent line of that project, and in a line the job that waits longest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import connection

SERVED_WITHIN = "1 day"  # a project that was served longer ago counts as not served

# Running and ended jobs say when a line was served; the claims of attempts that were lost do not count.
_STANDINGS = """
WITH line AS (
    SELECT project_id, priority, min(queued_at) AS since FROM jobs_job
    WHERE state = 'queued' AND queue = %(queue)s AND (%(tasks)s::text[] IS NULL OR task = ANY(%(tasks)s))
    GROUP BY project_id, priority
), served AS (
    SELECT project_id, priority, count(*) FILTER (WHERE state = 'running') AS running,
        max(started_at) AS started, max(coalesce(finished_at, statement_timestamp())) AS ended
    FROM jobs_job
    WHERE queue = %(queue)s AND started_at IS NOT NULL
        AND (state = 'running' OR state <> 'queued' AND finished_at > statement_timestamp() - %(within)s::interval)
    GROUP BY project_id, priority
), project AS (
    SELECT project_id, sum(running) AS running, max(started) AS started FROM served GROUP BY project_id
), standing AS (
    SELECT line.project_id, line.priority, coalesce(project.running, 0)::int AS running, project.started,
        line.priority + floor(
            extract(epoch FROM statement_timestamp() - greatest(line.since, served.ended)) / %(ageing)s
        )::int AS level
    FROM line LEFT JOIN served USING (project_id, priority) LEFT JOIN project USING (project_id)
)
"""
_NEXT = (
    _STANDINGS
    + """
SELECT job.id FROM jobs_job job JOIN standing USING (project_id, priority)
WHERE job.state = 'queued' AND job.queue = %(queue)s AND (%(tasks)s::text[] IS NULL OR job.task = ANY(%(tasks)s))
ORDER BY standing.level DESC, standing.running, standing.started NULLS FIRST, standing.priority DESC,
    job.queued_at, job.id
LIMIT 1 FOR NO KEY UPDATE OF job SKIP LOCKED
"""
)
_WAITING = (
    _STANDINGS
    + """
SELECT job.id, job.queued_at, project_id, priority, standing.level, standing.running, standing.started
FROM jobs_job job JOIN standing USING (project_id, priority)
WHERE job.state = 'queued' AND job.queue = %(queue)s ORDER BY job.queued_at, job.id
"""
)


def lock_next(queue: str, tasks: Sequence[str]) -> int | None:
    """Lock the job of `queue` that is next among those of `tasks`; its key. Rows that others hold are passed over."""
    with connection.cursor() as cursor:
        cursor.execute(_NEXT, _values(queue, list(tasks)))
        row = cursor.fetchone()
    return None if row is None else int(row[0])


@dataclass
class _Line:
    project: int
    priority: int
    level: int
    waiting: deque[tuple[datetime, int]]


def places(queue: str) -> dict[int, int]:
    """Key of every queued job → its place, 1 is next, if no job ends and none is added meanwhile."""
    with connection.cursor() as cursor:
        cursor.execute(_WAITING, _values(queue, None))
        rows = cursor.fetchall()
    lines: dict[tuple[int, int], _Line] = {}
    running: dict[int, int] = {}
    started: dict[int, tuple[int, float]] = {}  # comparable: never, at a time, or at a step of what is played here
    for job, queued_at, project, priority, level, now_running, last in rows:
        line = lines.setdefault((project, priority), _Line(project, priority, level, deque()))
        line.waiting.append((queued_at, job))
        running[project] = now_running
        started[project] = (0, 0.0) if last is None else (1, last.timestamp())

    def rank(line: _Line) -> tuple[Any, ...]:
        return (-line.level, running[line.project], started[line.project], -line.priority, line.waiting[0])

    found: dict[int, int] = {}
    left = list(lines.values())
    while left:
        line = min(left, key=rank)
        _, job = line.waiting.popleft()
        found[job] = len(found) + 1
        running[line.project] += 1
        started[line.project] = (2, float(len(found)))
        line.level = line.priority
        if not line.waiting:
            left.remove(line)
    return found


def _values(queue: str, tasks: list[str] | None) -> dict[str, Any]:
    return {"queue": queue, "tasks": tasks, "within": SERVED_WITHIN, "ageing": settings.JOB_AGEING_SECONDS}
