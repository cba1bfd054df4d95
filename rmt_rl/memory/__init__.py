"""Memory mechanisms, one a file; a file's stem is its name."""
