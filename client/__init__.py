"""What uses the service from outside. Nothing here needs the service's own code."""
