"""Behind nginx with TLS, with a PostgreSQL and a Valkey of their own: nothing is embedded."""

from portal.settings import environment as env
from portal.settings.base import *  # noqa: F403

env.required("DATABASE_URL", "In production it is postgres://USER:PASSWORD@HOST:5432/NAME.")
env.required("CELERY_BROKER_URL", "In production it is redis://:PASSWORD@HOST:6379/0.")

DEBUG = False
TRUSTED_PROXIES = env.number("TRUSTED_PROXIES", 1, at_most=10)  # nginx
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = env.switch("SECURE_COOKIES", True)
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SECURE_HSTS_SECONDS = env.number("SECURE_HSTS_SECONDS", 3600)
