"""Sessions without engines: plans, answers and votes as the tests need them."""

from core.domain.conversation import Sampling
from core.domain.sessions import (
    PromptSet,
    Session,
    SessionAnswer,
    SessionPlan,
    SessionPrompt,
    SessionState,
    Verdict,
    Vote,
)
from core.domain.specs import EndpointSpec, EngineKind, LaneSpec
from core.domain.timing import Timing
from core.domain.turns import FinishReason, Phase, RequestRecord, UsageWindow
from core.sessions.items import assigned_items, build_ballot, usable_texts

S = 1_000_000_000


def lane(name: str) -> LaneSpec:
    return LaneSpec(
        name=name, kind=EngineKind.ENDPOINT, endpoint=EndpointSpec(url="http://127.0.0.1:9/v1", model=name)
    )


def plan(*names: str, prompts: int = 14, **changes) -> SessionPlan:
    categories = ("code", "writing")
    return SessionPlan(
        **{
            "title": "Which lane?",
            "lanes": tuple(lane(name) for name in names or ("alpha", "beta")),
            "prompts": PromptSet(
                name="test",
                version="1",
                prompts=tuple(
                    SessionPrompt(
                        text=f"Prompt {n}", category=categories[n % 2], language="zh" if n % 3 else "en"
                    )
                    for n in range(prompts)
                ),
            ),
            "sampling": Sampling(temperature=0.7),
            "votes_per_person": prompts,
            "control_ratio": 0.0,
        }
        | changes
    )


def answer(
    prompt: int, lane_place: int, sample: int = 0, *, text: str | None = None, speed: float = 50.0, **changes
) -> SessionAnswer:
    """An answer of 11 tokens that came at `speed` tokens per second."""
    gaps = tuple(int(S * (0.2 + n / speed)) for n in range(11))
    said = f"Answer {prompt}.{lane_place}.{sample}" if text is None else text
    record = RequestRecord(
        **{
            "id": f"r{prompt}-{lane_place}-{sample}",
            "turn_id": f"t{prompt}",
            "lane": lane(f"lane {lane_place}"),
            "messages": (),
            "phase": Phase.DONE,
            "timing": Timing(
                sent_ns=0,
                first_event_ns=gaps[0],
                chunk_ns=gaps,
                content_chars=(1,) * 11,
                reasoning_chars=(0,) * 11,
                chunk_tokens=(1,) * 11,
                output_tokens=11,
                ended_ns=gaps[-1],
            ),
            "text": said,
            "prompt_tokens": 5,
            "finish_reason": FinishReason.STOP,
            "window": UsageWindow(duration_s=1.0, energy_j=22.0, peak_gpu_bytes=2**30),
        }
        | changes
    )
    return SessionAnswer(prompt=prompt, lane=lane_place, sample=sample, record=record)


def answers(of: SessionPlan) -> tuple[SessionAnswer, ...]:
    """An answer of each lane to each prompt, all different."""
    return tuple(
        answer(prompt, place) for prompt in range(len(of.prompts.prompts)) for place in range(len(of.lanes))
    )


def open_session(of: SessionPlan, given: tuple[SessionAnswer, ...] | None = None, **changes) -> Session:
    ballot = build_ballot(of, usable_texts(answers(of) if given is None else given))
    return Session(
        **{
            "plan": of,
            "state": SessionState.OPEN,
            "items": ballot.items,
            "identical_pairs": ballot.identical_pairs,
            "id": "5e55101",
            "link": "secret",
        }
        | changes
    )


def votes_for(session: Session, best: int, *, seats: int = 4, left: bool = False) -> list[Vote]:
    """Everybody prefers one lane wherever it is shown; else a tie, or the left answer."""
    cast = []
    for seat in range(seats):
        for assigned in assigned_items(session.id, session.plan, session.items, seat):
            item = session.items[assigned.item]
            lanes = [candidate.lane for candidate in item.candidates]
            places = list(assigned.shown)
            if best in lanes and item.control is None:
                places.sort(key=lambda place: lanes[place] != best)
            elif not left:
                places = []
            cast.append(
                Vote(
                    participant_id=f"p{seat}",
                    item=assigned.item,
                    shown=assigned.shown,
                    verdict=Verdict.PREFERRED if places else Verdict.TIE,
                    order=tuple(places),
                )
            )
    return cast
