"""`make run`: one machine, embedded services, plain HTTP on the loopback address."""

from portal.settings import environment as env
from portal.settings.base import *  # noqa: F403
from portal.settings.base import ALLOWED_HOSTS, STATIC_ROOT

DEBUG = False
HOST = env.text("HOST", "127.0.0.1")
PORT = env.number("PORT", 8000, at_least=1, at_most=65535)
if HOST not in {"0.0.0.0", "::", *ALLOWED_HOSTS}:  # noqa: S104
    ALLOWED_HOSTS = [*ALLOWED_HOSTS, HOST]

if not (STATIC_ROOT / "staticfiles.json").exists():
    # Before the first `manage.py up` nothing is collected; `runserver` serves the files from where they lie.
    WHITENOISE_USE_FINDERS = True
    WHITENOISE_AUTOREFRESH = True
