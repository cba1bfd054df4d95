"""Memory mechanisms, one per file. The file's stem is the mechanism's name."""
