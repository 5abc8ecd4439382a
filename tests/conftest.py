"""Order of the whole suite, and what its tests would otherwise do again and again."""

import gc
import sys
from functools import cache

import hypothesis
import pytest

hypothesis.settings.register_profile(
    "patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("patient")

# What is imported and collected stays, hundreds of thousands of objects: looking through them for garbage
# again and again takes a fifth of that time.
gc.disable()


def pytest_collection_finish(session):
    gc.freeze()
    gc.enable()


LONGEST_FIRST = (
    *("test_quality_real", "test_walk_real", "test_demo_checkpoints_text", "test_cluster_real"),
    *("test_engines_real", "test_e2e_language", "test_e2e_chat", "test_e2e_sessions", "test_e2e_login"),
    *("test_e2e_vision", "test_e2e_accessibility", "test_e2e_benchmark", "test_e2e_doors"),
    *("test_e2e_history", "test_e2e_layout", "test_memory_page"),
    *("test_bench_runner", "test_meter_link", "test_engines_guardian", "test_quality_image_quiz"),
    *("test_jobs_registry", "test_quality_job", "test_cluster_jobs", "test_engines_manager"),
    *("test_engines_processes", "test_store_processes", "test_engines_replicas", "test_bench_memory_sweep"),
    *("test_jobs_runner", "test_sessions_job", "test_bench_job", "test_bench_split_load"),
)
"""A long file that begins last would go on while nothing else is left to do; and one that waits can do so
beside those that compute."""


def pytest_collection_modifyitems(items):
    """Browser tests last: Playwright's event loop stays in the process, where no other can run then."""
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(
        key=lambda item: (
            "tests/e2e/" in item.path.as_posix(),
            places.get(item.path.stem, len(places)),
        )
    )


@pytest.fixture(scope="session", autouse=True)
def components_of_installed_packages():
    """Looked for once: each AppTest reads the metadata of all installed packages in its first run."""
    if "streamlit" not in sys.modules:
        yield
        return
    from streamlit.components.v2 import manifest_scanner

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            manifest_scanner,
            "scan_component_manifests",
            cache(manifest_scanner.scan_component_manifests),
        )
        yield


@pytest.fixture(scope="session", autouse=True)
def migrations_of_new_stores():
    """Run once: each store would go through all of them."""
    if "core.store.access" not in sys.modules:
        yield
        return
    from tests import new_stores

    with new_stores.migrated_once():
        yield
