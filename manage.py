#!/usr/bin/env python
"""Django's door for commands."""

import gc
import os
import sys

gc.set_threshold(50_000, 20, 50)  # loading leaves no garbage: looking for it would be a sixth of the time it takes


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proxy_site.settings")
    from django.core.management import execute_from_command_line  # noqa: PLC0415 - after the settings are named

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
