"""Folders, files and archives through the command."""

from __future__ import annotations

import io
import json
import zipfile

import pytest
from django.core.management import CommandError, call_command

from studies.ingest import limits, quarantine, store
from studies.ingest.importing import import_paths, import_uploads
from studies.ingest.store import open_batch
from studies.models import ImportBatch, Instance, Refusal, Study
from tests import factories

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def media(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path / "media"


@pytest.fixture
def project():
    return factories.ProjectFactory(slug="lung")


def run(*paths, project="lung", **options):
    out = io.StringIO()
    call_command("import_dicom", *map(str, paths), project=project, json=True, stdout=out, **options)
    return json.loads(out.getvalue())


def a_zip(path, entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


def test_a_folder_with_good_and_bad_files(project, tmp_path):
    source = tmp_path / "in"
    (source / "deep" / "er").mkdir(parents=True)
    slices = [factories.part10_bytes(d) for d in factories.ct_datasets(3)]
    for k, data in enumerate(slices):
        (source / "deep" / "er" / f"{k}.dcm").write_bytes(data)
    (source / "again.dcm").write_bytes(slices[0])
    (source / "empty.dcm").write_bytes(b"")
    (source / "notes.txt").write_text("hello " * 100)
    (source / "cut.dcm").write_bytes(slices[1][:-100])
    (source / "link.dcm").symlink_to("/etc/hostname")
    a_zip(source / "more.zip", [("x/y.dcm", factories.part10_bytes(factories.ct_slice()))])
    found = run(source)
    assert (found["stored"], found["duplicate"], found["refused"]) == (4, 1, 4)
    assert {f["name"]: f["code"] for f in found["files"] if f["state"] == "refused"} == {
        "empty.dcm": "empty",
        "notes.txt": "not_dicom",
        "cut.dcm": "truncated",
        "link.dcm": "unsafe_path",
    }
    assert sorted(s["number_of_instances"] for s in found["studies"]) == [1, 3]
    batch = ImportBatch.objects.get()
    assert (batch.stored, batch.duplicate, batch.refused, batch.project) == (4, 1, 4, project)
    assert Refusal.objects.count() == 4


def test_hostile_archive_entries(project, tmp_path):
    good = factories.part10_bytes(factories.ct_slice())
    inner = a_zip(tmp_path / "inner.zip", [("a.dcm", good)]).read_bytes()
    bomb = good[:132] + b"\0" * (limits.ZIP_RATIO_FROM + 1_000_000)
    path = a_zip(
        tmp_path / "evil.zip",
        [
            ("../../out.dcm", good),
            ("/abs.dcm", good),
            ("c:\\x.dcm", good),
            ("in.zip", inner),
            ("bomb", bomb),
            ("ok", good),
        ],
    )
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    found = run(path)
    assert {f["name"].removeprefix("evil.zip/"): f["code"] or f["state"] for f in found["files"]} == {
        "../../out.dcm": "unsafe_path",
        "/abs.dcm": "unsafe_path",
        "c:\\x.dcm": "unsafe_path",
        "in.zip": "nested_archive",
        "bomb": "zip_bomb",
        "ok": "stored",
        "link": "unsafe_path",
    }
    assert Instance.objects.count() == 1
    assert not (tmp_path / "out.dcm").exists()


def test_a_damaged_archive(project, tmp_path):
    good = factories.part10_bytes(factories.ct_slice())
    path = a_zip(tmp_path / "a.zip", [("1", good), ("2", factories.part10_bytes(factories.ct_slice(1)))])
    data = bytearray(path.read_bytes())
    data[200:260] = b"\xff" * 60
    path.write_bytes(data)
    (tmp_path / "half.zip").write_bytes(bytes(data[:400]))
    found = run(path, tmp_path / "half.zip")
    assert [(f["name"], f["state"], f["code"]) for f in found["files"]] == [
        ("a.zip/1", "refused", "bad_zip"),
        ("a.zip/2", "stored", ""),
        ("half.zip", "refused", "bad_zip"),
    ]


def test_the_exit_tells_when_nothing_could_be_read(project, tmp_path):
    (tmp_path / "a.txt").write_text("x" * 500)
    with pytest.raises(CommandError, match="Nothing could be imported"):
        run(tmp_path / "a.txt")
    with pytest.raises(CommandError, match="Nothing could be imported"):
        run(tmp_path / "missing")
    assert Refusal.objects.filter(code="not_found").count() == 1


def test_projects(tmp_path):
    (tmp_path / "a.dcm").write_bytes(factories.part10_bytes(factories.ct_slice()))
    with pytest.raises(CommandError, match="no project “new”"):
        run(tmp_path / "a.dcm", project="new")
    assert run(tmp_path / "a.dcm", project="new", create_project=True)["project"] == "new"
    assert Study.objects.get().project.slug == "new"


def test_files_of_one_name_in_one_upload_are_both_stored(project, tmp_path):
    one, two = (factories.part10_bytes(dataset) for dataset in factories.ct_datasets(2))
    batch = open_batch(project, ImportBatch.Source.UPLOAD)
    packed = a_zip(tmp_path / "a.zip", [("IM0001", one)])
    with zipfile.ZipFile(packed, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("IM0001", two)
    found = import_uploads([(io.BytesIO(one), "IM0001"), (io.BytesIO(two), "IM0001")], batch=batch)
    assert [(outcome.name, outcome.state) for outcome in found.outcomes] == [("IM0001", "stored")] * 2
    again = import_paths([packed], batch=open_batch(project, ImportBatch.Source.UPLOAD))
    assert [(outcome.name, outcome.state) for outcome in again.outcomes] == [("a.zip/IM0001", "duplicate")] * 2
    assert {store.absolute_path(row.file).read_bytes() for row in Instance.objects.all()} == {one, two}


def test_broken_files_of_one_name_are_both_explained_and_kept(project):
    one, two = (factories.part10_bytes(dataset) for dataset in factories.ct_datasets(2))
    batch = open_batch(project, ImportBatch.Source.UPLOAD)
    import_uploads([(io.BytesIO(one[:-9]), "IM0001"), (io.BytesIO(two[:-99]), "IM0001")], batch=batch)
    kept = Refusal.objects.order_by("pk")
    assert [(row.name, row.code) for row in kept] == [("IM0001", "truncated")] * 2
    assert [quarantine.path_of(row).read_bytes() for row in kept] == [one[:-9], two[:-99]]
