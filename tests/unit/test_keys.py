"""How a key is made, and how it is shown without its secret."""

from __future__ import annotations

import re

from users_session_manager.keys import GROUPS, group_of, is_key, label, new_key, redact

SECRET = re.compile(r"[0-9A-F]{32}")


def test_128_bits(monkeypatch):
    """The secret of a key is 128 bits of the system's generator."""
    asked = []

    def urandom(count):
        asked.append(count)
        return bytes(range(count))

    monkeypatch.setattr("users_session_manager.keys.urandom", urandom)
    key = new_key()
    assert asked == [19]
    assert bytes.fromhex(key.partition("_")[2]) == bytes(range(3, 19))
    assert is_key(key)


def test_label():
    """A label has no part of the secret."""
    for _ in range(1000):
        name, secret = (key := new_key()).split("_")
        assert label(key) == name
        assert len(secret) == 32
        assert SECRET.fullmatch(secret)


def test_group():
    """The label shows the group that a store has put the key in."""
    for group in range(GROUPS):
        keys = [new_key(group) for _ in range(200)]
        assert {group_of(key) for key in keys} == {group}
        assert len({key.partition("-")[0] for key in keys}) == 64 // GROUPS
    assert {group_of(new_key()) for _ in range(2000)} == set(range(GROUPS))
    assert {group_of(value) for value in (None, 1, "x", new_key() + "\n", "Nobody-calm-10-k3xq_" + "0" * 32)} == {None}


def test_no_key():
    """A value that is no key is described by its type alone."""
    texts = ["hunter2", "hunter2_pass", "Otter-candid-46-k3xq_short", "forged\nline", new_key() + "\n", "x" * 10**6]
    for value in [*texts, b"hunter2", None]:
        assert label(value) == f"<{type(value).__name__}, not a key>"
        assert not is_key(value)


def test_redact():
    """A text keeps the labels of the keys in it and loses their secrets."""
    first, second = new_key(), new_key()
    names = [key.partition("_")[0] for key in (first, second)]
    assert redact(f"KeyError: '{first}', {second}.") == f"KeyError: '{names[0]}_…', {names[1]}_…."
    assert redact("no key in it") == "no key in it"
