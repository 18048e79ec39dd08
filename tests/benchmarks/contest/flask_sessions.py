"""What Flask-Session asks of Redis for each method: its `RedisSessionInterface`, without a request and its cookie."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from flask import Flask
from flask_session.redis import RedisSessionInterface
from redis import Redis


class FlaskSessions:
    def __init__(self, url: str, lifetime: timedelta) -> None:
        self.lifetime = lifetime
        self.interface = RedisSessionInterface(Flask("contestant"), Redis.from_url(url))

    def load(self, key: str) -> Any:
        return self.interface._retrieve_session_data(self.interface._get_store_id(key))

    def save(self, key: str, session: Any) -> bool:
        self.interface._upsert_session(self.lifetime, session, self.interface._get_store_id(key))
        return True

    def loadNewSession(self, username: str) -> str:
        key = self.interface._generate_sid(self.interface.sid_length)
        self.save(key, {"username": username, "createdAt": time.time(), "data": None})
        return key

    def checkSessionStatus(self, key: str) -> bool:
        return self.load(key) is not None

    def restartSessionTimer(self, key: str) -> bool:
        session = self.load(key)
        return session is not None and self.save(key, session)

    def getUsernameFromSessionKey(self, key: str) -> Any:
        session = self.load(key)
        return False if session is None else session["username"]

    getSessionDetails = load

    def setSessionData(self, key: str, data: Any) -> bool:
        session = self.load(key)
        return session is not None and self.save(key, {**session, "data": data})

    def getSessionData(self, key: str) -> Any:
        session = self.load(key)
        return False if session is None else session["data"]

    def deleteSession(self, key: str) -> bool:
        self.interface._delete_session(self.interface._get_store_id(key))
        return True
