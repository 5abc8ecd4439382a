"""Order of the whole suite."""


def pytest_collection_modifyitems(items):
    """Browser tests last: Playwright's event loop stays in the process, where no other can run then."""
    items.sort(key=lambda item: "tests/e2e/" in item.path.as_posix())
