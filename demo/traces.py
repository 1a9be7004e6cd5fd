"""Written arithmetic, one small step at a time: the reasoning that the model learns to imitate.

Every function takes non-negative integers and returns lines of text whose last number is the result.
"""

from __future__ import annotations


def _digit(number: str, place: int) -> int:
    """Return the digit at `place`, counted from the right, or 0 beyond the left end."""
    return int(number[-1 - place]) if place < len(number) else 0


def _from_the_right(number: str) -> str:
    return " ".join(reversed(number))


def add_steps(left: int, right: int) -> str:
    """Return column addition from the right, with carries; small sums are stated at once."""
    if left < 10 or (right < 10 and left < 100 and left % 10 + right < 10):
        return f"{left}+{right}={left + right}" if right < 10 or left + right < 20 else add_steps(right, left)
    a, b = str(left), str(right)
    lines = [f"{left}+{right}, from the right: {_from_the_right(a)} and {_from_the_right(b)}"]
    carry, written = 0, ""
    for place in range(max(len(a), len(b))):
        x, y = _digit(a, place), _digit(b, place)
        total = x + y + carry
        written = f"{total % 10}{written}"
        note = ", carry 1" if total > 9 else ""
        lines.append(f"{x}+{y}{'+1' if carry else ''}={total}{note} → {written}")
        carry = total // 10
    if carry:
        lines.append(f"carry 1 → 1{written}")
    return "\n".join(lines)


def subtract_steps(left: int, right: int) -> str:
    """Return column subtraction from the right, with borrows; a negative result is turned around first."""
    if left < right:
        return (
            f"{left} is less than {right}, so the result is negative\n"
            f"{subtract_steps(right, left)}\n{left}-{right}=-{right - left}"
        )
    if left < 10:
        return f"{left}-{right}={left - right}"
    a, b = str(left), str(right)
    lines = [f"{left}-{right}, from the right: {_from_the_right(a)} and {_from_the_right(b)}"]
    borrow, written = 0, ""
    for place in range(len(a)):
        x, y = _digit(a, place), _digit(b, place)
        digit = x - y - borrow
        written = f"{digit % 10}{written}"
        terms = f"{x}-{y}{'-1' if borrow else ''}{'+10' if digit < 0 else ''}"
        note = ", borrow 1" if digit < 0 else ""
        lines.append(f"{terms}={digit % 10}{note} → {written}")
        borrow = int(digit < 0)
    if written != str(left - right):
        lines.append(f"without leading zeros: {left - right}")
    return "\n".join(lines)


def _by_one_digit(left: int, digit: int) -> str:
    """Return `left` times one digit: the parts by place value, then their running total, on one line."""
    text = str(left)
    parts = [int(d) * 10 ** (len(text) - 1 - i) for i, d in enumerate(text) if d != "0"] or [0]
    terms = [f"{part}*{digit}={part * digit}" for part in parts]
    total = parts[0] * digit
    for part in parts[1:]:
        terms.append(f"{total}+{part * digit}={total + part * digit}")
        total += part * digit
    return ", ".join(terms)


def multiply_steps(left: int, right: int) -> str:
    """Return a product through partial products: by one digit at a time, then their sum."""
    if left < 10 and right < 10:
        return f"{left}*{right}={left * right}"
    if left < 10:
        return f"{left}*{right}={right}*{left}\n{multiply_steps(right, left)}"
    if right < 10:
        return f"{left}*{right}: {_by_one_digit(left, right)}"
    tens, ones = right // 10 * 10, right % 10
    if not ones:
        return f"{multiply_steps(left, right // 10)}\n10 times that: {left * right}"
    return (
        f"{left}*{right}={left}*{tens}+{left}*{ones}\n"
        f"{multiply_steps(left, right // 10)}, 10 times that: {left * tens}\n"
        f"{multiply_steps(left, ones)}\n{add_steps(left * tens, left * ones)}"
    )


def divide_steps(dividend: int, divisor: int) -> str:
    """Return long division without a final remainder, digit by digit from the left; one-digit results at once.

    Raises ValueError if `divisor` does not divide `dividend`.
    """
    if dividend % divisor:
        raise ValueError(f"{dividend} is not a multiple of {divisor}")
    if dividend < 10 * divisor:
        return f"{dividend}/{divisor}={dividend // divisor}"
    rest, written, terms = 0, "", []
    for digit in str(dividend):
        rest = rest * 10 + int(digit)
        quotient = rest // divisor
        if quotient or written:
            terms.append(f"{rest}/{divisor}={quotient} rest {rest % divisor}")
            written += str(quotient)
        rest %= divisor
    return f"{dividend}/{divisor}: {', '.join(terms)} → {written}"


def multiply_line(left: int, right: int) -> str:
    """Return the working of a product on one line, for an answer without thinking; empty for one-digit facts."""
    if left < 10 and right < 10:
        return ""
    if left < 10:
        left, right = right, left
    if right < 10:
        return _by_one_digit(left, right)
    tens, ones = right // 10 * 10, right % 10
    by_tens = f"{_by_one_digit(left, right // 10)}, {left}*{tens}={left * tens}"
    if not ones:
        return by_tens
    return f"{by_tens}, {_by_one_digit(left, ones)}, {left * tens}+{left * ones}={left * right}"
