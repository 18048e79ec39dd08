"""What the examples have in common: the look of their pages, the script that keeps them up to date, their headers."""
