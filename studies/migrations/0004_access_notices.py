"""Tell every process when objects go away, move, or become visible to others (see accounts 0002).

New objects need no notice: what is not known yet is looked up.
"""

from django.db import migrations

EVENTS = {
    "studies_embargo": "INSERT OR UPDATE OR DELETE OR TRUNCATE",
    "studies_study": "UPDATE OF project_id, study_instance_uid OR DELETE OR TRUNCATE",
    "studies_series": "UPDATE OF study_id, series_instance_uid, origin, created_by_id OR DELETE OR TRUNCATE",
    "studies_instance": "UPDATE OR DELETE OR TRUNCATE",
}


def trigger(table: str, events: str) -> str:
    return (
        f"CREATE TRIGGER access_changed AFTER {events} ON {table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION readroom_access_changed()"
    )


class Migration(migrations.Migration):
    dependencies = [("studies", "0003_quarantine"), ("accounts", "0002_access_notices")]
    operations = [
        migrations.RunSQL(trigger(table, events), f"DROP TRIGGER access_changed ON {table}")
        for table, events in EVENTS.items()
    ]
