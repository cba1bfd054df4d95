"""Which memories learn within a life, and how far?"""
