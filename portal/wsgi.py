"""WSGI entry point for Granian."""

import os

from django.core.wsgi import get_wsgi_application

from portal.runtime.process import die_with_supervisor

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings.prod")
die_with_supervisor()

application = get_wsgi_application()
