"""Some visitors of a crowd, in a process of their own: they ask again and again until told to leave.

    python -m benchmarks.crowd_visitors --url URL --sessions N --max-tokens N [--every S]

They come one by one, and each begins a new conversation for each question, as a visitor does with the page's
button. Every second a line of JSON tells what came since. The end of the standard input is the sign to leave.
"""

import argparse
import asyncio
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.page_session import PageSession  # noqa: E402

_TELL_S = 1.0
_ANSWER_S = 900.0
_LEAVE_S = 10.0


class Visit:
    """What the sessions of this process have in common."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.pages: list[PageSession] = []
        self.news: dict[str, Any] = {}
        self._told: Counter[str] = Counter()
        self._gone: Counter[str] = Counter()
        """What pages received that are closed."""

    def count(self, what: str, number: int = 1) -> None:
        self.news[what] = self.news.get(what, 0) + number

    async def opened(self, http: aiohttp.ClientSession) -> PageSession:
        page = PageSession(http, self.options.url, "chat")
        self.news.setdefault("opened_s", []).append(await page.open())
        self.pages.append(page)
        await page.choose("Together", "Together")
        await page.enter("Max tokens", self.options.max_tokens)
        return page

    async def visit(self, http: aiohttp.ClientSession, opening: asyncio.Semaphore, place: int) -> None:
        """One visitor: asks until the process is told to leave."""
        await asyncio.sleep(place * self.options.every)
        try:
            while True:
                async with opening:
                    page = await self.opened(http)
                for number in range(self.options.turns_per_session):
                    before = page.finished_runs
                    await page.ask("Go on.")
                    if not number:
                        self.count("asking")
                    await page.finished(before + 1, _ANSWER_S)
                    self.count("turns")
                    await page.press("New conversation")
                await self._close(page)
        except (OSError, LookupError, aiohttp.ClientError) as exc:
            self.news.setdefault("exceptions", []).append(f"visitor: {type(exc).__name__}: {exc}")

    async def _close(self, page: PageSession) -> None:
        self.pages.remove(page)
        self._gone.update(page.received)
        self.news.setdefault("exceptions", []).extend(page.exceptions)
        await page.close()

    async def tell(self) -> None:
        """Say each second what came since."""
        while True:
            await asyncio.sleep(_TELL_S)
            self.say()

    def say(self) -> None:
        received = Counter(self._gone)
        for page in self.pages:
            received.update(page.received)
            if page.exceptions:
                self.news.setdefault("exceptions", []).extend(page.exceptions)
                page.exceptions.clear()
        news, self.news = self.news, {}
        sys.stdout.write(json.dumps(news | {"received": received - self._told}) + "\n")
        sys.stdout.flush()
        self._told = received


async def run(options: argparse.Namespace) -> None:
    visit = Visit(options)
    opening = asyncio.Semaphore(2)
    leaving = asyncio.to_thread(sys.stdin.read)
    async with aiohttp.ClientSession() as http:
        telling = asyncio.create_task(visit.tell())
        visits = [asyncio.create_task(visit.visit(http, opening, place)) for place in range(options.sessions)]
        await leaving
        for task in (*visits, telling):
            task.cancel()
        await asyncio.gather(*visits, telling, return_exceptions=True)
        visit.say()
        async with asyncio.timeout(_LEAVE_S):
            await asyncio.gather(*(page.close() for page in visit.pages))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", required=True)
    parser.add_argument("--sessions", type=int, required=True)
    parser.add_argument("--max-tokens", type=int, required=True)
    parser.add_argument("--every", type=float, default=0.0, help="seconds between two that come")
    parser.add_argument("--turns-per-session", type=int, default=1_000_000)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
