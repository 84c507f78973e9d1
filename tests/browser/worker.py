"""`python -m tests.browser.worker`: a worker that knows the task types of these tests, too."""

import sys

import tests.browser.task_types  # noqa: F401
from worker.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
