import os

import django
import pytest

pytest_plugins = ["users_session_manager.testing.pytest_plugin"]

os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
django.setup()


@pytest.fixture(scope="session", autouse=True)
def database():
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
