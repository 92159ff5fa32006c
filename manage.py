#!/usr/bin/env python
"""Django's command line; starts the embedded services it needs where none runs."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings.dev")
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line
    from django.db import ProgrammingError
    from psycopg.errors import UndefinedTable

    from portal.runtime.embedded import services_for
    from portal.runtime.errors import RuntimeProblem

    try:
        with services_for(sys.argv):
            execute_from_command_line(sys.argv)
    except (RuntimeProblem, ImproperlyConfigured) as problem:
        sys.exit(f"Error: {problem}")
    except ProgrammingError as error:
        if not isinstance(error.__cause__, UndefinedTable):
            raise
        sys.exit("Error: the database lacks a table. Run `manage.py prepare`, which brings it up to date.")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
