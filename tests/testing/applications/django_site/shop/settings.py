SECRET_KEY = "only for the tests"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "users_session_manager.integrations.django",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "users_session_manager.integrations.django.UserSessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ROOT_URLCONF = "shop.urls"
USE_TZ = True
USER_SESSIONS = {
    "STORE": "redis://127.0.0.1:1/0",  # which the tests do not have
    "TIMEOUT": 20 * 60,
    "WARNING": 60,
    "MAX_SESSIONS_PER_USER": 2,
}
