"""What the options of the token model are worth on English text."""
