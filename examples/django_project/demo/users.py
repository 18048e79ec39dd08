"""The demo users. A real application has no passwords in its source."""

from django.contrib.auth import get_user_model

DEMO_USERS = {"luca": "lasagne", "fabio": "focaccia", "admin": "antipasti"}


def create_demo_users() -> None:
    """Create the demo users that do not exist yet; `admin` may do everything in Django's admin."""
    users = get_user_model().objects
    for name, password in DEMO_USERS.items():
        if not users.filter(username=name).exists():
            create = users.create_superuser if name == "admin" else users.create_user
            create(name, password=password)
