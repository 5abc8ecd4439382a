"""Makes the prompts of each lane: to a fixed length by the best count of tokens that there is for it.

Best is the lane's own tokenizer. Where that is not on this machine, two short requests tell how many tokens
the server makes of a word; and if it doesn't count, words have to do. Which it was, the prompts' label says.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from core.bench.planning.plan import BenchPlan
from core.bench.prompts import COMMON_WORDS, Prompts, SyntheticPrompts, listed_prompts, words_for
from core.chat_api.answer import Answer
from core.chat_api.client import Session, Timeouts, send
from core.domain.sampling import Sampling
from core.domain.specs import Endpoint, LaneSpec
from core.errors import InputError, LMDynoError
from core.i18n import N_, Text
from core.models.checkpoint import checkpoint_folder
from core.models.tokenizer import LaneTokenizer

_PROBE_WORDS = (8, 136)
_RETRY_S = 0.5


class PromptMaker:
    """Makes prompts for the lanes of one run. Belongs to one event loop."""

    def __init__(self, plan: BenchPlan, session: Session, timeouts: Timeouts) -> None:
        """Reads the prompt file, if there is one; raises InputError."""
        self._plan = plan
        self._session = session
        self._timeouts = timeouts
        self._listed = listed_prompts(plan.workload)
        self._words: dict[Path, tuple[str, ...]] = {}

    async def prompts_for(self, lane: LaneSpec, endpoint: Endpoint) -> Prompts:
        """The lane's prompts; those that are synthetic may take a second and two requests to make."""
        if self._listed is not None:
            return self._listed
        tokens = self._plan.workload.prompt_tokens
        if words := await self._own_words(lane):
            label = N_("{n} tokens by the lane's tokenizer, each with a different start", n=tokens)
            return self._synthetic(words, tokens, label)
        length, problem = await self._calibrated(endpoint, tokens)
        if length:
            label = N_(
                "{words} words ({n} tokens as counted by the server), each with a different start",
                words=length,
                n=tokens,
            )
            return self._synthetic(COMMON_WORDS, length, label)
        label = N_(
            "{words} words, each with a different start (no tokenizer is available, and {problem})",
            words=tokens,
            problem=problem or N_("the server doesn't count tokens"),
        )
        return self._synthetic(COMMON_WORDS, tokens, label)

    def _synthetic(self, words: Sequence[str], length: int, label: Text) -> SyntheticPrompts:
        return SyntheticPrompts(
            words,
            length,
            label=label,
            seed=self._plan.seed,
            run_id=self._plan.id,
        )

    async def _own_words(self, lane: LaneSpec) -> tuple[str, ...]:
        """Words of the lane's tokenizer that are one token each; none if it is not on this machine."""
        named = lane.endpoint.tokenizer if lane.endpoint else None
        if lane.model is None and named is None:
            return ()
        try:
            folder = checkpoint_folder(lane.model.checkpoint) if lane.model else Path(named or "")
            if folder not in self._words:
                self._words[folder] = await asyncio.to_thread(_plain_words, folder)
        except InputError:
            return ()
        return self._words[folder]

    async def _calibrated(self, endpoint: Endpoint, tokens: int) -> tuple[int | None, Text | None]:
        """Return how many common words make as many tokens by the server's count; None if that can't be told,
        and why if the requests failed.
        """
        problem: Text | None = None
        for wait_s in (0.0, _RETRY_S):
            await asyncio.sleep(wait_s)
            try:
                short, long = [(words, await self._counted(endpoint, words)) for words in _PROBE_WORDS]
            except LMDynoError as error:
                problem = N_("counting by the server failed: {problem}", problem=error.message)
            else:
                return words_for(tokens, short, long), None
        return None, problem

    async def _counted(self, endpoint: Endpoint, words: int) -> int | None:
        prompt = SyntheticPrompts(
            COMMON_WORDS, words, label="", seed=self._plan.seed, run_id=f"{self._plan.id}/calibration"
        )
        answer = Answer(endpoint.dialect)
        await send(
            self._session, endpoint, prompt.messages(words), Sampling(max_tokens=1), answer, self._timeouts
        )
        return answer.prompt_tokens


def _plain_words(folder: Path) -> tuple[str, ...]:
    return LaneTokenizer(folder).plain_words()
