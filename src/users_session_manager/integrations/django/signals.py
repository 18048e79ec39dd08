"""The signals: Django's own login and logout begin and end sessions, and a refused user loses them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from django.apps import apps
from django.contrib.auth import SESSION_KEY as USER_IN_SESSION
from django.contrib.auth import get_user_model
from django.contrib.auth.signals import user_logged_in, user_logged_out
from django.core.signals import setting_changed
from django.db import transaction
from django.db.models.signals import class_prepared, post_delete, post_save

from ...errors import StoreUnavailable
from ...log import log
from .._refusals import REFUSED
from . import conf, engine, users
from .state import DjangoState, anonymous, current, discard, state_of


def connect() -> None:
    """Listen to Django's signals; a second time is harmless."""
    user_logged_in.connect(_logged_in, dispatch_uid=__name__)
    user_logged_out.connect(_logged_out, dispatch_uid=__name__)
    setting_changed.connect(_setting_changed, dispatch_uid=__name__)
    class_prepared.connect(_prepared, dispatch_uid=__name__)
    for model in apps.get_models():
        _prepared(model)


def _prepared(sender: Any, **_: Any) -> None:
    """Listen to what is done to users of a model, proxies and models that inherit included."""
    # Not to all models: Django deletes the rows of one with listeners one by one.
    model = get_user_model()
    if issubclass(sender, model):
        post_save.connect(_saved, sender=sender, dispatch_uid=__name__)
        # The row of an inheriting model may be deleted without the user; else Django sends a signal for the user too.
        if sender._meta.concrete_model is model._meta.concrete_model:
            post_delete.connect(_deleted, sender=sender, dispatch_uid=__name__)


def _setting_changed(*, setting: str, **_: Any) -> None:
    conf.forget_settings()
    if setting == "SESSION_ENGINE":
        engine.watch()  # before a test logs in


def _logged_in(*, request: Any, user: Any, **_: Any) -> None:
    session = getattr(request, "session", None)
    if session is None or session.get(USER_IN_SESSION) != users.id_of(user):
        return  # Channels' login gets its session with its next request, that of an API with tokens has none
    state = _state(request)
    try:
        if state_of(request) is None:  # a login of Django's test client, or no middleware
            conf.require_middleware()
        state.require_own_form()
        state.begin(user)
    except Exception as error:
        if isinstance(error, REFUSED):
            state.failure = error  # where no view has raised it, the middleware sees only an answer of 500
        # Django has stored its login already; without a session there is none.
        request.user = anonymous()
        discard(session)
        raise


def _logged_out(*, request: Any, **_: Any) -> None:
    if hasattr(request, "session"):  # not for Channels, where the session ends with Django's
        state = _state(request)
        state.require_own_form()  # before Django removes its login
        state.sign_out()


def _state(request: Any) -> DjangoState:
    return state_of(request) or DjangoState(request, conf.read_carrier())


def _saved(*, instance: Any, created: bool, using: str, update_fields: Any = None, raw: bool = False, **_: Any) -> None:
    """Log a deactivated user out, and one with another password elsewhere (OWASP ASVS 5.0, 7.4.2, 7.4.3).

    The next request of each session would be refused anyhow; its open pages learn it now.
    """
    if created or (update_fields is not None and not {"is_active", "password"} & set(update_fields)):
        return
    if raw and instance._meta.parents:
        return  # a fixture loads the row of an inheriting model alone: its other fields are not those of the user
    _after_commit(using, _end_sessions, users.id_of(instance), instance if users.may_log_in(instance) else None)


def _deleted(*, instance: Any, using: str, **_: Any) -> None:
    _after_commit(using, _end_sessions, users.id_of(instance))


def _after_commit(using: str, function: Callable[..., None], *args: Any) -> None:
    """Call `function` once the change counts; a transaction that is rolled back has changed nothing."""
    if transaction.get_connection(using).in_atomic_block:
        transaction.on_commit(partial(function, *args), using=using)
    else:
        function(*args)


def _end_sessions(user_id: str, changed: Any = None) -> None:
    """End the sessions of a user, or those from before a new password of the `changed` one but that of the request."""
    try:
        if changed is None:
            conf.manager().deleteUserSessions(user_id)
        else:
            spared = getattr(current.get(), "key", None)
            conf.manager()._end_stale_sessions(user_id, lambda stamp: users.is_stamp_of(stamp, changed), spared)
    except StoreUnavailable:
        log.warning(
            "The sessions of a user who was changed end with their next request: the store is unavailable. Check the "
            "store, see docs/how-to/production.md"
        )
