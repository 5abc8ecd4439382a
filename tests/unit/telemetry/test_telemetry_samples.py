from dataclasses import replace

from core.telemetry.samples import EngineView, EventKind, EventLog

IDLE = EngineView(name="awq", start_id="1")
LOADING = replace(IDLE, running=True)
READY = replace(LOADING, weights_loaded=True, kv_reserved=True, ready=True)


def kinds(*looks):
    log = EventLog()
    for number, views in enumerate(looks):
        log.observe(number, views)
    return [event.kind for event in log.events()]


def test_a_start_is_seen_step_by_step():
    weights = replace(LOADING, weights_loaded=True)
    kv = replace(weights, kv_reserved=True)
    assert kinds([], [LOADING], [weights], [kv], [READY], [READY]) == [
        EventKind.START,
        EventKind.WEIGHTS,
        EventKind.KV,
        EventKind.READY,
    ]


def test_what_ran_before_the_first_look_has_no_events_of_its_own():
    assert kinds([READY], [READY]) == []


def test_requests_are_marked_at_both_ends():
    busy = replace(READY, in_use=True)
    assert kinds([READY], [busy], [busy], [READY]) == [EventKind.REQUEST, EventKind.REQUEST_END]


def test_an_engine_that_ends_within_a_request_ends_that_too():
    busy = replace(READY, in_use=True)
    assert kinds([busy], [IDLE]) == [EventKind.REQUEST_END, EventKind.STOP]
    assert kinds([busy], []) == [EventKind.STOP]


def test_a_failure_is_not_a_stop():
    assert kinds([LOADING], [replace(IDLE, failed=True)]) == [EventKind.FAILED]


def test_another_start_of_the_same_engine_begins_anew():
    again = replace(LOADING, start_id="2")
    assert kinds([READY], [again]) == [EventKind.STOP, EventKind.START]


def test_only_later_events_on_demand():
    log = EventLog()
    log.observe(1, [IDLE])
    log.observe(2, [LOADING])
    log.observe(3, [READY])
    assert {event.at_ns for event in log.events(2)} == {3}
