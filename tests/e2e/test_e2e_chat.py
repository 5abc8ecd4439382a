"""The chat page in a real browser, against a scripted server as the lanes' engines."""

import re

from e2e_dashboard import settle
from PIL import Image
from playwright.sync_api import expect


def asked(server, model):
    return [seen for seen in server.seen if seen.body["model"] == model]


def text_length(locator) -> int:
    return len(locator.inner_text())


def test_lanes_stream_at_the_same_time_and_end_with_figures(chat):
    chat.open(pick=("quick", "steady"))
    chat.ask()
    expect(chat.answer("quick")).to_contain_text("proportional")
    expect(chat.answer("steady")).to_contain_text("word5")
    expect(chat.stop).to_be_visible()
    chat.stop.click()
    expect(chat.regenerate).to_be_visible()
    expect(chat.page.get_by_test_id("stMetric")).to_have_count(6)
    expect(chat.page.get_by_text("stopped by you").first).to_be_visible()


def test_markdown_code_and_formulas_are_shown_as_such(chat):
    chat.open(pick=("quick",))
    chat.ask()
    expect(chat.regenerate).to_be_visible()
    answer = chat.answer("quick")
    expect(answer.locator("h1")).to_have_text("Ohm's law")
    expect(answer.locator("pre code")).to_contain_text("def current")
    expect(answer.locator("table td").first).to_be_visible()
    expect(answer.locator(".katex").first).to_be_visible()
    expect(answer.locator("ol li")).to_have_count(3)
    expect(answer).to_contain_text("中文")
    expect(chat.page.locator(".js-plotly-plot")).to_have_count(0)  # one lane is compared with none


def test_stop_ends_all_lanes_and_keeps_the_text(chat, server):
    chat.open(pick=("steady", "hanging"))
    chat.ask()
    expect(chat.answer("steady")).to_contain_text("word3")
    expect(chat.stop).to_be_visible()
    chat.page.keyboard.press("Escape")
    expect(chat.regenerate).to_be_visible()
    expect(chat.answer("steady")).to_contain_text("word3")
    expect(chat.answer("steady")).not_to_contain_text("word11999")
    expect(chat.input).to_be_enabled()
    chat.wait_until(lambda: asked(server, "slow")[-1].broken_off)


def test_the_next_prompt_can_be_written_while_answers_come(chat, server):
    before = len(asked(server, "slow"))
    chat.open(pick=("steady",))
    chat.ask()
    expect(chat.answer("steady")).to_contain_text("word3")
    expect(chat.input).to_be_focused()
    chat.page.keyboard.type("And Kirchhoff's")
    chat.page.keyboard.press("Enter")
    expect(chat.page.get_by_text("Lanes are still answering")).to_be_visible()
    expect(chat.input).to_have_value("And Kirchhoff's")
    chat.page.keyboard.press("Escape")
    expect(chat.regenerate).to_be_visible()
    expect(chat.input).to_be_focused()
    expect(chat.input).to_have_value("And Kirchhoff's")
    chat.page.keyboard.press("Enter")
    chat.wait_until(lambda: len(asked(server, "slow")) == before + 2)
    chat.stop.click()
    expect(chat.regenerate).to_be_visible()


def test_stop_before_the_first_token(chat):
    chat.open(pick=("hanging",))
    chat.ask()
    expect(chat.answer("hanging")).to_contain_text("first token")
    chat.stop.click()
    expect(chat.page.get_by_text("stopped by you")).to_be_visible()
    expect(chat.answer("hanging")).to_contain_text("Stopped before the first token")


def test_a_reload_in_mid_stream_finds_the_answer_still_streaming(chat, server):
    before = len(asked(server, "slow"))
    chat.open(pick=("steady",))
    chat.ask()
    expect(chat.answer("steady")).to_contain_text("word5")
    expect(chat.page).to_have_url(re.compile("conversation="))
    chat.page.reload()
    expect(chat.answer("steady")).to_contain_text("word0")
    expect(chat.stop).to_be_visible()
    length = text_length(chat.answer("steady"))
    chat.page.wait_for_function(
        "([box, length]) => box.innerText.length > length",
        arg=[chat.answer("steady").element_handle(), length],
    )
    chat.stop.click()
    expect(chat.regenerate).to_be_visible()
    assert len(asked(server, "slow")) == before + 1


def test_a_click_in_mid_stream_starts_and_cancels_nothing(chat, server):
    before = len(asked(server, "slow"))
    chat.open(pick=("steady",))
    chat.ask()
    expect(chat.answer("steady")).to_contain_text("word3")
    chat.page.get_by_role("radio", name="One after another").click()
    expect(chat.answer("steady")).to_contain_text("word20")
    assert len(asked(server, "slow")) == before + 1
    assert not asked(server, "slow")[-1].broken_off
    chat.stop.click()
    expect(chat.regenerate).to_be_visible()


def test_a_finished_lane_stays_as_it_is_when_its_page_is_drawn_again(chat):
    chat.open(pick=("quick", "steady"))
    chat.ask()
    figures = chat.page.get_by_test_id("stMetric")
    expect(figures).to_have_count(3)
    chat.page.get_by_role("radio", name="One after another").click()
    length = text_length(chat.answer("steady"))
    chat.page.wait_for_function(
        "([box, length]) => box.innerText.length > length + 40",
        arg=[chat.answer("steady").element_handle(), length],
    )
    expect(figures).to_have_count(3)
    expect(chat.answer("quick").get_by_test_id("stMetric")).to_have_count(0)
    chat.stop.click()
    expect(chat.regenerate).to_be_visible()


def test_a_longer_conversation_leaves_nothing_behind_a_shorter_one_that_streams(chat):
    chat.open(pick=("steady",))
    chat.ask("A long answer")
    chat.open(pick=("quick",))  # a reload: another conversation, the first one goes on
    for prompt in ("One", "Two"):
        chat.ask(prompt)
        expect(chat.regenerate).to_be_visible()
    chat.page.get_by_text("Recent conversations").click()
    chat.page.get_by_role("button", name="A long answer").click()
    expect(chat.answer("steady")).to_contain_text("word3")
    chat.wait_until(lambda: chat.page.get_by_test_id("stChatMessage").count() == 1)
    assert chat.stop.is_visible()  # not only since the answer has ended
    chat.stop.click()
    expect(chat.regenerate).to_be_visible()


def test_the_attachments_make_way_for_answers_and_show_what_is_added_meanwhile(chat, tmp_path):
    for color in ("red", "blue"):
        Image.new("RGB", (48, 32), color).save(tmp_path / f"{color}.png")
    page, chat.url = chat.page, chat.url.replace("/chat", "/vision")
    chat.open(pick=("steady",))
    chooser = page.get_by_test_id("stChatInput").locator("input[type=file]")
    sendable = page.get_by_test_id("stChatInputSubmitButton")
    images = page.locator(".st-key-vision_attachments").get_by_role("img")
    chooser.set_input_files(tmp_path / "red.png")
    expect(sendable).to_be_enabled()
    chat.ask()
    expect(chat.answer("steady")).to_contain_text("word3")
    chat.wait_until(lambda: page.get_by_role("button", name="Gallery").count() == 0)
    assert chat.stop.is_visible()
    chooser.set_input_files(tmp_path / "blue.png")
    expect(sendable).to_be_enabled()
    chat.input.press("Enter")
    expect(images).to_have_count(1)
    assert chat.stop.is_visible()
    chat.stop.click()
    expect(chat.regenerate).to_be_visible()
    expect(images).to_have_count(1)


def test_one_lane_fails_in_its_own_column(chat):
    chat.open(pick=("quick", "broken"))
    chat.ask()
    expect(chat.regenerate).to_be_visible()
    expect(chat.answer("broken").get_by_test_id("stAlert")).to_be_visible()
    expect(chat.answer("quick").get_by_test_id("stAlert")).to_have_count(0)
    expect(chat.answer("quick")).to_contain_text("Divide.")


def test_the_keyboard_alone_suffices(chat, server):
    before = len(asked(server, "markdown"))
    page = chat.open(pick=("quick",)).page
    chat.input.focus()
    page.keyboard.type("Tell me")
    page.keyboard.press("Enter")
    expect(chat.regenerate).to_be_visible()
    settle(page)
    page.keyboard.press("Alt+g")
    chat.wait_until(lambda: len(asked(server, "markdown")) == before + 2)
    settle(page)
    page.keyboard.press("Alt+n")
    expect(page.get_by_text("One prompt, every engine")).to_be_visible()
