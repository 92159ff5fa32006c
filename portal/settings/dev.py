"""`make run`: one machine, embedded services, plain HTTP on the loopback address."""

from portal.settings.base import *  # noqa: F403

DEBUG = False
WHITENOISE_USE_FINDERS = True  # static files come from where they lie; nothing is copied
