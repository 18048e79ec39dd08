"""A key of another process, which keeps its own sessions in memory."""

from __future__ import annotations

from users_session_manager.keys import new_key


def foreign_key() -> str:
    """Return a key as another process issues it: the mark at the end of its label is another one."""
    key = new_key()
    mark = key.partition("_")[0][-4:]
    return key.replace(f"-{mark}_", f"-{'abcd' if mark != 'abcd' else 'bcde'}_")
