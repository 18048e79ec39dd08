"""A Django application with user models of several kinds, and what only a process of its own can show of them."""
