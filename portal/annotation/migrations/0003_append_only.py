"""Drafts, reads and adjudications can be added, never changed or deleted, whoever asks."""

from django.db import migrations

TABLES = ["annotation_draft", "annotation_read", "annotation_adjudication"]

FUNCTION = """
CREATE FUNCTION annotation_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'restrict_violation';
END
$$;
"""


def triggers(verb: str) -> str:
    if verb == "drop":
        return "".join(f"DROP TRIGGER append_only ON {table};" for table in TABLES)
    return "".join(
        f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON {table} "
        "FOR EACH ROW EXECUTE FUNCTION annotation_append_only();"
        for table in TABLES
    )


class Migration(migrations.Migration):
    dependencies = [("annotation", "0002_reads_are_kept")]

    operations = [
        migrations.RunSQL(
            FUNCTION + triggers("create"), triggers("drop") + "DROP FUNCTION annotation_append_only();"
        )
    ]
