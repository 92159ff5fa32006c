"""Serves `js/vendor/plotly.min.js` from the installed plotly package, so that 5 MB need not be committed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from django.contrib.staticfiles.finders import BaseFinder
from django.core.files.storage import FileSystemStorage

NAME = "plotly.min.js"
PREFIX = "js/vendor"


class PlotlyFinder(BaseFinder):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        spec = find_spec("plotly")
        if spec is None or not spec.submodule_search_locations:
            raise RuntimeError("The plotly package is not installed. Run `make run` or `pip install -e .` again.")
        self.storage = FileSystemStorage(Path(next(iter(spec.submodule_search_locations))) / "package_data")
        self.storage.prefix = PREFIX

    def check(self, **kwargs):
        return []

    def find(self, path, find_all=False, **kwargs):
        found = [self.storage.path(NAME)] if path == f"{PREFIX}/{NAME}" else []
        return found if find_all else (found[0] if found else None)

    def list(self, ignore_patterns):
        yield NAME, self.storage
