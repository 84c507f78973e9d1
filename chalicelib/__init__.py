"""What the API, the tick and the worker share."""
