"""Which action head is best for bounded continuous actions."""
