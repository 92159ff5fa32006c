"""An installed viewer of a few small files, so that serving is tested without the release."""

import gzip

import pytest

from portal.viewer import install

INDEX = '<html><head><script src="/viewer/app-config.js"></script></head><body>OHIF</body></html>'
BUNDLE = "app.bundle.0f6159c501addfe9.js"
BUNDLE_TEXT = b"console.log('viewer');" * 200


@pytest.fixture
def viewer(settings, tmp_path):
    """The folder of the installed viewer."""
    settings.DATA = tmp_path
    folder = install.folder(tmp_path)
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text(INDEX)
    (folder / BUNDLE).write_bytes(BUNDLE_TEXT)
    (folder / (BUNDLE + ".gz")).write_bytes(gzip.compress(BUNDLE_TEXT))
    (folder / "app.bundle.css").write_text("body{}")
    (tmp_path / "secret.txt").write_text("not for anybody")
    return folder
