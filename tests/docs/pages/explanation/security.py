"""Cells that the test of docs/explanation/security.md runs beside its blocks."""

# %% after: manager = SessionManager()
assert (manager.getSessionTimeout(), manager.getMaxSessionLifetime()) == (900, 43_200)
assert len([manager.loadNewSession("luca") for _ in range(6)]) == 6
assert len(manager.getUserSessions("luca")) == 5
key = manager.loadNewSession("luca")
label, _, secret = key.rpartition("_")

# %% after: SECRET = re.compile(r"_[0-9A-F]{32}\b")
frames = [{"function": "view", "vars": {"key": f"'{key}'", "keys": [f"'{key}'"], "count": 1}}]
event = {"request": {"headers": {"Session-Key": key}, "cookies": {"session_key": key}}, "frames": frames, key: (key,)}
sent = before_send(event, {})
assert secret in repr(event) and secret not in repr(sent)
assert sent["request"]["headers"]["Session-Key"] == f"{label}_[removed]"
assert sent["frames"][0]["vars"]["count"] == 1

# %% after: class HideKeys(SafeExceptionReporterFilter):
import sys

import django
from django.test import RequestFactory, override_settings
from django.views.debug import ExceptionReporter

django.setup()


def report(view, reporter_filter):
    """The report of what a view raises, as Django makes it with this filter."""
    request = RequestFactory().get("/", headers={"Session-Key": key, "Cookie": f"session_key={key}"})
    request.exception_reporter_filter = reporter_filter
    try:
        view(request)
    except ValueError:
        return ExceptionReporter(request, *sys.exc_info()).get_traceback_html()


def plain_view(request):
    raise ValueError("a failure")


def view_with_a_key(request):
    presented, dish = request.headers["Session-Key"], "lasagne"
    raise ValueError("a failure")


for is_debug in (False, True):
    with override_settings(DEBUG=is_debug):
        # By their names Django hides the header and the cookie, but not a variable.
        assert secret not in report(plain_view, SafeExceptionReporterFilter())
        assert secret in report(view_with_a_key, SafeExceptionReporterFilter())
        text = report(view_with_a_key, HideKeys())
        assert secret not in text
        assert "[a session key]" in text and "lasagne" in text
manager.close()
