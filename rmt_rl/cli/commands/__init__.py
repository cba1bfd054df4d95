"""The commands of `rmt-rl`, one a file: `COMMAND` takes the arguments behind the name and returns the exit status.

The first line of a file's docstring is its summary in `rmt-rl --help`. Heavy imports stand inside the functions, so
that help and errors come at once.
"""
