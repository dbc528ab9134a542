"""Into how many groups a number of channels can be cut."""


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of a positive number that is not above `limit`."""
    if limit < 1:
        raise ValueError(f"groups={limit} is less than one: give a positive number.")
    return next(divisor for divisor in range(min(number, limit), 0, -1) if number % divisor == 0)
