"""The database of the exchange: who there is, what each of them may do, and their orders."""

from __future__ import annotations

from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import ForeignKey, create_engine, func, make_url, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

PAGE_SIZE = 5

# They are made when the database is new. A real application has no such list.
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
# What an unknown user is checked against: it takes as long as a known one, so the time tells nothing about who exists.
NOBODY = hasher.hash("nobody")


class Base(DeclarativeBase):
    """The tables."""


class User(Base):
    """Somebody who may log in; the last two columns say what they may do then."""

    __tablename__ = "users"
    username: Mapped[str] = mapped_column(primary_key=True)
    password_hash: Mapped[str]
    dataset_management: Mapped[bool] = mapped_column(default=False)
    users_management: Mapped[bool] = mapped_column(default=False)


class Order(Base):
    """What somebody has ordered; it is nobody else's business."""

    __tablename__ = "orders"
    number: Mapped[int] = mapped_column(primary_key=True)
    username: Mapped[str] = mapped_column(ForeignKey(User.username), index=True)
    dish: Mapped[str]
    cents: Mapped[int]


class Database:
    """A database at `url`, made if it is new. Any thread may call any method: each call has a session of its own."""

    def __init__(self, url: str) -> None:
        place = make_url(url)
        if place.drivername in ("postgres", "postgresql"):
            place = place.set(drivername="postgresql+psycopg")  # SQLAlchemy's own choice differs by version
        self._engine = create_engine(place, pool_pre_ping=True)
        self._session = sessionmaker(self._engine)
        with self._session() as session:
            Base.metadata.create_all(session.connection())
            session.commit()
            try:
                _add_demo_users(session)
            except IntegrityError:
                pass  # another process, started at the same time, has

    def try_login(self, username: str, password: str) -> dict[str, Any] | None:
        """Return what the page may know of the user, if the password is theirs."""
        with self._session.begin() as session:
            user = session.get(User, username)
            try:
                hasher.verify(user.password_hash if user else NOBODY, password)
            except (VerificationError, InvalidHashError):
                return None
            if user is None:
                return None
            if hasher.check_needs_rehash(user.password_hash):  # argon2-cffi has raised its cost since
                user.password_hash = hasher.hash(password)
            return {"username": user.username, **_permissions(user)}

    def permissions(self, username: str) -> dict[str, bool] | None:
        """Return what a user may do as it stands at this moment; `None` if there is no such user any more."""
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
        """Return everybody who may log in."""
        with self._session() as session:
            return list(session.scalars(select(User.username).order_by(User.username)))

    def close(self) -> None:
        """Close its connections."""
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
