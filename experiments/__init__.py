"""Results that anyone can remake: one folder each, with its configs, table and picture, and one command."""
