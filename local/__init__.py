"""The whole service on one machine, from one command: `python -m local run`."""
