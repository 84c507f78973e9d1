"""The HTTP API. `endpoints.py` has the use cases; they call the other files, never the reverse.

Imports store, task_types and the ground floor, and is the only room that speaks HTTP.
"""
