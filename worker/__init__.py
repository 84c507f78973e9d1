"""The long-poll worker."""
