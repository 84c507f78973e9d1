"""What runs tasks: the processor and its parts, attempts, the tick. Imports store, task_types and
the ground floor."""
