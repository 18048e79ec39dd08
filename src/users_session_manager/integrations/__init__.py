"""What a framework needs of a `SessionManager`; each module is imported by name, and needs the extra of that name."""
