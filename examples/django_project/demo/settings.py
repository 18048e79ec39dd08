"""A project as `startproject` makes it, cut down to what this one needs."""

import sys
from pathlib import Path

from django.core.management.utils import get_random_secret_key

HERE = Path(__file__).resolve().parent
BASE_DIR = HERE.parent
INSTANCE = BASE_DIR / "instance"  # the database, the sessions and the secret key; not part of the repository
INSTANCE.mkdir(exist_ok=True)
EXAMPLES = HERE.parents[1]
sys.path.append(str(EXAMPLES))  # for the package `shared`


def secret_key() -> str:
    """Return the key of this copy, which the first start creates."""
    file = INSTANCE / "secret_key"
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(get_random_secret_key())
    return file.read_text()


SECRET_KEY = secret_key()
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]

INSTALLED_APPS = [
    "demo",  # before the admin: one of its templates takes the place of the admin's
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "users_session_manager.integrations.django",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "users_session_manager.integrations.django.UserSessionMiddleware",  # directly below SessionMiddleware
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
USER_SESSIONS = {
    "LIFETIME": 12 * 60 * 60,
    "MAX_SESSIONS_PER_USER": 10,
    "STORE": "sqlite:///instance/sessions.sqlite3",  # in BASE_DIR; several workers share it
    "COOKIE_SECURE": False,  # this is http; leave the line out where https is used
}
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "page"
LOGOUT_REDIRECT_URL = "login"

ROOT_URLCONF = "demo.urls"
WSGI_APPLICATION = "demo.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [EXAMPLES / "shared" / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "demo.views.scripts",
            ]
        },
    }
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": INSTANCE / "demo.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "static/"
STATICFILES_DIRS = [EXAMPLES / "shared" / "static"]
USE_TZ = True
