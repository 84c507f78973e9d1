"""What answers requests: use cases, parsing, rendering, failures. Imports store, task_types and the
ground floor, and is the only room that speaks HTTP."""
