"""`python -m tests.browser.api local …`: the local API, with the task types of these tests, too."""

import sys

from chalice.cli import main

import tests.browser.task_types  # noqa: F401

if __name__ == "__main__":
    sys.exit(main())
