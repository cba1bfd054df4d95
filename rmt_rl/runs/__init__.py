"""The files of a run's folder, each format read and written in one place."""
