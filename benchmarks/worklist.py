"""How long the worklist takes on the server: `python -m benchmarks.worklist [studies]` (20,000 where none are given).

Fills a test database of its own with synthetic rows (no files), asks the page through Django's test client, and prints
CPU of this process and of its PostgreSQL backend for each request, the median of seven. Needs DATABASE_URL of a server
where databases may be made. All names are invented, all studies are marked synthetic.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings.test")

import django

django.setup()

FAMILIES = [
    "ADLER",
    "ANNANDALE",
    "BAUER",
    "BRANDT",
    "CONTI",
    "DIAZ",
    "FISCHER",
    "GARCIA",
    "HAHN",
    "IVANOV",
    "JANSEN",
    "KELLER",
    "LANG",
    "MARTIN",
    "NOVAK",
    "OKAFOR",
    "PEREZ",
    "QUINN",
    "ROSSI",
    "SILVA",
    "TANAKA",
    "WEBER",
]
GIVEN = [
    "ANNA",
    "ANNE",
    "BEN",
    "CARLA",
    "DAN",
    "EVA",
    "FRANZ",
    "GRETA",
    "HANNA",
    "IAN",
    "JOANNA",
    "KARL",
    "LENA",
    "MAX",
]
KINDS = [
    ("CT", "CHEST", "CT thorax"),
    ("CT", "ABDOMEN", "CT abdomen portal venous"),
    ("MR", "BRAIN", "MR brain"),
    ("MR", "PROSTATE", "MR prostate multiparametric"),
    ("DX", "CHEST", "Chest PA"),
    ("MG", "BREAST", "Mammography"),
]
FINDINGS = ["missing_slices", "blank", "clipped", "low_contrast"]


def fill(count: int) -> Any:
    """`count` studies of two projects, nine of ten in the first, whose manager is returned."""
    from inference.prediction.models import Prediction
    from inference.registry.models import Model, ModelVersion
    from portal.accounts import services as accounts
    from portal.accounts.models import Role
    from studies.cohorts.models import Case, Cohort, CohortPatient
    from studies.models import Patient, Series, Study
    from studies.quality.models import Finding

    rng = random.Random(1)
    user = accounts.create_user(username="manager", password="synthetic only")
    projects = [accounts.create_project(slug=f"bench-{n}", name=f"Bench {n}", by=user, synthetic=True) for n in (1, 2)]
    reader = accounts.create_user(username="reader", password="synthetic only")
    accounts.set_role(project=projects[0], user=reader, role=Role.READER)
    patients = Patient.objects.bulk_create(
        Patient(
            project=projects[n % 10 == 9],
            patient_id=f"SYN-{n:06d}",
            patient_name=f"{rng.choice(FAMILIES)}^{rng.choice(GIVEN)}",
            patient_sex=rng.choice("FM"),
            patient_birth_date=date(1930, 1, 1) + timedelta(days=rng.randrange(30_000)),
        )
        for n in range(count * 2 // 3)
    )
    studies = []
    for n in range(count):
        patient = patients[n % len(patients)]
        modality, part, words = rng.choice(KINDS)
        studies.append(
            Study(
                project=patient.project,
                patient=patient,
                study_instance_uid=f"1.2.826.0.1.3680043.2.1125.9.{n}",
                study_date=date(2026, 11, 26) - timedelta(days=rng.randrange(3650)),
                study_time=f"{rng.randrange(24):02d}1500",
                study_description=words,
                accession_number=f"SA{n:07d}",
                modalities_in_study=[modality],
                body_parts_examined=[part],
                number_of_series=3,
                number_of_instances=300,
                synthetic=True,
            )
        )
    studies = Study.objects.bulk_create(studies, batch_size=2000)
    series = Series.objects.bulk_create(
        (
            Series(
                study=study,
                series_instance_uid=f"{study.study_instance_uid}.{k}",
                modality=study.modalities_in_study[0],
                series_number=k,
                number_of_instances=100,
            )
            for study in studies
            for k in range(3)
        ),
        batch_size=5000,
    )
    versions = []
    for name in ("organs", "nodules"):
        model = Model.objects.create(project=projects[0], name=name, task="segmentation")
        versions += [
            ModelVersion.objects.create(model=model, number=n, bundle=f"{name}-{n}", digest="0" * 64, manifest={})
            for n in (1, 2)
        ]
    Prediction.objects.bulk_create(
        (
            Prediction(version=version, study=study, image=series[3 * k])
            for k, study in enumerate(studies)
            if study.project_id == projects[0].pk
            for version in rng.sample(versions, rng.choice([0, 0, 0, 1, 2]))
        ),
        batch_size=5000,
    )
    Finding.objects.bulk_create(
        (Finding(series=one, code=rng.choice(FINDINGS), reason="synthetic") for one in series if rng.random() < 0.03),
        batch_size=5000,
    )
    cohort = Cohort.objects.create(project=projects[0], name="Synthetic cohort")
    members = [(study, series[3 * k]) for k, study in enumerate(studies) if study.project_id == projects[0].pk][
        : count // 20
    ]
    places = {
        place.patient_id: place
        for place in CohortPatient.objects.bulk_create(
            CohortPatient(cohort=cohort, patient_id=pk) for pk in {study.patient_id for study, _ in members}
        )
    }
    Case.objects.bulk_create(
        Case(cohort=cohort, cohort_patient=places[study.patient_id], study=study, image=image, name=f"C-{n:05d}")
        for n, (study, image) in enumerate(members)
    )
    return user, reader, cohort


def requests(cohort: Any, count: int) -> list[tuple[str, dict[str, str]]]:
    deep = max(count // 50 // 2, 2)
    typed = [
        (f"typing “{text}”", {"q": text}) for text in ("a", "an", "ann", "anna", "sa0001", "SYN-0042", "thorax", "zzz")
    ]
    pages = [("first page", {}), (f"page {deep}", {"page": str(deep)}), ("last page", {"page": "2000"})]
    sorts = [(f"sorted by {name}", {"sort": name}) for name in ("patient", "-patient", "study", "acquired", "-added")]
    filters = [
        ("CT", {"modality": "CT"}),
        ("chest", {"body_part": "CHEST"}),
        ("last year", {"since": "365"}),
        ("with AI result", {"ai": "yes"}),
        ("without AI result", {"ai": "no"}),
        ("any finding", {"quality": "any"}),
        ("without findings", {"quality": "none"}),
        ("blank images", {"quality": "blank"}),
        ("cohort", {"cohort": str(cohort.pk)}),
        ("one project", {"project": "bench-1"}),
        ("AI, CT, typing “ann”", {"ai": "yes", "modality": "CT", "q": "ann"}),
        ("AI, sorted by patient", {"ai": "yes", "sort": "patient"}),
        ("AI, page 60", {"ai": "yes", "page": "60"}),
    ]
    return pages + typed + sorts + filters


def measured(ask: Callable[[], Any], backend: Any, repeats: int = 7) -> tuple[float, float]:
    """Median CPU of this process in ms, and mean CPU of the backend in ms (its clock ticks every 10 ms)."""
    ask()
    here = []
    before = backend.cpu_times()
    for _ in range(repeats):
        began = time.process_time()
        ask()
        here.append(1000 * (time.process_time() - began))
    after = backend.cpu_times()
    there = 1000 * (after.user + after.system - before.user - before.system) / repeats
    return statistics.median(here), there


def main(count: int) -> int:
    import psutil
    from django.db import connection
    from django.test import Client
    from django.test.utils import override_settings
    from django.urls import reverse

    name = connection.creation.create_test_db(verbosity=0, autoclobber=True)
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            override_settings(MEDIA_ROOT=folder, ALLOWED_HOSTS=["testserver"]),
        ):
            user, reader, cohort = fill(count)
            with connection.cursor() as cursor:
                cursor.execute("ANALYZE")
                # Parallel workers are processes of their own, whose CPU would be missed.
                cursor.execute("SET max_parallel_workers_per_gather = 0")
                cursor.execute("SELECT pg_backend_pid()")
                backend = psutil.Process(cursor.fetchone()[0])
            print(f"{count} synthetic studies; CPU in ms: Django, PostgreSQL, both")
            worst = 0.0
            for who in (user, reader):
                client = Client()
                client.force_login(who)
                whole = measured(lambda client=client: client.get(reverse("studies")), backend)
                print(
                    f"{who.username:8} whole page                    {whole[0]:7.1f} {whole[1]:7.1f} {sum(whole):7.1f}"
                )
                for words, data in requests(cohort, count):

                    def ask(client: Client = client, data: dict[str, str] = data) -> None:
                        answer = client.post(reverse("studies"), data, HTTP_HX_REQUEST="true")
                        assert answer.status_code == 200, answer.content

                    here, there = measured(ask, backend)
                    worst = max(worst, here + there)
                    print(f"{who.username:8} {words:28} {here:7.1f} {there:7.1f} {here + there:7.1f}", flush=True)
            print(f"worst {worst:.1f} ms")
    finally:
        connection.creation.destroy_test_db(name, verbosity=0)
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000))
