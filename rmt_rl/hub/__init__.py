"""Trained runs and data sets to give away: what is pushed to the Hugging Face Hub, and the zoo of this package."""
