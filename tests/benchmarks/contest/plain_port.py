"""What one writes first: the npm package in Python, with a `threading.Timer`, which is a thread, for each session."""

from __future__ import annotations

import secrets
import threading
import time
from typing import Any

from pyee import EventEmitter


class PlainPort(EventEmitter):
    def __init__(self) -> None:
        super().__init__()
        self.sessions: dict[str, dict[str, Any]] = {}
        self.timeout = 3000.0
        self.io: Any = None

    def setSessionTimeOut(self, seconds: float) -> bool:
        self.timeout = seconds
        return True

    def getSessionTimeout(self) -> float:
        return self.timeout

    def initSocketReference(self, io: Any) -> bool:
        self.io = io
        return True

    def getSocketReference(self) -> Any:
        return self.io

    def getLoggedUsers(self) -> list[str]:
        return [session["username"] for session in self.sessions.values()]

    def createNewSessionTimer(self, key: str, username: str) -> threading.Timer:
        timer = threading.Timer(self.timeout, self.run_out, (key,))
        timer.daemon = True
        timer.start()
        return timer

    def run_out(self, key: str) -> None:
        self.sendLogoutMessage(key)
        if self.sessions.pop(key, None) is not None:
            self.emit("sessionDeleted", key)

    def loadNewSession(self, username: str) -> str:
        key = secrets.token_urlsafe(16)
        timer = self.createNewSessionTimer(key, username)
        self.sessions[key] = {"username": username, "createdAt": time.time(), "data": None, "timer": timer}
        self.emit("sessionCreated", key)
        return key

    def checkSessionStatus(self, key: str) -> bool:
        if key in self.sessions:
            return True
        self.emit("error", LookupError(key))
        return False

    def restartSessionTimer(self, key: str) -> bool:
        if not self.checkSessionStatus(key):
            return False
        session = self.sessions[key]
        session["timer"].cancel()
        session["timer"] = self.createNewSessionTimer(key, session["username"])
        return True

    def getUsernameFromSessionKey(self, key: str) -> Any:
        session = self.sessions.get(key)
        return False if session is None else session["username"]

    def getSessionDetails(self, key: str) -> Any:
        if not self.checkSessionStatus(key):
            return False
        session = self.sessions[key]
        return {name: session[name] for name in ("username", "createdAt", "data")}

    def setSessionData(self, key: str, data: Any) -> bool:
        if not self.checkSessionStatus(key):
            return False
        self.sessions[key]["data"] = data
        return True

    def getSessionData(self, key: str) -> Any:
        return self.checkSessionStatus(key) and self.sessions[key]["data"]

    def deleteSession(self, key: str) -> bool:
        if not self.checkSessionStatus(key):
            return False
        self.sessions.pop(key)["timer"].cancel()
        self.emit("sessionDeleted", key)
        return True

    def deleteAllSessions(self) -> bool:
        for key in list(self.sessions):
            self.deleteSession(key)
            self.sendLogoutMessage(key)
        return True

    def sendLogoutMessage(self, key: str) -> None:
        if self.io is not None:
            self.emit("notifyClientToLogout", self.io, key)
