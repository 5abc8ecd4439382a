"""The meter's process with stand-ins for engines, and with `failing-store` for the store too."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[3]), str(Path(__file__).parent)]

from meter_samples import no_lease, resolve_remote  # noqa: E402

from core.meter import process  # noqa: E402
from core.store.turns import Store  # noqa: E402


def open_store():
    if sys.argv[1:] == ["failing-store"]:
        from test_meter_recorder import FakeStore  # with pytest, which takes a while

        return FakeStore(broken=True)
    return Store(hello.database_url)


if __name__ == "__main__":
    hello = process.read_hello()
    process.run(
        hello,
        resolve=resolve_remote,
        lease=no_lease,
        open_store=open_store,
        describe_machine=lambda: None,
    )
