"""Settings shared by every environment. What differs by site comes from environment variables."""

from portal.runtime.embedded import running_url
from portal.runtime.logs import logging_settings
from portal.settings import environment as env

BASE_DIR = env.BASE_DIR
DATA = env.folder("DATA", BASE_DIR / "data")
MEDIA_ROOT = env.folder("MEDIA_ROOT", DATA / "media")

SECRET_KEY = env.text("SECRET_KEY") or env.kept_secret_key(DATA)
# Pseudonyms of exports are made from it; whoever has it and a PatientID can tell who is who.
DEID_KEY = env.text("DEID_KEY") or env.kept_deid_key(DATA)
ALLOWED_HOSTS = env.words("ALLOWED_HOSTS", ["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS = env.words("CSRF_TRUSTED_ORIGINS", [])

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "django.contrib.humanize",
    "django_htmx",
    "rest_framework",
    "drf_spectacular",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.socialaccount",
    "allauth.socialaccount.providers.openid_connect",
    "portal.frame",
    "portal.accounts",
    "portal.accounts.audit",
    "portal.runtime",
    "studies",
    "studies.duplicates",
    "studies.cohorts",
    "studies.dimse",
    "studies.quality",
    "studies.deid",
    "inference.jobs",
    "inference.registry",
    "inference.training",
    "inference.tuning",
    "inference.prediction",
    "inference.explanation",
    "inference.routing",
    "inference.evaluation",
    "inference",
    "portal.annotation",
    "portal.worklist",
    "portal.pacs",
    "portal.viewer",
    "portal.workbench",
    "portal.routing",
    "portal.dashboards",
    "portal.demo",
]

MIDDLEWARE = [
    "portal.runtime.middleware.RequestLog",
    "django.middleware.security.SecurityMiddleware",
    "portal.frame.headers.SecurityHeaders",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.auth.middleware.LoginRequiredMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "portal.accounts.audit.middleware.AuditTrail",
    "portal.accounts.second_factor.RequireSecondFactor",
]

ROOT_URLCONF = "portal.urls"
WSGI_APPLICATION = "portal.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "frontend" / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "portal.dashboards.context.frame",
            ],
        },
    }
]

DATABASES = {
    "default": {
        **env.database(lambda: running_url("postgres")),
        "CONN_MAX_AGE": 600,
        "CONN_HEALTH_CHECKS": True,
    }
}
# Only for statements with values apart (studies.ingest.prepared); Django puts values into the text of its own.
DATABASES["default"]["OPTIONS"].setdefault("prepare_threshold", 1)
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# How many proxies stand in front; that many entries at the end of X-Forwarded-For are believed.
TRUSTED_PROXIES = env.number("TRUSTED_PROXIES", 0, at_most=10)
# What is recorded of each route.
AUDIT_RULES = "portal.trail.rules.RULES"

AUTH_USER_MODEL = "accounts.User"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
AUTHENTICATION_BACKENDS = ["portal.accounts.backend.GuardedBackend"]
# Failed sign-ins until an account, or an address, is locked for half a minute; then ever longer, an hour at most.
SIGN_IN_FAILURES = env.number("SIGN_IN_FAILURES", 5, at_least=1, at_most=1000)
SIGN_IN_FAILURES_ADDRESS = env.number("SIGN_IN_FAILURES_ADDRESS", 50, at_least=1, at_most=100000)

# A code of an authenticator app besides the password: off, optional (whoever wants it), required (everybody).
SECOND_FACTOR = env.choice("SECOND_FACTOR", "off", ("off", "optional", "required"))
# Sign-in by OpenID Connect: the issuer's address, for example https://login.example.org/realms/hospital
OIDC_ISSUER = env.text("OIDC_ISSUER").rstrip("/")
OIDC_NAME = env.text("OIDC_NAME", "single sign-on")
# An account of the same user name as the provider's `preferred_username` is taken over at its first sign-in.
OIDC_MATCH_USERNAME = env.switch("OIDC_MATCH_USERNAME", False)
ACCOUNT_ADAPTER = "portal.accounts.adapters.AccountAdapter"
ACCOUNT_LOGIN_METHODS = {"username"}
ACCOUNT_SIGNUP_FIELDS = ["username*", "password1*"]
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_UNIQUE_EMAIL = False
ACCOUNT_RATE_LIMITS = False  # portal.accounts.guard counts, in the database and so for all processes
SOCIALACCOUNT_ADAPTER = "portal.accounts.adapters.SocialAccountAdapter"
SOCIALACCOUNT_LOGIN_ON_GET = True  # a link; the content security policy lets no form lead elsewhere
SOCIALACCOUNT_STORE_TOKENS = False
SOCIALACCOUNT_PROVIDERS = {
    "openid_connect": {
        "OAUTH_PKCE_ENABLED": True,
        "APPS": [
            {
                "provider_id": "oidc",
                "name": OIDC_NAME,
                "client_id": env.required_with("OIDC_CLIENT_ID", "OIDC_ISSUER"),
                "secret": env.required_with("OIDC_CLIENT_SECRET", "OIDC_ISSUER"),
                "settings": {"server_url": OIDC_ISSUER},
            }
        ],
    }
}
MFA_ADAPTER = "portal.accounts.adapters.SecondFactorAdapter"
MFA_FORMS = {
    "authenticate": "portal.accounts.sign_in.CodeForm",
    "reauthenticate": "portal.accounts.sign_in.CodeAgainForm",
}
MFA_ALLOW_UNVERIFIED_EMAIL = True
MFA_TOTP_TOLERANCE = 1  # clocks of telephones differ by some seconds
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "login"
SESSION_COOKIE_AGE = 60 * 60 * 12
SESSION_COOKIE_NAME = "readroom_session"
CSRF_COOKIE_NAME = "readroom_csrf"
X_FRAME_OPTIONS = "SAMEORIGIN"  # OHIF is embedded in our own pages

LANGUAGE_CODE = "en-us"
TIME_ZONE = env.text("TIME_ZONE", "UTC")
USE_I18N = False
USE_TZ = True

STATIC_URL = "/static/"
STATIC_ROOT = DATA / "static"
STATICFILES_DIRS = [BASE_DIR / "frontend" / "static"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    # File names carry a hash of their content, so that browsers may keep them for ever.
    "staticfiles": {"BACKEND": "portal.runtime.static_names.HashedStaticFiles"},
}
STATICFILES_FINDERS = [
    "django.contrib.staticfiles.finders.FileSystemFinder",
    "django.contrib.staticfiles.finders.AppDirectoriesFinder",
    "portal.frame.finders.PlotlyFinder",
]

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "portal.accounts.authentication.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_PAGINATION_CLASS": "portal.pagination.Pages",
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "PAGE_SIZE": 100,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Readroom",
    "VERSION": "0.1.0",
    "SERVE_PERMISSIONS": ["rest_framework.permissions.IsAuthenticated"],
}

# Other imaging systems reach the archive here (DIMSE); without a port nothing listens.
DIMSE_HOST = env.text("DIMSE_HOST", "127.0.0.1")
DIMSE_PORT = env.number("DIMSE_PORT", 0, at_most=65535)
DIMSE_TLS_PORT = env.number("DIMSE_TLS_PORT", 0, at_most=65535)
DIMSE_AE_TITLE = env.text("DIMSE_AE_TITLE", "READROOM")
DIMSE_TLS_CERTIFICATE = env.text("DIMSE_TLS_CERTIFICATE")
DIMSE_TLS_KEY = env.text("DIMSE_TLS_KEY")
DIMSE_TLS_CA = env.text("DIMSE_TLS_CA")
# A remote that says nothing for this long is given up.
DIMSE_TIMEOUT_SECONDS = env.seconds("DIMSE_TIMEOUT_SECONDS", 30)
DIMSE_ASSOCIATIONS = env.number("DIMSE_ASSOCIATIONS", 16, at_least=1)

CELERY_BROKER_URL = env.broker(lambda: running_url("valkey"))
# Codes of a second factor that were used, so that none works twice in any process.
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": CELERY_BROKER_URL,
        "KEY_PREFIX": "readroom",
    }
}
CELERY_TASK_IGNORE_RESULT = True  # Job rows are the truth
CELERY_TASK_DEFAULT_QUEUE = "default"
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 6 * 3600, "socket_connect_timeout": 5}
CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT = 5.0
CELERY_TIMEZONE = "UTC"
# The queues that must have a worker before the portal calls itself ready.
QUEUES = ["default", "io", "infer", "train"]

# A job whose worker gave no sign of life for this long is given to another one.
JOB_LEASE_SECONDS = env.seconds("JOB_LEASE_SECONDS", 30)
JOB_HEARTBEAT_SECONDS = env.seconds("JOB_HEARTBEAT_SECONDS", 5)
JOB_REAP_SECONDS = env.seconds("JOB_REAP_SECONDS", 10)
JOB_RESEND_SECONDS = env.seconds("JOB_RESEND_SECONDS", 60)
# A job that has waited this long since its project's line was served counts as one step more urgent.
JOB_AGEING_SECONDS = env.seconds("JOB_AGEING_SECONDS", 3600)
# A job that does not look up for this long after its time limit is ended with its process.
JOB_HARD_LIMIT_SECONDS = env.seconds("JOB_HARD_LIMIT_SECONDS", 120)
# How often new series are looked through for missing slices, blank images and the like.
QUALITY_CHECK_SECONDS = env.seconds("QUALITY_CHECK_SECONDS", 20)
# How often it is looked whether studies came in that a routing rule is for, and for how long a study must not have got
# images before it counts as whole.
ROUTING_SECONDS = env.seconds("ROUTING_SECONDS", 15)
ROUTING_SETTLE_SECONDS = env.seconds("ROUTING_SETTLE_SECONDS", 60)
CELERY_BEAT_SCHEDULE = {
    "reap": {
        "task": "inference.jobs.reap",
        "schedule": JOB_REAP_SECONDS,
        "options": {"queue": "default", "expires": 3 * JOB_REAP_SECONDS},
    },
    "forget_previews": {
        "task": "inference.training.forget_previews",
        "schedule": 3600.0,
        "options": {"queue": "default", "expires": 3600},
    },
    "check_quality": {
        "task": "portal.worklist.check_quality",
        "schedule": QUALITY_CHECK_SECONDS,
        "options": {"queue": "io", "expires": QUALITY_CHECK_SECONDS},
    },
    "route": {
        "task": "portal.routing.route",
        "schedule": ROUTING_SECONDS,
        "options": {"queue": "default", "expires": ROUTING_SECONDS},
    },
}

# Where training runs may be exported to, on request.
MLFLOW_TRACKING_URI = env.text("MLFLOW_TRACKING_URI").rstrip("/")
MLFLOW_TRACKING_TOKEN = env.text("MLFLOW_TRACKING_TOKEN")

LOGGING = logging_settings(level=env.text("LOG_LEVEL", "INFO"), messages=env.switch("LOG_EXCEPTION_MESSAGES", False))
