"""Makes the tables of sessions, if `USER_SESSIONS["STORE"]` names the database that is migrated."""

from __future__ import annotations

from typing import Any

from django.db import migrations

from users_session_manager.integrations.django.database import make_tables


def _make_tables(apps: Any, schema_editor: Any) -> None:  # noqa: ARG001  # as Django calls it
    make_tables(schema_editor)


class Migration(migrations.Migration):  # type: ignore[misc]  # Django is not typed
    initial = True
    operations = (migrations.RunPython(_make_tables, migrations.RunPython.noop),)
