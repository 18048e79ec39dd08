"""The integrations, one for each framework; each module is imported by name, and needs the extra of that name."""
