"""Prints the tables of a SQL store: `python -m users_session_manager.stores.sql postgresql`."""

from __future__ import annotations

import argparse

from .schema import DEFAULT_PREFIX, DIALECTS, schema_statements


def main() -> None:
    """Print the statements that make the tables of a dialect."""
    parser = argparse.ArgumentParser(
        prog="python -m users_session_manager.stores.sql",
        description="Print the statements that make the tables of a SQLStore, or upgrade them.",
    )
    parser.add_argument("dialect", choices=DIALECTS)
    parser.add_argument("--prefix", default=DEFAULT_PREFIX, help="what the names of all tables begin with")
    parser.add_argument("--from-version", type=int, default=0, help="the version that is there; 0 for none")
    args = parser.parse_args()
    print("BEGIN;\n")
    for statement in schema_statements(args.dialect, args.prefix, args.from_version):
        print(f"{statement};\n")
    print("COMMIT;")


if __name__ == "__main__":
    main()
