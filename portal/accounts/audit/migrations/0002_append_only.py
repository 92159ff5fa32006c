"""Rows of the audit trail are added and never change, whoever asks: the table's owner meets the trigger as well.

ENABLE ALWAYS: also in sessions that switch ordinary triggers off (session_replication_role).
"""

from django.db import migrations

CREATE = """
CREATE FUNCTION readroom_audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'The audit trail is append-only; % is refused.', TG_OP USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_auditevent
    FOR EACH STATEMENT EXECUTE FUNCTION readroom_audit_refuse();
ALTER TABLE audit_auditevent ENABLE ALWAYS TRIGGER append_only
"""
DROP = "DROP TRIGGER append_only ON audit_auditevent; DROP FUNCTION readroom_audit_refuse()"


class Migration(migrations.Migration):
    dependencies = [("audit", "0001_trail")]
    operations = [migrations.RunSQL(CREATE, DROP)]
