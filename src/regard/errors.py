"""What goes wrong by the hand of the person at the keyboard, as opposed to a fault of this library."""


class UserError(Exception):
    """An error whose message is one clear line: what happened, what was expected, what to do.

    The command line prints that line without a traceback and exits with 2. A library error that is one too derives from
    both this and the built-in exception that a caller would catch.
    """
