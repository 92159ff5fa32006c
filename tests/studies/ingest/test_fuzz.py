"""A few hundred damaged files; `benchmarks/fuzz_ingest.py` runs as many as one likes."""

from __future__ import annotations

import pytest

from studies.ingest import checking
from studies.models import ImportBatch
from tests import factories
from tests.studies.ingest.fuzzing import fuzz


@pytest.mark.django_db
def test_damaged_files_are_stored_or_refused_and_never_lost(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path / "media"
    figures = fuzz(factories.ProjectFactory(), range(300))
    assert (figures.crashes, figures.slow, figures.lost) == ([], [], [])
    assert sum(figures.outcomes.values()) == 300
    assert len(figures.outcomes) > 5  # the mutations reach many ways to fail
    assert figures.outcomes["stored"] > 10
    assert figures.pictures["drawn"] > 5
    batch = ImportBatch.objects.get()
    assert batch.stored + batch.duplicate + batch.refused == 300
    assert checking.check(deep=True, grace=0).findings == []
