"""The settings of the tests, with the user model that the environment names."""

import os

from django_settings import *  # noqa: F403
from django_settings import INSTALLED_APPS as APPS

DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
# Else a model without migrations could not inherit from a user model with some.
MIGRATION_MODULES = dict.fromkeys(["admin", "auth", "contenttypes", "sessions"])
INSTALLED_APPS = [*APPS, "django_projects"]
AUTH_USER_MODEL = os.environ["USER_MODEL"]
ROOT_URLCONF = "django_projects.urls"
