"""Plans a turn from the page's settings and the conversation so far. Knows nothing of Streamlit."""

from collections.abc import Sequence
from dataclasses import dataclass

from core.access.guard import current_identity
from core.domain.conversation import MAX_IMAGES, Exchange, Sampling, StoredImage, messages_for
from core.domain.specs import LaneSpec
from core.domain.turns import FinishReason, Mode, RequestPlan, RequestRecord, TurnPlan, TurnRecord
from core.errors import AccessDenied, InputError
from core.i18n import N_

MAX_LANES = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatSettings:
    """The settings of the controls, for the next turn."""

    lanes: tuple[LaneSpec, ...]
    mode: Mode
    sampling: Sampling
    baseline: str | None = None
    """The lane that the others' speed is compared with; it changes no request."""
    system_prompt: str = ""


def plan_turn(
    prompt: str,
    settings: ChatSettings,
    *,
    conversation_id: str,
    turns: Sequence[TurnRecord],
    images: tuple[StoredImage, ...] = (),
    replaces: str | None = None,
) -> TurnPlan:
    """The next turn of a conversation, or one in the place of `replaces`, asked by whoever acts.

    Raises InputError, and AccessDenied for a conversation that somebody else began.

    Each lane is sent its own history: its answers in the turns before, with those turns' images.
    """
    if not prompt.strip():
        raise InputError(N_("The prompt is empty."), hint=N_("Enter a question."))
    if len(images) > MAX_IMAGES:
        raise InputError(
            N_("Too many images ({n}).", n=len(images)),
            hint=N_("Choose at most {most} images per question.", most=MAX_IMAGES),
        )
    if not 1 <= len(settings.lanes) <= MAX_LANES:
        raise InputError(
            N_("No lane is selected.")
            if not settings.lanes
            else N_("Too many lanes ({n}) are selected.", n=len(settings.lanes)),
            hint=N_("Select 1 to {most} lanes in the sidebar.", most=MAX_LANES),
        )
    identity = current_identity()
    if turns and turns[0].owner != identity.owner and not identity.is_operator:
        raise AccessDenied(
            N_("This conversation belongs to somebody else."),
            hint=N_("You can read it. To ask something, start a new conversation."),
        )
    earlier = turns_before(turns, replaces)
    return TurnPlan(
        conversation_id=conversation_id,
        prompt=prompt,
        system_prompt=settings.system_prompt,
        mode=settings.mode,
        sampling=settings.sampling,
        images=images,
        replaces=replaces,
        owner=identity.owner,
        requests=tuple(
            RequestPlan(
                lane=lane,
                messages=messages_for(
                    prompt,
                    system=settings.system_prompt,
                    earlier=history(lane.name, earlier),
                    images=images,
                ),
            )
            for lane in settings.lanes
        ),
    )


def turns_before(turns: Sequence[TurnRecord], turn_id: str | None) -> Sequence[TurnRecord]:
    """The turns before the given one; all of them for None."""
    places = [place for place, turn in enumerate(turns) if turn.id == turn_id]
    return turns[: places[0]] if places else turns


def planned_record(plan: TurnPlan) -> TurnRecord:
    """The turn as it stands before anything was sent."""
    return TurnRecord.of(plan, tuple(RequestRecord.of(request, plan.id) for request in plan.requests))


def merge_turns(*sources: Sequence[TurnRecord]) -> tuple[TurnRecord, ...]:
    """One conversation from several views of it, oldest first; a later source knows a turn better.

    A finished record is never given up for an unfinished one. Turns that another one replaces are left out.
    """
    by_id: dict[str, TurnRecord] = {}
    for source in sources:
        for turn in source:
            known = by_id.get(turn.id)
            if known is None or not known.done or turn.done:
                by_id[turn.id] = turn
    replaced = {turn.replaces for turn in by_id.values()}
    kept = [turn for turn in by_id.values() if turn.id not in replaced]
    return tuple(sorted(kept, key=lambda turn: turn.created_at))


def history(lane: str, turns: Sequence[TurnRecord]) -> list[Exchange]:
    """The turns as this lane knows them."""
    return [Exchange(turn.prompt, _answer(lane, turn), turn.images) for turn in turns]


def _answer(lane: str, turn: TurnRecord) -> str:
    """Return what the lane said in that turn; "" if it failed or was not asked. A stopped answer counts."""
    for request in turn.requests:
        if request.lane.name == lane and request.finish_reason is not FinishReason.ERROR:
            return request.text
    return ""
