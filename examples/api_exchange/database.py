"""The database of the exchange: the users, their permissions and their orders."""

from __future__ import annotations

from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import ForeignKey, create_engine, func, make_url, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

PAGE_SIZE = 5

# Written into a new database. A real application has no such list.
DEMO_PASSWORDS = {"luca": "lasagne", "fabio": "focaccia"}
DEMO_ORDERS = {  # with prices in cents
    "luca": {
        "Lasagne al forno": 1150,
        "Tiramisù": 600,
        "Insalata mista": 550,
        "Acqua frizzante": 280,
        "Caffè": 180,
        "Grappa": 450,
        "Panna cotta": 580,
    },
    "fabio": {"Focaccia with rosemary": 490, "Minestrone": 720, "Espresso": 160},
}

hasher = PasswordHasher()
# For an unknown username. The check takes as long as for a known one, so its time does not reveal which users exist.
UNKNOWN_USER_HASH = hasher.hash("unknown")


class Base(DeclarativeBase):
    """The tables."""


class User(Base):
    """A user who may log in, with two permissions."""

    __tablename__ = "users"
    username: Mapped[str] = mapped_column(primary_key=True)
    password_hash: Mapped[str]
    dataset_management: Mapped[bool] = mapped_column(default=False)
    users_management: Mapped[bool] = mapped_column(default=False)


class Order(Base):
    """A dish that a user has ordered. Only that user may see it."""

    __tablename__ = "orders"
    number: Mapped[int] = mapped_column(primary_key=True)
    username: Mapped[str] = mapped_column(ForeignKey(User.username), index=True)
    dish: Mapped[str]
    cents: Mapped[int]


class Database:
    """The database at `url`, filled if it is empty. Any thread may call any method: each call has its own session."""

    def __init__(self, url: str) -> None:
        place = make_url(url)
        if place.drivername in ("postgres", "postgresql"):
            place = place.set(drivername="postgresql+psycopg")  # SQLAlchemy's default driver differs by version
        self._engine = create_engine(place, pool_pre_ping=True)
        self._session = sessionmaker(self._engine)
        with self._session() as session:
            Base.metadata.create_all(session.connection())
            session.commit()
            try:
                _add_demo_users(session)
            except IntegrityError:
                pass  # another process, started at the same time, added them

    def try_login(self, username: str, password: str) -> dict[str, Any] | None:
        """Return the name and the permissions of the user, or `None` if the password is wrong."""
        with self._session.begin() as session:
            user = session.get(User, username)
            try:
                hasher.verify(user.password_hash if user else UNKNOWN_USER_HASH, password)
            except (VerificationError, InvalidHashError):
                return None
            if user is None:
                return None
            if hasher.check_needs_rehash(user.password_hash):  # argon2-cffi has raised its cost
                user.password_hash = hasher.hash(password)
            return {"username": user.username, **_permissions(user)}

    def permissions(self, username: str) -> dict[str, bool] | None:
        """Return the current permissions of a user, or `None` if the user no longer exists."""
        with self._session() as session:
            user = session.get(User, username)
            return user and _permissions(user)

    def orders(self, username: str, page: int) -> dict[str, Any]:
        """Return a page of the user's orders, the newest first."""
        mine = select(Order).where(Order.username == username)
        with self._session() as session:
            count = session.scalar(select(func.count()).select_from(mine.subquery())) or 0
            pages = max(1, -(-count // PAGE_SIZE))
            page = min(max(page, 1), pages)
            start = (page - 1) * PAGE_SIZE
            found = session.scalars(mine.order_by(Order.number.desc()).offset(start).limit(PAGE_SIZE))
            rows = [[order.number, order.dish, f"€ {order.cents / 100:.2f}"] for order in found]
        return {"columns": ["Number", "Dish", "Price"], "rows": rows, "page": page, "pages": pages}

    def users(self) -> list[str]:
        """Return the names of all users."""
        with self._session() as session:
            return list(session.scalars(select(User.username).order_by(User.username)))

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()


def _permissions(user: User) -> dict[str, bool]:
    return {"dataset_management": user.dataset_management, "users_management": user.users_management}


def _add_demo_users(session: Session) -> None:
    if session.scalar(select(User).limit(1)) is not None:
        return
    for username, password in DEMO_PASSWORDS.items():
        user = User(username=username, password_hash=hasher.hash(password), dataset_management=True)
        user.users_management = username == "luca"
        session.add(user)
    session.flush()
    for username, dishes in DEMO_ORDERS.items():
        session.add_all(Order(username=username, dish=dish, cents=cents) for dish, cents in dishes.items())
    session.commit()
