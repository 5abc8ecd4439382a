import pickle
import re

from core import errors


def subclasses(kind):
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


def test_codes_are_distinct_kebab_case_words():
    codes = [kind.default_code for kind in subclasses(errors.LMDynoError)]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", code) for code in codes)


def test_a_special_code_replaces_the_class_code():
    error = errors.EngineTimeout("No answer", code="first-token-timeout", hint="Wait.")
    assert (error.code, error.hint, str(error)) == ("first-token-timeout", "Wait.", "No answer")


def test_errors_cross_process_borders():
    error = pickle.loads(pickle.dumps(errors.StoreError("Full", hint="Free some.", code="full")))
    assert (type(error), error.message, error.hint, error.code) == (
        errors.StoreError,
        "Full",
        "Free some.",
        "full",
    )
