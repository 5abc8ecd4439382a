"""The meter's process with stand-ins for engines, and with `failing-store` for the store too."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[3]), str(Path(__file__).parent)]

from meter_samples import no_lease, resolve_remote  # noqa: E402
from test_meter_recorder import FakeStore  # noqa: E402

from core.meter import process  # noqa: E402
from core.store.turns import Store  # noqa: E402

if __name__ == "__main__":
    failing = sys.argv[1:] == ["failing-store"]
    hello = process.read_hello()
    process.run(
        hello,
        resolve=resolve_remote,
        lease=no_lease,
        open_store=lambda: FakeStore(broken=True) if failing else Store(hello.database_url),
        describe_machine=lambda: None,
    )
