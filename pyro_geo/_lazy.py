"""Names of a package that are imported when they are first asked for."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["importer"]


def importer(
    namespace: dict[str, Any], homes: Mapping[str, str]
) -> Callable[[str], Any]:
    """Make the `__getattr__` of a package.

    Args:
        namespace: the package's `globals()`.
        homes: name to the module that has it.

    Returns:
        The function; it raises `AttributeError` for any other name.
    """

    def find(name: str) -> Any:
        if name not in homes:
            package = namespace["__name__"]
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(homes[name]), name)
        namespace[name] = value  # the next access does not come through here
        return value

    return find
