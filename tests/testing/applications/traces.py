"""What a test of one application must not find of another one; it is copied beside each of them."""


def assert_no_trace(manager):
    assert manager.getLoggedUsers() == []
    assert {event: len(manager.listeners(event)) for event in manager.event_names()} == {"sessionEnded": 1}
