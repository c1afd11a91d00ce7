"""Numbers and texts as a page shows them."""

from html import escape

import numpy as np

__all__ = ["show"]


def show(value: object) -> str:
    """Write a table's or a card's entry: four significant digits, escaped.

    Args:
        value: anything.

    Returns:
        Text that is safe inside HTML.

    Example:
        >>> show(0.123456), show(12000), show(float("nan")), show("<b>")
        ('0.1235', '12,000', 'n/a', '&lt;b&gt;')
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if np.isnan(value):
            return "n/a"
        near = value == 0 or 1e-4 <= abs(value) < 1e6
        text = f"{value:#.4g}".rstrip("0").rstrip(".") if near else f"{value:.3e}"
        return text.replace("-", "\u2212", 1) if value < 0 else text
    return escape(str(value))
