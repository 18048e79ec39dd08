# The testing kit, for the tests of applications:
#
#   isolation.py      a fresh manager for each test, and its clock
#   expectations.py   what the open pages of a session are sent
#   clients.py        signs the test client of a framework in
#   pytest_plugin.py  the isolation for pytest, for `pytest_plugins` in a conftest.py; it alone imports pytest
"""Test an application: sessions that end with each test, a clock to turn, signed-in test clients."""

from .clients import sign_in
from .expectations import expect_logout, expect_session_expiring
from .isolation import ManualClock, fresh_sessions

__all__ = ["ManualClock", "expect_logout", "expect_session_expiring", "fresh_sessions", "sign_in"]
