"""Traces that one test must not leave to another; this file is copied beside each application."""


def assert_no_trace(manager):
    assert manager.getLoggedUsers() == []
    assert {event: len(manager.listeners(event)) for event in manager.event_names()} == {"sessionEnded": 1}
