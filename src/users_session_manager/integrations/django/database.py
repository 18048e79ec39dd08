"""Sessions in a PostgreSQL of the project: `"STORE": "django://default"` names an entry of DATABASES."""

from __future__ import annotations

from typing import Any, Final

from django.db import connections

from ...stores.sql import SQLStore
from ...stores.sql.schema import DEFAULT_PREFIX, missing_statements

_SCHEME: Final = "django://"


def is_entry(store: Any) -> bool:
    """Return whether a store is the name of an entry."""
    return isinstance(store, str) and store.startswith(_SCHEME)


def alias_of(store: str) -> str:
    """Return the alias of the entry that a store names."""
    return store.removeprefix(_SCHEME)


def problem_of(store: str) -> str | None:
    """Return why sessions cannot be in an entry, `None` if they can."""
    alias = alias_of(store)
    if alias not in connections:
        return f"DATABASES has no {alias!r}: name one of {', '.join(sorted(connections))}"
    if connections[alias].vendor == "sqlite":
        # A transaction of a request locks the whole file, and a login has to be stored before that ends.
        return (
            "a SQLite file of the project is no place for sessions; give them their own: 'sqlite:///sessions.sqlite3'"
        )
    if connections[alias].vendor != "postgresql":
        return f"DATABASES[{alias!r}] has to be a PostgreSQL, not {connections[alias].vendor}"
    return None


def store_in(store: str) -> SQLStore:
    """Return a store in the database of an entry.

    It has connections of its own, with the settings of the entry, and so takes no part in the transaction of a request:
    to roll that back does not undo a logout.
    """
    alias = alias_of(store)

    def connect() -> Any:
        found = connections.create_connection(alias)
        # Not from a pool, if the entry has one: each connection is closed by the process that has opened it.
        return found.Database.connect(**found.get_connection_params())

    return SQLStore(connect)


def make_tables(schema_editor: Any) -> None:
    """Make or upgrade the tables of sessions, for a migration; does nothing in any other database.

    The store makes them itself where this has not been done, if its user may.
    """
    from . import conf

    store, connection = conf.read()["STORE"], schema_editor.connection
    if not is_entry(store) or alias_of(store) != connection.alias or problem_of(store) is not None:
        return
    names = connection.introspection.table_names()

    def rows_of(statement: str) -> Any:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall()

    has_tables = f"{DEFAULT_PREFIX}schema" in names
    for statement in missing_statements("postgresql", DEFAULT_PREFIX, rows_of, has_tables=has_tables):
        schema_editor.execute(statement)
