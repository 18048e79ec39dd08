"""Migrations of the tables of sessions, if they are in a database of the project."""
