"""Exceptions and warnings: parents, pickling, messages."""

import inspect
import pickle

import pytest

from pyro_geo import errors

CLASSES = [
    value for name in errors.__all__ if inspect.isclass(value := getattr(errors, name))
]
EXCEPTIONS = [cls for cls in CLASSES if issubclass(cls, errors.PyroGeoError)]
WARNINGS = [cls for cls in CLASSES if issubclass(cls, errors.PyroGeoWarning)]

BUILTIN = {
    errors.ModelError: ValueError,
    errors.ShapeError: ValueError,
    errors.InitializationError: RuntimeError,
    errors.UnsupportedError: NotImplementedError,
    errors.CheckpointError: OSError,
}
ROOTS = {errors.PyroGeoError, *BUILTIN}
WARNING_ROOTS = {
    errors.PyroGeoWarning,
    errors.DivergenceWarning,
    errors.ConvergenceWarning,
    errors.FallbackWarning,
}


def test_every_class_is_an_exception_or_a_warning_and_public():
    defined = {
        value
        for value in vars(errors).values()
        if inspect.isclass(value)
        and value.__module__ == errors.__name__
        and not value.__name__.startswith("_")
    }
    assert defined == set(CLASSES)
    assert set(CLASSES) == {*EXCEPTIONS, *WARNINGS}
    assert list(errors.__all__) == sorted(errors.__all__)


@pytest.mark.parametrize(("cls", "builtin"), BUILTIN.items())
def test_root_exceptions_inherit_the_builtin_a_caller_expects(cls, builtin):
    assert issubclass(cls, errors.PyroGeoError)
    assert issubclass(cls, builtin)


@pytest.mark.parametrize("cls", EXCEPTIONS)
def test_exceptions_have_a_parent_among_the_roots_and_a_builtin_behind_it(cls):
    if cls is errors.PyroGeoError:
        return
    assert ROOTS.intersection(cls.__bases__)
    builtins = [b for b in cls.__mro__ if b.__module__ == "builtins"]
    assert set(builtins) > {Exception, BaseException, object}


@pytest.mark.parametrize("cls", WARNINGS)
def test_warnings_have_a_parent_among_the_roots(cls):
    assert issubclass(cls, UserWarning)
    if cls not in WARNING_ROOTS:
        assert WARNING_ROOTS.intersection(cls.__bases__)


@pytest.mark.parametrize("cls", CLASSES)
def test_classes_pickle_with_their_message_and_say_what_they_mean(cls):
    copy = pickle.loads(pickle.dumps(cls("what went wrong")))
    assert type(copy) is cls
    assert str(copy) == "what went wrong"
    assert cls.__doc__
    assert cls.__doc__.endswith(".")


@pytest.mark.parametrize("cls", CLASSES)
def test_messages_have_four_parts_in_order(cls):
    parts = "What", "site 'w', chain 3", [1, 2], "three rows", "Do it."
    text = "What (site 'w', chain 3): found [1, 2], expected three rows. Do it."
    assert str(cls(*parts)) == text == errors.explain(*parts)
    assert str(pickle.loads(pickle.dumps(cls(*parts)))) == text


def test_a_message_without_a_place_has_no_brackets():
    assert "()" not in errors.explain("What", "", 1, 2, "Do it.")
