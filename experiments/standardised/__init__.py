"""Do agents learn alike from observations of any scale, and no worse from standardised ones?"""
