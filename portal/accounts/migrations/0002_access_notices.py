"""Tell every process when somebody's access may have changed, whoever changes it.

The notice leaves with the commit (PostgreSQL's NOTIFY), so whoever gets it reads the new state.
"""

from django.db import migrations

FUNCTION = """
CREATE FUNCTION readroom_access_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('readroom_access', '');
    RETURN NULL;
END $$
"""
EVENTS = {
    "accounts_membership": "INSERT OR UPDATE OR DELETE OR TRUNCATE",
    "accounts_project": "UPDATE OF slug OR DELETE OR TRUNCATE",
    "accounts_user": "UPDATE OF password, is_active, is_superuser OR DELETE OR TRUNCATE",
    "accounts_apitoken": "UPDATE OF digest, user_id, expires_at OR DELETE OR TRUNCATE",
    "django_session": "DELETE OR TRUNCATE",  # a session is never given to another user: signing in makes a new one
}


def trigger(table: str, events: str) -> str:
    return (
        f"CREATE TRIGGER access_changed AFTER {events} ON {table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION readroom_access_changed()"
    )


class Migration(migrations.Migration):
    dependencies = [("accounts", "0001_initial"), ("sessions", "0001_initial")]
    operations = [
        migrations.RunSQL(FUNCTION, "DROP FUNCTION readroom_access_changed()"),
        *[
            migrations.RunSQL(trigger(table, events), f"DROP TRIGGER access_changed ON {table}")
            for table, events in EVENTS.items()
        ],
    ]
