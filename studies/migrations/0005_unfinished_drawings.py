from django.conf import settings
from django.db import migrations, models


def drawings_are_annotations(apps, schema_editor):
    """Before this migration, every drawing was an annotation."""
    for model in ("Series", "Refusal"):
        apps.get_model("studies", model).objects.filter(origin="draft").update(origin="annotation")


class Migration(migrations.Migration):

    dependencies = [
        ('studies', '0004_access_notices'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.RemoveConstraint(
            model_name='series',
            name='series_origin_known',
        ),
        migrations.AlterField(
            model_name='refusal',
            name='origin',
            field=models.CharField(choices=[('acquired', 'Images'), ('model', 'Model result'), ('annotation', "Reader's annotation"), ('draft', "Reader's unfinished drawing"), ('reference', 'Reference standard')], default='acquired', max_length=10),
        ),
        migrations.AlterField(
            model_name='series',
            name='origin',
            field=models.CharField(choices=[('acquired', 'Images'), ('model', 'Model result'), ('annotation', "Reader's annotation"), ('draft', "Reader's unfinished drawing"), ('reference', 'Reference standard')], default='acquired', max_length=10),
        ),
        migrations.AddConstraint(
            model_name='series',
            constraint=models.CheckConstraint(condition=models.Q(('origin__in', ['acquired', 'model', 'annotation', 'draft', 'reference'])), name='series_origin_known'),
        ),
        migrations.RunPython(migrations.RunPython.noop, drawings_are_annotations),
    ]
