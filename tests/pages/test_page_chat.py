import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from page_fakes import BOOK, HF, HF_Q4, REMOTE, finished
from streamlit.runtime.context import StreamlitCookies
from streamlit.testing.v1 import AppTest

from core.access.identity import Person
from core.domain.conversation import Role, Sampling
from core.domain.turns import (
    ErrorInfo,
    FinishReason,
    Mode,
    Phase,
    RequestPlan,
    TurnPlan,
    TurnRecord,
    planned_record,
)
from core.engines.registry import EngineState
from core.errors import AccessDenied, EngineError, StoreError
from core.meter.protocol import Update
from core.ui.chat import controls as chat_controls
from core.ui.chat import session as chat_session


def texts(app) -> str:
    """All text on the page, for looking something up in it."""
    kinds = (app.markdown, app.caption, app.error, app.warning, app.code)
    return "\n".join(element.value for kind in kinds for element in kind)


def ask(app, prompt="What is the capital of Japan?"):
    return app.chat_input[0].set_value(prompt).run()


def button(app, label):
    return next(b for b in app.button if b.label == label)


def keyed(widgets, kind):
    """The only widget with a key of that kind."""
    (widget,) = (each for each in widgets if (each.key or "").startswith(f"{kind}_"))
    return widget


def labels(app):
    return [b.label for b in app.button]


def stored_turn(world, *, done=True, conversation_id="c1", prompt="Stored prompt", **changes):
    plan = TurnPlan(
        conversation_id=conversation_id,
        prompt=prompt,
        sampling=Sampling(max_tokens=64),
        requests=tuple(RequestPlan(lane=lane, messages=()) for lane in (HF, HF_Q4)),
    )
    turn = replace(planned_record(plan), **changes)
    if done:
        requests = tuple(finished(r, f"Stored answer of {r.lane.name}.") for r in turn.requests)
        turn = replace(turn, requests=requests)
    world.store.save(turn)
    return turn


def test_first_visit_offers_examples_in_english_and_chinese_and_asks_nothing(app, world):
    assert not app.exception
    assert "Capital of Japan" in labels(app)
    assert any("\u4e00" <= character <= "\u9fff" for label in labels(app) for character in label)
    assert world.meter.plans == []
    assert "Stop" not in labels(app)
    assert "Regenerate" not in labels(app)


def test_a_prompt_becomes_one_plan_for_all_picked_lanes(app, world):
    ask(app)
    (plan,) = world.meter.plans
    assert [request.lane for request in plan.requests] == list(BOOK.lanes)
    assert plan.prompt == "What is the capital of Japan?"
    assert plan.mode is Mode.ONE_AFTER_ANOTHER
    assert plan.sampling == Sampling()
    assert world.manager.ensured == ["hf", "hf-q4"]
    for lane in BOOK.lanes:
        assert f"Answer of {lane.name} here." in texts(app)
    assert not app.exception


def test_controls_reach_the_plan(app, world):
    app.pills(key="chat_lanes").set_value(["hf-q4", "remote"])
    app.segmented_control(key="chat_mode").set_value(Mode.TOGETHER)
    app.text_area(key="chat_system_prompt").set_value("Be brief.")
    app.slider(key="chat_temperature").set_value(0.7)
    app.slider(key="chat_top_p").set_value(0.9)
    app.number_input(key="chat_top_k").set_value(40)
    app.slider(key="chat_repetition_penalty").set_value(1.1)
    app.number_input(key="chat_seed").set_value(7)
    app.number_input(key="chat_max_tokens").set_value(64)
    app.toggle(key="chat_fixed_length").set_value(True)
    ask(app.run())
    (plan,) = world.meter.plans
    assert [request.lane.name for request in plan.requests] == ["hf-q4", "remote"]
    assert plan.mode is Mode.TOGETHER
    assert plan.system_prompt == "Be brief."
    assert plan.requests[0].messages[0].role is Role.SYSTEM
    assert plan.sampling == Sampling(
        temperature=0.7,
        top_p=0.9,
        top_k=40,
        repetition_penalty=1.1,
        seed=7,
        max_tokens=64,
        fixed_length=True,
    )


def test_changing_a_widget_generates_nothing(app, world):
    ask(app)
    app.slider(key="chat_temperature").set_value(1.0).run()
    app.selectbox(key="chat_baseline").set_value("hf-q4").run()
    app.pills(key="chat_lanes").set_value(["hf"]).run()
    assert len(world.meter.plans) == 1
    assert world.meter.cancelled == []


def test_each_lane_keeps_its_own_history(app, world):
    ask(app, "First?")
    ask(app, "Second?")
    for request in world.meter.plans[1].requests:
        contents = [message.content for message in request.messages]
        assert contents == ["First?", f"Answer of {request.lane.name} here.", "Second?"]


def test_regenerate_replaces_the_last_turn_and_leaves_it_out_of_the_history(app, world):
    ask(app, "First?")
    ask(app, "Second?")
    button(app, "Regenerate").click().run()
    first, second, again = world.meter.plans
    assert again.replaces == second.id
    assert again.prompt == "Second?"
    assert again.requests[0].messages == second.requests[0].messages
    assert again.conversation_id == first.conversation_id
    assert sum("Second?" in m.value for m in app.markdown) == 1


def test_an_edited_prompt_replaces_the_last_turn(app, world):
    ask(app, "First?")
    keyed(app.text_area, "edited_prompt").set_value("Better?")
    button(app, "Replace and send").click().run()
    assert world.meter.plans[1].prompt == "Better?"
    assert world.meter.plans[1].replaces == world.meter.plans[0].id
    assert "First?" not in texts(app)


def test_an_example_is_asked_at_once(app, world):
    button(app, "水的化学式").click().run()
    assert world.meter.plans[0].prompt == "水的化学式是什么？"
    assert "Capital of Japan" not in labels(app)


def test_figures_mode_and_the_fastest_stand_with_the_answers(app, world):
    world.meter.answers = {"hf": "a b c", "hf-q4": "a b c", "remote": "a b c"}
    ask(app)
    metrics = [(metric.label.split(" ")[0], metric.value) for metric in app.metric]
    assert ("TTFT", "50.0 ms") in metrics
    assert ("Decode", "100 tok/s") in metrics
    assert "34 tokens in · 3 out · finished" in texts(app)
    assert "**One after another** · greedy" in texts(app)
    assert "**1.00×** the decode speed of hf" in texts(app)
    assert "Not comparable with GPU figures" in texts(app)
    marked = [metric for metric in app.metric if "trophy" in metric.label]
    assert [metric.help.startswith("**The fastest") for metric in marked] == [True, True]
    assert len(app.get("plotly_chart")) == 2


def test_versions_of_an_answer_can_be_looked_at_again(app, world):
    world.meter.answers = {"hf": "the first answer"}
    ask(app)
    assert len(app.get("pagination")) == 0
    world.meter.answers = {"hf": "the second answer"}
    button(app, "Regenerate").click().run()
    assert len(app.get("pagination")) == 1
    assert "the second answer" in texts(app)
    assert "the first answer" not in texts(app)
    app.session_state[f"version_{world.meter.plans[-1].id}"] = 1
    app.run()
    assert "the first answer" in texts(app)
    assert "the second answer" not in texts(app)


def test_keys_are_used_again_and_nothing_of_an_earlier_turn_comes_back(app, world, monkeypatch):
    monkeypatch.setattr(chat_session, "_MOST_KEYS", 2)
    keys = set()
    for number in range(5):
        ask(app, f"Question {number}?")
        edited, repeats = keyed(app.text_area, "edited_prompt"), keyed(app.number_input, "repeats")
        assert (edited.value, repeats.value) == (f"Question {number}?", 4)
        edited.set_value("Unsent").run()
        keyed(app.number_input, "repeats").set_value(7).run()
        keys |= {edited.key, repeats.key}
    assert len(keys) == 4


def test_conversations_of_others_in_the_list_get_no_endless_keys(new_app, world, monkeypatch):
    monkeypatch.setattr(chat_session, "_MOST_KEYS", 12)
    app, keys = new_app(), set()
    for number in range(20):
        world.store.turns.clear()
        stored_turn(world, conversation_id=f"c{number}", prompt=f"Prompt {number}")
        app.run()
        shown = keyed(app.button, "open")
        assert shown.label == f"Prompt {number}"
        keys.add(shown.key)
    assert len(keys) == 12


def test_a_prompt_is_repeated_one_run_after_another_and_the_spread_is_shown(app, world):
    ask(app)
    keyed(app.number_input, "repeats").set_value(3)
    next(b for b in app.button if b.label == "Start").click().run()
    assert len(world.meter.plans) == 4
    assert [plan.replaces for plan in world.meter.plans[1:]] == [plan.id for plan in world.meter.plans[:3]]
    assert "Median and range over 4 runs" in texts(app)
    table = next(table.value for table in app.table if "TTFT" in table.value)
    assert list(table["TTFT"]) == ["**50.0 ms** (50.0 ms to 50.0 ms, n = 4)"] * 3


def test_repeating_ends_when_all_lanes_fail(app, world):
    ask(app)
    keyed(app.number_input, "repeats").set_value(5)
    for lane in ("hf", "hf-q4", "remote"):
        world.meter.errors[lane] = ErrorInfo("engine-crashed", "The engine died")
    next(b for b in app.button if b.label == "Start").click().run()
    assert len(world.meter.plans) == 2


def test_a_prompt_after_repeats_that_could_not_go_on_is_asked_once(app, world, monkeypatch):
    ask(app)
    start = world.meter.start

    def fail_after_two(plan):
        if len(world.meter.plans) == 2:
            raise EngineError("The meter is gone")
        start(plan)

    monkeypatch.setattr(world.meter, "start", fail_after_two)
    keyed(app.number_input, "repeats").set_value(5)
    button(app, "Start").click().run()
    assert len(world.meter.plans) == 2
    assert "The meter is gone" in texts(app)
    monkeypatch.setattr(world.meter, "start", start)
    ask(app, "And of France?")
    assert [plan.prompt for plan in world.meter.plans[2:]] == ["And of France?"]


def test_the_baseline_is_one_of_the_picked_lanes(app, world):
    app.pills(key="chat_lanes").set_value(["hf-q4", "remote"]).run()
    assert app.selectbox(key="chat_baseline").options == ["hf-q4", "remote"]
    assert app.selectbox(key="chat_baseline").value == "hf-q4"
    ask(app)
    assert "the decode speed of hf-q4" in texts(app)


def test_a_turn_without_the_baseline_lane_is_compared_with_its_first_lane(new_app, world):
    stored_turn(world)
    app = new_app(conversation="c1").run()
    app.pills(key="chat_lanes").set_value(["remote"]).run()
    assert "the decode speed of hf" in texts(app)


def test_one_lane_alone_has_no_chart(app, world):
    app.pills(key="chat_lanes").set_value(["hf"]).run()
    ask(app)
    assert "Answer of hf here." in texts(app)
    assert len(app.get("plotly_chart")) == 0


def test_a_chart_needs_the_figure_of_two_lanes(app, world):
    world.meter.answers = {"hf": "a b c", "hf-q4": "one", "remote": "one"}
    ask(app)
    assert len(app.get("plotly_chart")) == 1  # the others have no decode speed


def test_equal_answers_have_a_badge_and_others_say_where_they_part(app, world):
    world.meter.answers = {"hf": "The capital is Paris.", "hf-q4": "The capital is Paris."}
    world.meter.answers["remote"] = "The capital is Rome."
    app.pills(key="chat_lanes").set_value(["hf", "hf-q4"]).run()
    ask(app)
    assert "Identical answers" in texts(app)
    assert "Compare answers" not in labels(app)
    app.pills(key="chat_lanes").set_value(["hf", "hf-q4", "remote"]).run()
    ask(app)
    told = "hf\\-q4 is identical to hf · remote parts from hf after 3 words"
    assert told.replace("\\", "") in texts(app).replace("\\", "")
    button(app, "Compare answers").click().run()
    marked = [m.value for m in app.markdown if ":orange-background[" in m.value]
    assert any(":orange-background[Paris.]" in text for text in marked)


def test_a_long_prompt_is_folded(app, world):
    ask(app, "word " * 2_000 + "the end")
    assert "the end" not in texts(app)
    fold = next(e for e in app.expander if e.label == "The whole prompt (10,007 characters)")
    app.session_state[f"whole_prompt_{world.meter.plans[0].id}"] = True
    app.run()
    assert fold is not None
    assert "the end" in texts(app)


def test_long_answers_are_cut_and_expanded_on_request(app, world):
    world.meter.answers = {"hf": "a line\n\n" * 40, "hf-q4": "short", "remote": "short"}
    ask(app)
    button(app, "Expand answers").click().run()
    button(app, "Fold answers").click().run()
    assert "Expand answers" in labels(app)
    ask(app, "Another?")
    assert labels(app).count("Expand answers") == 2


def test_short_answers_need_no_expanding(app, world):
    ask(app)
    assert "Expand answers" not in labels(app)


def test_an_address_without_a_conversation_says_so_and_a_prompt_begins_one(new_app, world):
    app = new_app(conversation="deadbeef").run()
    assert "There is no conversation at this address" in texts(app)
    assert "unknown-conversation" in texts(app)
    app.run()
    assert "There is no conversation at this address" in texts(app)
    ask(app)
    assert "There is no conversation at this address" not in texts(app)
    assert world.meter.plans[0].conversation_id != "deadbeef"
    assert app.query_params["conversation"] == world.meter.plans[0].conversation_id


def test_what_is_asked_in_another_tab_is_noticed(app, new_app, world):
    ask(app)
    conversation = app.query_params["conversation"]
    other = new_app(conversation=conversation).run()
    ask(other, "From the other tab?")
    app.run()  # as the clock of the page does
    assert "From the other tab?" in texts(app)


@pytest.fixture
def browser_cookies(monkeypatch):
    """The browser's cookies; the page's own scripts are read back with `told`."""
    cookies = {}
    monkeypatch.setattr("streamlit.runtime.context.ContextProxy.cookies", StreamlitCookies(cookies))

    def keep(app):
        (script,) = [e.proto.body for e in app.get("html") if "lmdyno_chat=" in e.proto.body]
        name, value = re.search(r"(lmdyno_chat)=([^;]*);", script).groups()
        cookies[name] = value
        monkeypatch.setattr("streamlit.runtime.context.ContextProxy.cookies", StreamlitCookies(cookies))

    return SimpleNamespace(keep=keep, values=cookies)


def test_a_new_session_has_the_settings_that_the_browser_remembers(new_app, world, browser_cookies):
    app = new_app().run()
    app.number_input(key="chat_max_tokens").set_value(48).run()
    app.pills(key="chat_lanes").set_value(["hf-q4", "remote"]).run()
    app.segmented_control(key="chat_mode").set_value(Mode.TOGETHER).run()
    app.text_area(key="chat_system_prompt").set_value("说中文").run()
    browser_cookies.keep(app)
    again = new_app().run()
    assert again.number_input(key="chat_max_tokens").value == 48
    assert again.pills(key="chat_lanes").value == ["hf-q4", "remote"]
    assert again.segmented_control(key="chat_mode").value == Mode.TOGETHER
    assert again.text_area(key="chat_system_prompt").value == "说中文"
    assert again.selectbox(key="chat_baseline").value == "hf-q4"


@pytest.mark.parametrize("value", ["%%%", "bm90IGpzb24=", "eyJsYW5lcyI6IDF9"])
def test_a_cookie_that_makes_no_sense_is_left_alone(new_app, world, browser_cookies, value):
    browser_cookies.values["lmdyno_chat"] = value
    app = new_app().run()
    assert not app.exception
    assert app.number_input(key="chat_max_tokens").value == Sampling().max_tokens


def test_settings_that_nobody_changed_are_not_remembered(app):
    assert not [e for e in app.get("html") if "lmdyno_chat=" in e.proto.body]


def test_an_answer_longer_than_asked_is_flagged(app, world):
    app.pills(key="chat_lanes").set_value(["hf", "remote"])
    app.number_input(key="chat_max_tokens").set_value(4)
    world.meter.answers = {"hf": "a b c", "remote": "a b c d e f"}
    ask(app.run())
    shown = texts(app).replace("\\", "")
    assert "Not as requested: token limit exceeded: 6 of at most 4 (remote)" in shown


def test_the_error_of_one_lane_stands_in_its_column_only(app, world):
    world.meter.errors["hf-q4"] = ErrorInfo("engine-crashed", "The engine died", "Start it again.")
    world.manager.states["hf-q4"] = EngineState.FAILED
    ask(app)
    answer_errors = [error.value for error in app.error]
    assert len(answer_errors) == 1
    assert "The engine died" in answer_errors[0]
    assert "Start it again." in answer_errors[0]
    assert "engine-crashed" in answer_errors[0]
    assert "Answer of hf here." in texts(app)
    next(b for b in app.button if b.label == "Start the engine again").click().run()
    assert world.manager.restarted == ["hf-q4"]
    assert len(world.meter.plans) == 1


@pytest.mark.parametrize(
    ("update", "shown"),
    [
        (Update(request_id="", phase=Phase.QUEUED, place=2), "Queued, position 2"),
        (Update(request_id="", phase=Phase.STARTING), "Loading shard 1 of 2"),
        (Update(request_id="", phase=Phase.SENT), "Waiting for the first token"),
    ],
)
def test_a_lane_says_what_it_waits_for(app, world, monkeypatch, update, shown):
    seen = []
    original = world.meter.cancel
    world.manager.states["hf"] = EngineState.STARTING
    world.meter.before["hf"] = [update, None]

    from core.ui.chat import answers as lanes

    draw = lanes._StatusLine.draw

    def spy(self):
        draw(self)
        seen.append(self._shown)

    monkeypatch.setattr(lanes._StatusLine, "draw", spy)
    ask(app)
    assert any(shown in text for text in seen)
    assert world.meter.cancel == original


def test_only_stop_cancels_a_running_turn(new_app, world):
    turn = stored_turn(world, done=False)
    world.meter.hold(turn)
    world.meter.unreachable = EngineError("The meter is away")  # the page can't follow, the turn runs on
    app = new_app(conversation="c1").run()
    assert [error.value for error in app.error] == ["The meter is away\n\n`engine`"] * 2
    assert "Regenerate" not in labels(app)
    assert world.meter.cancelled == []
    button(app, "Stop").click().run()
    assert world.meter.cancelled == [turn.id]


def test_a_stop_that_is_refused_says_why(new_app, world, monkeypatch):
    world.meter.hold(stored_turn(world, done=False))
    world.meter.unreachable = EngineError("The meter is away")

    def refuse(_turn_id):
        raise AccessDenied("Your login has expired.", code="logged-out")

    monkeypatch.setattr(world.meter, "cancel", refuse)
    app = new_app(conversation="c1").run()
    button(app, "Stop").click().run()
    assert not app.exception
    assert "Your login has expired." in app.toast[0].value


def test_no_widget_keeps_a_turn_with_its_answers(app):
    ask(app)
    state = app.session_state._state._state  # Streamlit's own, within what guards it
    widgets = state._new_widget_state.widget_metadata.values()
    kept = [argument for widget in widgets for argument in widget.callback_args or ()]
    assert any(isinstance(argument, chat_controls.Asked) for argument in kept)
    assert not any(isinstance(argument, TurnRecord) for argument in kept)


def test_what_follows_a_prompt_is_known_to_the_router(app):
    assert "chat_asked" not in app.session_state
    ask(app)
    assert app.session_state["chat_asked"]


def test_the_sidebar_rests_in_the_run_that_follows_and_is_drawn_again_afterwards():
    def router_and_page():
        import streamlit as st

        from core.ui.chat import session as chat_session

        st.button("Ask", on_click=chat_session.note_asked)
        st.session_state.setdefault("refreshes", []).append(chat_session.sidebar_refreshes())
        chat_session.wake_sidebar()

    app = AppTest.from_function(router_and_page).run()
    assert app.session_state["refreshes"] == [True]
    app.button[0].click().run()
    assert app.session_state["refreshes"] == [True, False, True]


def test_a_conversation_comes_back_by_its_address_with_its_settings(new_app, world):
    stored_turn(world, mode=Mode.TOGETHER)
    app = new_app(conversation="c1").run()
    assert "Stored answer of hf-q4." in texts(app)
    assert app.pills(key="chat_lanes").value == ["hf", "hf-q4"]
    assert app.segmented_control(key="chat_mode").value == Mode.TOGETHER
    assert app.number_input(key="chat_max_tokens").value == 64
    ask(app, "Continue")
    assert world.meter.plans[0].conversation_id == "c1"
    assert world.meter.plans[0].requests[0].messages[1].content == "Stored answer of hf."


def test_a_running_turn_is_followed_again_after_a_reload(new_app, world):
    world.meter.hold(stored_turn(world, done=False))
    app = new_app(conversation="c1").run()
    assert "Answer of hf here." in texts(app)
    assert world.meter.plans == []


def test_a_turn_is_found_again_before_the_store_has_it(app, new_app, world):
    ask(app)
    world.store.turns.clear()
    again = new_app(conversation=app.query_params["conversation"]).run()
    assert "Answer of hf here." in texts(again)
    assert len(world.meter.plans) == 1


def test_a_turn_of_another_process_is_shown_as_the_store_has_it(new_app, world, monkeypatch):
    turn = stored_turn(world, done=False)
    reads = iter([turn, replace(turn, requests=tuple(finished(r, "From afar.") for r in turn.requests))])
    last = []

    def read(turn_id):
        last.append(next(reads, last[-1] if last else None))
        if last[-1].done:
            world.store.save(last[-1])
        return last[-1]

    monkeypatch.setattr(world.store, "turn", read)
    monkeypatch.setattr("core.ui.chat.session.POLL_S", 0.05)
    app = new_app(conversation="c1").run()
    assert [m.value for m in app.markdown].count("From afar.") == 2


def test_the_address_names_the_conversation_once_something_was_asked(app, world):
    assert "conversation" not in app.query_params
    ask(app)
    assert app.query_params["conversation"] == world.meter.plans[0].conversation_id


def test_a_new_conversation_begins_empty(app, world):
    ask(app)
    button(app, "New conversation").click().run()
    assert "conversation" not in app.query_params
    ask(app, "Fresh?")
    assert world.meter.plans[1].conversation_id != world.meter.plans[0].conversation_id
    assert len(world.meter.plans[1].requests[0].messages) == 1


def test_a_recent_conversation_opens(app, world):
    stored_turn(world)
    app.run()
    button(app, "Stored prompt").click().run()
    assert "Stored answer of hf." in texts(app)
    assert app.query_params["conversation"] == "c1"


def test_no_lane_picked_is_said_and_nothing_is_sent(app, world):
    app.pills(key="chat_lanes").set_value([]).run()
    ask(app)
    assert world.meter.plans == []
    assert "Select 1 to 6 lanes" in app.error[0].value


def test_engines_that_are_not_ready_say_why_and_offer_what_can_be_done(app, world):
    world.manager.states = {"hf": EngineState.STARTING, "hf-q4": EngineState.FAILED}
    world.manager.errors["hf-q4"] = ErrorInfo("engine-load-failed", "No such model", "Prepare it.")
    app.run()
    assert "Loading the weights" in texts(app)
    assert "1 min 15 s" in texts(app)
    assert "Loading shard 1 of 2" in texts(app)
    assert "No such model" in app.error[0].value
    assert "the log of hf-q4" in texts(app)
    button(app, "Start again").click().run()
    assert world.manager.restarted == ["hf-q4"]


def test_the_chat_goes_on_without_a_store(app, world):
    world.store.error = StoreError("The database is locked", hint="Close the other program.")
    ask(app)
    assert "Answer of hf here." in texts(app)
    assert "The database is locked" in app.error[0].value
    ask(app, "And now?")
    assert len(world.meter.plans[1].requests[0].messages) == 3


def test_a_store_that_the_meter_can_not_write_is_said(app, world):
    world.meter.problem = ErrorInfo("disk-full", "The disk is full", "Free some space.")
    app.run()
    assert "The disk is full" in app.error[0].value


def test_a_stopped_answer_keeps_its_text_and_says_so(new_app, world):
    turn = stored_turn(world)
    stopped = replace(turn.requests[0], text="Half an", finish_reason=FinishReason.CANCELLED)
    world.store.save(replace(turn, requests=(stopped, turn.requests[1])))
    app = new_app(conversation="c1").run()
    assert "Half an" in texts(app)
    assert "stopped by you" in texts(app)


def test_settings_stay_when_the_page_is_left(app, world):
    app.slider(key="chat_temperature").set_value(0.5).run()
    app.switch_page("pages/chat.py").run()
    assert app.slider(key="chat_temperature").value == 0.5


def test_unsafe_text_of_a_model_is_not_fetched(app, world):
    world.meter.answers["hf"] = "Look ![x](http://evil/x.png) for $5 and $6"
    ask(app)
    assert r"!\[x\](http\://evil/x.png) for \$5 and \$6" in texts(app)


def test_remote_lanes_need_no_engine(app, world):
    app.pills(key="chat_lanes").set_value([REMOTE.name]).run()
    ask(app)
    assert world.manager.ensured == []


def test_a_prompt_is_not_taken_while_a_turn_runs_and_its_text_is_given_back(new_app, world):
    world.meter.hold(stored_turn(world, done=False))
    world.meter.unreachable = EngineError("The meter is away")
    app = new_app(conversation="c1").run()
    ask(app, "Too early")
    assert world.meter.plans == []
    assert app.chat_input[0].proto.value == "Too early"
    assert "Lanes are still answering" in app.toast[0].value


def test_a_prompt_that_is_probably_too_long_is_sent_when_it_comes_again(app, world, monkeypatch):
    monkeypatch.setattr(
        chat_controls, "exceeded_context", lambda lane, messages: 8192 if lane is HF else None
    )
    prompt = "A long text. " * 3_000
    ask(app, prompt)
    assert world.meter.plans == []
    assert app.chat_input[0].proto.value == prompt
    assert "more than the context of hf (8,192)" in app.warning[0].value
    ask(app, prompt)
    assert [plan.prompt for plan in world.meter.plans] == [prompt]
    assert not any("more than the context" in warning.value for warning in app.warning)


def test_a_long_conversation_gives_way_to_another_one_at_once(new_app, world, monkeypatch):
    for number in range(4):
        stored_turn(world, conversation_id="c1", prompt=f"First {number}")
    for number in range(3):
        stored_turn(world, conversation_id="c2", prompt=f"Second {number}")
    pauses = []
    monkeypatch.setattr(chat_session, "sleep", pauses.append)
    app = new_app(conversation="c1").run()
    assert not pauses
    other = next(each for each in app.button if (each.key or "").startswith("open_") and not each.disabled)
    other.click().run()
    assert not app.exception
    assert [f"Second {number}" in texts(app) for number in range(3)] == [True] * 3
    assert "First 3" not in texts(app)
    assert len(pauses) == 1


def test_a_viewer_reads_what_others_asked_and_adds_nothing(viewer, new_app, world):
    stored_turn(world, owner="ada@example.com")
    app = new_app(conversation="c1").run()
    assert "Stored prompt" in texts(app)
    assert "Regenerate" not in labels(app)
    ask(app, "And then?")
    assert "somebody else" in app.error[0].value
    assert world.meter.plans == []


def test_a_viewer_goes_on_with_their_own(viewer, new_app, world):
    stored_turn(world, owner=viewer.id)
    app = new_app(conversation="c1").run()
    assert "Regenerate" in labels(app)
    ask(app, "And then?")
    assert [(plan.conversation_id, plan.owner) for plan in world.meter.plans] == [("c1", viewer.id)]


def test_a_private_conversation_is_told_and_left_alone(new_app, world, monkeypatch):
    def conversation(conversation_id):
        if conversation_id == "of-ada":
            raise AccessDenied("This conversation is private")
        return ()

    monkeypatch.setattr(world.store, "conversation", conversation)
    app = new_app(conversation="of-ada").run()
    assert "This conversation is private" in texts(app)
    ask(app, "Hello")
    assert [plan.conversation_id == "of-ada" for plan in world.meter.plans] == [False]


def test_an_answer_that_somebody_else_stopped_says_who(new_app, world):
    turn = stored_turn(world)
    stopped = replace(
        turn.requests[0],
        finish_reason=FinishReason.CANCELLED,
        stopped_by=Person(id="ada@example.com", name="Ada *the first*"),
    )
    world.store.save(replace(turn, requests=(stopped, *turn.requests[1:])))
    assert "stopped by Ada \\*the first\\*" in texts(new_app(conversation="c1").run())
