"""WSGI entry point for Granian."""

import os

from django.core.wsgi import get_wsgi_application
from django.urls import get_resolver

from portal.runtime.process import die_with_supervisor

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings.prod")
die_with_supervisor()

django = get_wsgi_application()  # first: what follows needs the settings

from portal.runtime.middleware import record  # noqa: E402
from studies.dicomweb.front import Front  # noqa: E402

# Before the first request, which would otherwise wait for every page to be loaded: 1.4 s of CPU time, longer on a busy
# machine than a health check waits.
get_resolver().url_patterns  # noqa: B018

application = Front(django, record=record)
