"""Rooms of simulated voters whose preferences are known."""

from dataclasses import dataclass

import numpy as np

from core.sessions.statistics import FIRST, SECOND, TIE, Comparison, pairs_of


@dataclass(frozen=True, kw_only=True)
class Room:
    """Voters who prefer by Davidson's model, lean to the left answer, and sometimes vote at random."""

    strengths: tuple[float, ...]
    """Log odds, with the mean 0."""
    prompts: int = 40
    voters: int = 6
    votes_per_voter: int = 40
    ties: float = 0.8
    left: float = 0.0
    """Log odds that the left answer gains."""
    lapses: float = 0.0
    """Share of votes given at random."""
    prompt_spread: float = 0.0
    """Standard deviation, in log odds, of how good a lane's answer to one prompt is."""

    def votes(self, seed: int) -> list[Comparison]:
        """What the room votes, on prompts and answers that differ from seed to seed."""
        source = np.random.default_rng(seed)
        pairs = pairs_of(len(self.strengths))
        good = self._good(source, self.prompts)
        given = []
        for voter in range(self.voters):
            for number in range(self.votes_per_voter):
                prompt = number % self.prompts
                one, other = pairs[(number + number // self.prompts + voter // 2) % len(pairs)]
                first_is_left = (number // len(pairs) + voter) % 2 == 0
                chances = self._chances(good[prompt, one], good[prompt, other], first_is_left)
                outcome = source.choice((FIRST, TIE, SECOND), p=chances)
                given.append(Comparison(prompt, one, other, int(outcome)))
        return given

    def expected(self, pair: tuple[int, int], *, prompts: int = 20_000) -> np.ndarray:
        """The shares of the three outcomes that endless voting on endless prompts would give."""
        good = self._good(np.random.default_rng(0), prompts)[:, pair]
        by_side = [self._chances(good[:, 0], good[:, 1], first_is_left) for first_is_left in (True, False)]
        return np.mean(by_side, axis=(0, 2))

    def _good(self, source: np.random.Generator, prompts: int) -> np.ndarray:
        return np.array(self.strengths) + source.normal(0, self.prompt_spread, (prompts, len(self.strengths)))

    def _chances(self, first: np.ndarray, second: np.ndarray, first_is_left: bool) -> np.ndarray:
        lean = self.left / 2 if first_is_left else -self.left / 2
        odds = np.exp([first + lean, np.log(self.ties) + (first + second) / 2, second - lean])
        return (1 - self.lapses) * odds / odds.sum(axis=0) + self.lapses / 3
