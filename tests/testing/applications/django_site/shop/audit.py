"""A list of the ends."""

ends = []


def note(session, reason):
    ends.append((session.username, reason))
