"""`python -m core.meter`: the meter's process, started by `core.meter.link` only."""

import gc
from functools import partial

from core import process_setup
from core.domain.conversation import StoredImage
from core.domain.turns import Machine
from core.engines.registry import lease
from core.engines.requests import StoppedRequests
from core.engines.resolve import find_endpoint
from core.files import keep_to_oneself
from core.meter import process
from core.meter.devices import SampledUsage
from core.meter.recorder import RunStore
from core.process_setup import allow_many_open_files


def main() -> None:
    keep_to_oneself()
    hello = process.read_hello()
    settings = hello.settings
    process_setup.configure_logs()
    allow_many_open_files()
    process_setup.keep_heap_small()

    def image_url(image: StoredImage) -> str:
        # An image library comes along, which turns without images don't wait for.
        from core.images.store import ImageStore

        return ImageStore(settings.images_dir).data_url(image)

    def open_store() -> RunStore:
        # SQLAlchemy takes its time; the first request must not wait for it.
        from core.store.turns import Store

        # Its thousands of objects stay for good: looking through them for garbage would hold up timestamps.
        gc.freeze()
        return Store(settings.database_url)

    def describe_machine() -> Machine:
        from core.telemetry.nvml import describe_machine

        return describe_machine()

    process.run(
        hello,
        resolve=partial(find_endpoint, settings),
        lease=partial(lease, settings),
        image_url=image_url,
        open_store=open_store,
        describe_machine=describe_machine,
        stopped=StoppedRequests(settings),
        usage=SampledUsage(settings),
    )


if __name__ == "__main__":
    main()
