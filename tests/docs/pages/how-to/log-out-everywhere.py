"""What the test of docs/how-to/log-out-everywhere.md adds to its blocks."""

# %% after: laptop = manager.loadNewSession("luca", data={"browser": "Firefox on Linux"})
assert manager.getUserSessions("luca") == []
