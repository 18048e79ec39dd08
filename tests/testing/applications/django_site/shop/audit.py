"""What has ended."""

ends = []


def note(session, reason):
    ends.append((session.username, reason))
