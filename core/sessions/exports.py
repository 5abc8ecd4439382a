"""Sessions as files: JSON with its schema, CSV of the votes, battle logs, and what LLM Comparator reads.

Participants are numbered in the order of joining; names go along only if they are asked for. Links and codes,
which let somebody vote, never do.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from core.codec import encode_plain, json_schema, to_csv
from core.domain.sessions import (
    AnswerTexts,
    Candidate,
    Participant,
    SessionItem,
    SessionRecord,
    Verdict,
    Vote,
)
from core.i18n import N_
from core.sessions.items import usable_texts
from core.sessions.statistics import FIRST, SECOND, comparisons_of

_CSV_HEAD = (
    *("participant", "given_at", "took_s", "item", "control", "prompt", "category", "language"),
    *("shown", "verdict", "order", "reasons", "comment", "deploy", "deploy_order"),
)
_SCORE = 1.5
"""LLM Comparator's scores reach from this for the first model to minus this for the second."""


def portable(record: SessionRecord, *, names: bool) -> SessionRecord:
    """The record without secrets, and without names unless they are wanted."""
    people = tuple(
        replace(
            person,
            code="",
            name=person.name if names else label_of(person),
            user=person.user if names else None,
        )
        for person in record.participants
    )
    session = replace(record.session, link="", owner=record.session.owner if names else None)
    return replace(record, session=session, participants=people)


def label_of(person: Participant) -> str:
    """Return what a participant is called where names are left out."""
    return f"P{person.seat + 1}"


def session_json(record: SessionRecord, *, names: bool) -> bytes:
    """The whole session; `session_schema` describes it, and it can be imported elsewhere."""
    return encode_plain(portable(record, names=names))


def session_schema() -> bytes:
    """The JSON Schema of `session_json`."""
    return encode_plain(json_schema(SessionRecord))


def votes_csv(record: SessionRecord, *, names: bool) -> bytes:
    """A line for each vote, as it was given; lanes by name. Begins with a byte order mark, for Excel."""
    people = {person.id: person.name if names else label_of(person) for person in record.participants}
    rows = [
        {
            "participant": people.get(vote.participant_id, ""),
            "given_at": vote.given_at.isoformat(),
            "took_s": "" if vote.took_s is None else f"{vote.took_s:.1f}",
            "item": vote.item,
            "control": item.control or "",
            "prompt": prompt.text,
            "category": prompt.category,
            "language": prompt.language,
            "shown": _names(record, item, vote.shown),
            "verdict": vote.verdict,
            "order": _names(record, item, vote.order),
            "reasons": " ".join(vote.reasons),
            "comment": vote.comment,
            "deploy": vote.deploy or "",
            "deploy_order": _names(record, item, vote.deploy_order),
        }
        for vote in record.votes
        for item in (record.session.items[vote.item],)
        for prompt in (record.session.plan.prompts.prompts[item.prompt],)
    ]
    return b"\xef\xbb\xbf" + to_csv(_CSV_HEAD, rows).encode()


def battle_log(record: SessionRecord) -> bytes:
    """JSON Lines of battles as LMArena publishes them; a ranking gives one for every two answers."""
    texts = usable_texts(record.answers)
    seats = {person.id: label_of(person) for person in record.participants}
    lines = []
    for vote in record.votes:
        item = record.session.items[vote.item]
        if item.control is not None or vote.verdict is Verdict.SKIPPED:
            continue
        for left, right, winner in _battles(vote):
            lines.append(
                {
                    "question_id": f"{record.session.id}-{item.prompt}",
                    "model_a": _lane(record, item.candidates[left]),
                    "model_b": _lane(record, item.candidates[right]),
                    "winner": winner,
                    "judge": seats.get(vote.participant_id, ""),
                    "conversation_a": _conversation(record, item, left, texts),
                    "conversation_b": _conversation(record, item, right, texts),
                    "turn": 1,
                    "anony": True,
                    "language": record.session.plan.prompts.prompts[item.prompt].language,
                    "tstamp": vote.given_at.timestamp(),
                }
            )
    return b"".join(encode_plain(line) + b"\n" for line in lines)


def llm_comparator(record: SessionRecord, first: int, second: int) -> bytes:
    """Return what LLM Comparator reads: two lanes, each prompt with both answers and every rating."""
    plan, texts = record.session.plan, usable_texts(record.answers)
    ratings = _ratings(record, first, second)
    examples = []
    for place, prompt in enumerate(plan.prompts.prompts):
        answers = [texts.get((place, Candidate(lane))) for lane in (first, second)]
        if None in answers:
            continue
        scores = [rating["score"] for rating in ratings[place]]
        examples.append(
            {
                "input_text": prompt.text,
                "tags": [tag for tag in (prompt.category, prompt.language) if tag],
                "output_text_a": answers[0],
                "output_text_b": answers[1],
                "score": sum(scores) / len(scores) if scores else 0.0,
                "individual_rater_scores": ratings[place],
                "custom_fields": {"votes": len(scores)},
            }
        )
    return encode_plain(
        {
            "metadata": {
                "source_path": f"LMDyno session {record.session.id}",
                "custom_fields_schema": [{"name": "votes", "type": "number"}],
            },
            "models": [{"name": plan.lanes[lane].name} for lane in (first, second)],
            "examples": examples,
        }
    )


FORMAT_NAMES = {
    "json": N_("Session (JSON)"),
    "csv": N_("Votes (CSV)"),
    "battles": N_("Battle log, as LMArena's (JSON Lines)"),
    "comparator": N_("LLM Comparator (JSON)"),
    "schema": N_("Schema of the session's JSON"),
}


def _ratings(record: SessionRecord, first: int, second: int) -> Mapping[int, list[dict[str, Any]]]:
    """By prompt what every vote and every judgement says of the two lanes."""
    ratings: dict[int, list[dict[str, Any]]] = defaultdict(list)
    given: list[tuple[int, Verdict | None, tuple[int, ...], tuple[int, ...], str]] = [
        (vote.item, vote.verdict, vote.order, vote.shown, vote.comment or ", ".join(vote.reasons))
        for vote in record.votes
    ]
    for item_place, verdict, order, shown, rationale in given:
        item = record.session.items[item_place]
        lanes = [candidate.lane for candidate in item.candidates]
        if item.control is not None or not {first, second} <= set(lanes):
            continue
        flipped = shown.index(lanes.index(second)) < shown.index(lanes.index(first))
        for comparison in comparisons_of(item, verdict, order):
            if {comparison.first, comparison.second} == {first, second}:
                score = {FIRST: _SCORE, SECOND: -_SCORE}.get(comparison.outcome, 0.0)
                ratings[item.prompt].append(
                    {
                        "is_flipped": flipped,
                        "score": score if comparison.first == first else 0.0 - score,
                        "rationale": rationale,
                    }
                )
    return ratings


def _battles(vote: Vote) -> Iterable[tuple[int, int, str]]:
    """Places of the left and the right answer of every two that were shown, and the winner's name."""
    rank = {place: number for number, place in enumerate(vote.order)}
    for position, left in enumerate(vote.shown):
        for right in vote.shown[position + 1 :]:
            if vote.verdict is Verdict.PREFERRED:
                yield left, right, "model_a" if rank[left] < rank[right] else "model_b"
            else:
                yield left, right, "tie (bothbad)" if vote.verdict is Verdict.ALL_BAD else "tie"


def _conversation(
    record: SessionRecord, item: SessionItem, place: int, texts: AnswerTexts
) -> list[dict[str, str]]:
    prompt = record.session.plan.prompts.prompts[item.prompt].text
    answer = texts.get((item.prompt, item.candidates[place]), "")
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def _names(record: SessionRecord, item: SessionItem, places: Iterable[int]) -> str:
    return " > ".join(_lane(record, item.candidates[place]) for place in places)


def _lane(record: SessionRecord, candidate: Candidate) -> str:
    name = record.session.plan.lanes[candidate.lane].name
    return f"{name} #{candidate.sample + 1}" if candidate.sample else name
