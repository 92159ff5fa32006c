"""The installer on a small tarball shaped like the release; the real one is used by the browser tests."""

import base64
import gzip
import hashlib
import io
import tarfile
import threading
from pathlib import Path

import pytest

from portal.viewer import install, patches

PAGE = (
    '<!doctype html><html><head><meta name="msapplication-TileImage" content="/assets/mstile-144x144.png">'
    '<meta name="msapplication-config" content="/assets/b.xml"><meta name="msapplication-TileColor" content="#fff">'
    '<script>window.PUBLIC_URL="/"</script><link rel="manifest" href="/manifest.json">'
    + '<link rel="apple-touch-icon" href="/assets/apple-touch-icon.png">'
    * 10
    + '<link rel="icon shortcut" href="/assets/favicon.ico"><script rel="preload" as="script" src="/app-config.js">'
    '</script><script rel="preload" as="script" type="module" src="/init-service-worker.js"></script>'
    "<title>OHIF</title>"
    '<script>window.PUBLIC_URL="/"</script><script defer src="/app.bundle.0123456789abcdef.js"></script>'
    '<link href="/app.bundle.css" rel="stylesheet"></head><body></body></html>'
)
PUBLIC_PATH = '__webpack_require__.p = "/";'


def release(**changed: str) -> dict[str, str]:
    files = {
        "LICENSE": "MIT",
        "dist/index.html": PAGE,
        "dist/app.bundle.0123456789abcdef.js": PUBLIC_PATH
        + "browserImportFunction('/dicom-microscopy-viewer/x.js');"
        + " " * 4000,
        "dist/app.bundle.css": "@font-face{src:url(/a34f9d1faa5f3315.woff2)}",
        "dist/ort/model.wasm": "dropped",
        "dist/sw.js": "dropped",
        "dist/assets/favicon.ico": "icon",
        "dist/assets/apple-touch-icon.png": "dropped",
    }
    files |= {f"dist/{number}.bundle.0123456789abcdef.js": PUBLIC_PATH for number in range(7)}
    return files | changed


def tarball(path: Path, files: dict[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


@pytest.fixture
def make(tmp_path, monkeypatch):
    def made(files: dict[str, str]) -> Path:
        path = tarball(tmp_path / "release.tgz", files)
        digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
        monkeypatch.setattr(install, "INTEGRITY", f"sha512-{digest}")
        return path

    return made


def test_the_release_ends_below_the_prefix_without_what_is_not_needed(tmp_path, make):
    folder = install.install(tmp_path / "data", tarball=make(release()))

    assert folder == tmp_path / "data" / "viewer" / f"{install.VERSION}-{patches.digest()}"
    page = (folder / "index.html").read_text()
    assert page.count('window.PUBLIC_URL="/viewer/"') == 2
    assert 'src="/viewer/app-config.js"' in page
    assert 'href="/viewer/app.bundle.css"' in page
    assert 'href="/viewer/assets/favicon.ico"' in page
    assert "service-worker" not in page
    assert "manifest" not in page
    assert '"/assets' not in page
    for path in folder.glob("*.bundle.*.js"):
        assert '__webpack_require__.p = "/viewer/";' in path.read_text()
    assert (folder / "app.bundle.css").read_text() == "@font-face{src:url(/viewer/a34f9d1faa5f3315.woff2)}"
    assert not (folder / "ort").exists()
    assert not (folder / "sw.js").exists()
    assert not (folder / "assets" / "apple-touch-icon.png").exists()
    assert (folder / "LICENSE").read_text() == "MIT"


def test_what_shrinks_is_compressed_and_unpacks_to_the_same(tmp_path, make):
    folder = install.install(tmp_path / "data", tarball=make(release()))
    bundle = folder / "app.bundle.0123456789abcdef.js"
    assert gzip.decompress(bundle.with_name(bundle.name + ".gz").read_bytes()) == bundle.read_bytes()
    assert not (folder / "assets" / "favicon.ico.gz").exists()


def test_a_second_run_changes_nothing_and_needs_no_tarball(tmp_path, make):
    folder = install.install(tmp_path / "data", tarball=make(release()))
    before = (folder / "index.html").stat().st_mtime_ns
    assert install.install(tmp_path / "data", tarball=tmp_path / "missing.tgz") == folder
    assert (folder / "index.html").stat().st_mtime_ns == before


def test_runs_at_the_same_time_build_once(tmp_path, make, monkeypatch):
    path, built = make(release()), []
    patch = install.patch
    monkeypatch.setattr(install, "patch", lambda dist: built.append(dist) or patch(dist))
    run = dict(target=install.install, args=(tmp_path / "data",), kwargs={"tarball": path})
    threads = [threading.Thread(**run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert install.installed(tmp_path / "data")


def test_another_file_than_the_pinned_one_is_refused(tmp_path):
    with pytest.raises(install.InstallError, match="SHA-512 differs"):
        install.install(tmp_path / "data", tarball=tarball(tmp_path / "other.tgz", release()))
    assert not install.installed(tmp_path / "data")


def test_a_patch_that_finds_nothing_is_an_error_and_leaves_no_folder(tmp_path, make):
    path = make(release(**{"dist/app.bundle.css": "no address here"}))
    with pytest.raises(install.InstallError, match="style sheet addresses"):
        install.install(tmp_path / "data", tarball=path)
    assert sorted(entry.name for entry in (tmp_path / "data" / "viewer").iterdir()) == [".lock"]


def test_a_missing_tarball_is_told(tmp_path):
    with pytest.raises(install.InstallError, match="no viewer tarball"):
        install.install(tmp_path / "data", tarball=tmp_path / "missing.tgz")


def test_without_npm_the_way_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(install.InstallError, match="VIEWER_TARBALL"):
        install.install(tmp_path / "data")


def test_npm_that_fails_is_quoted(tmp_path, monkeypatch):
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text("#!/bin/sh\necho 'npm error code ENOTFOUND' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}:/usr/bin:/bin")
    with pytest.raises(install.InstallError, match="ENOTFOUND"):
        install.install(tmp_path / "data")


def test_a_full_disk_is_told(tmp_path, make, monkeypatch):
    path = make(release())

    def full(dist):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(install, "compress", full)
    with pytest.raises(install.InstallError, match="full"):
        install.install(tmp_path / "data", tarball=path)
    assert not install.installed(tmp_path / "data")
