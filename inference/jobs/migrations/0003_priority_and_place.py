"""Jobs have a priority and know since when they wait; queued ones have waited since they were made."""

import django.db.models.functions.datetime
from django.db import migrations, models
from django.db.models import F


def waits_since_it_was_made(apps, schema_editor):
    apps.get_model("jobs", "Job").objects.update(queued_at=F("created_at"))


class Migration(migrations.Migration):
    dependencies = [
        ("jobs", "0002_attempts_and_delivery"),
    ]

    operations = [
        migrations.AddField(
            model_name="job",
            name="priority",
            field=models.PositiveSmallIntegerField(choices=[(0, "Low"), (1, "Normal"), (2, "Urgent")], default=1),
        ),
        migrations.AddField(
            model_name="job",
            name="queued_at",
            field=models.DateTimeField(
                db_default=django.db.models.functions.datetime.Now(),
                help_text="Waits since; a lost attempt keeps its place",
            ),
        ),
        migrations.AddField(
            model_name="job",
            name="memory",
            field=models.BigIntegerField(
                blank=True, help_text="Most bytes that its process was seen to hold", null=True
            ),
        ),
        migrations.RunPython(waits_since_it_was_made, migrations.RunPython.noop),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                condition=models.Q(("state", "queued")), fields=["queue", "queued_at"], name="job_waiting"
            ),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(fields=["queue", "finished_at"], name="job_served"),
        ),
        migrations.AddConstraint(
            model_name="job",
            constraint=models.CheckConstraint(
                condition=models.Q(("priority__in", [0, 1, 2])), name="job_priority_known"
            ),
        ),
    ]
