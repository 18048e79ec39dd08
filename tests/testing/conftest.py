"""The applications are tested by a pytest of their own, see `test_kit_applications.py`."""

collect_ignore = ["applications"]
