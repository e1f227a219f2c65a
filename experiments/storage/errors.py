"""Errors that a command prints in one line."""


class RecordError(Exception):
    """A file is missing or malformed; the message names the file, the place and what is wrong."""


class ReportError(Exception):
    """A table cannot be made from the given runs; the message says why."""
