"""Which node a lane goes to that names none: the one where the most GPU memory stays free."""

from collections.abc import Mapping

from core.cluster.protocol import Answer
from core.domain.specs import LaneSpec
from core.errors import EngineLoadFailed, EngineOutOfMemory, LMDynoError
from core.i18n import N_, Text
from core.units import gib


def choose_node(lane: LaneSpec, answers: Mapping[str, Answer | BaseException]) -> str:
    """The node for a lane, by what each agent said of its room.

    Args:
        lane: names no node.
        answers: to WEIGH, by the node's name; an exception where there was none.

    Raises:
        EngineOutOfMemory: nodes with GPUs answered, and it fits on none.
        EngineLoadFailed: no node can run it at all; the hint names each with its reason.
    """
    rooms = {
        name: answer.weighed
        for name, answer in answers.items()
        if isinstance(answer, Answer) and answer.weighed is not None
    }
    fitting = {name: room for name, room in rooms.items() if room.fits}
    if fitting:

        def left_bytes(name: str) -> int:
            room = fitting[name]
            return (room.free_bytes or 0) - (room.need_bytes or 0)

        return max(sorted(fitting), key=left_bytes)
    if rooms:
        raise EngineOutOfMemory(
            N_("{lane} fits on no node of the cluster.", lane=lane.name),
            hint=N_(
                "Stop an engine, lower cache_max_entry_count, or choose a smaller model. Free now: {rooms}.",
                rooms=", ".join(f"{name} {gib(room.free_bytes)}" for name, room in sorted(rooms.items())),
            ),
            code="cluster-full",
        )
    raise EngineLoadFailed(
        N_("No node of the cluster can run {lane}.", lane=lane.name),
        hint=_reasons(answers) or N_("No node answers. Check with `ray status` whether the cluster runs."),
        code="no-node",
    )


def _reasons(answers: Mapping[str, Answer | BaseException]) -> Text:
    return " ".join(
        f"{name}: {answer.message}"
        for name, answer in sorted(answers.items())
        if isinstance(answer, LMDynoError)
    )
