"""Tasks seen as pictures, at small scale."""
