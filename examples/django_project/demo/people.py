"""Whom one can be in this demo; a real application has nobody's password in its source."""

from django.contrib.auth import get_user_model

DEMO_USERS = {"luca": "lasagne", "fabio": "focaccia", "admin": "antipasti"}


def make_people() -> None:
    """Make those who are not there yet; `admin` may do everything in Django's admin."""
    users = get_user_model().objects
    for name, password in DEMO_USERS.items():
        if not users.filter(username=name).exists():
            make = users.create_superuser if name == "admin" else users.create_user
            make(name, password=password)
