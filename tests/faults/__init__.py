"""Real processes under injected faults, and what injects them."""
