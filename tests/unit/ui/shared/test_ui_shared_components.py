import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from core.domain.specs import EndpointSpec, EngineKind, LaneSpec
from core.ui.shared import components
from core.ui.shared.components import Slots, describe_lane, escape


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a_b *c* `d` [e](f) <g>", r"a\_b \*c\* \`d\` \[e\](f) \<g\>"),
        ("$h$ ~i~ | & # \\", r"\$h\$ \~i\~ \| \& \# \\"),
        ("- a\n+ b\n1. c\n2) d\n= e", "\\- a\n\\+ b\n1\\. c\n2\\) d\n\\= e"),
        ("a\n    b", "a\nb"),
        (":red[x] a:b", r"\:red\[x\] a\:b"),
        (":smile: :+1: :streamlit:", r":color[\:]smile\: :color[\:]\+1\: :color[\:]streamlit\:"),
        ("a -> b <- c <-> d", r"a :color[\-]\> b :color[\<]\- c \<:color[\-]\> d"),
        ("x >= 1 -- y<=2 ~= z", r"x :color[\>]\= 1 :color[\-]\- y\<=2 :color[\~]\= z"),
        ("http://h/a_b www.h me@h", r"http\://h/a\_b www\.h me@h"),
        (":material/home:", r":color[\:]material/home\:"),
        ("a! b!", r"a! b\!"),
        ("a\0b", "a\ufffdb"),
        (" + a", r" \+ a"),
        ("    a", " a"),
    ],
)  # fmt: skip
def test_text_is_written_so_that_it_stays_text(text, written):
    assert escape(text) == written


@given(st.text(st.sampled_from("\\`*_[]()<>$~|&#:!-+=1. \nx{}^@\"'/"), max_size=40))
def test_a_commonmark_parser_finds_only_the_same_text(text):
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    written = re.sub(r":color\[(\\?.)\]", r"\1", escape(text))
    tokens = parser.parse(written)
    assert {token.type for token in tokens} <= {"paragraph_open", "inline", "paragraph_close"}
    children = [child for token in tokens for child in token.children or []]
    assert {child.type for child in children} <= {"text", "softbreak", "hardbreak"}
    shown = "".join(child.content for child in children)
    assert "".join(shown.split()) == "".join(text.split())


def test_a_long_name_of_a_model_is_cut():
    endpoint = EndpointSpec(url="http://host:8000/v1", model="m" * 900)
    lane = LaneSpec(name="a", kind=EngineKind.ENDPOINT, endpoint=endpoint)
    assert describe_lane(lane).count("m") == 79
    assert "…" in describe_lane(lane)


@pytest.fixture
def drawn(monkeypatch):
    """The elements of a run, in their order."""
    elements = []
    monkeypatch.setattr(components.st, "empty", lambda: elements.append("empty"))
    monkeypatch.setattr(components.st, "container", lambda: elements.append("container"))
    return elements


@pytest.mark.parametrize(
    ("filled", "elements"),
    [
        ((), ["empty", "empty", "empty"]),
        (("first",), ["container", "empty", "empty"]),
        (("second",), ["empty", "container", "empty"]),
        (("first", "third"), ["container", "empty", "container"]),
        (("first", "second", "third"), ["container"] * 3),
    ],
)
def test_each_place_is_one_element_whatever_is_filled(drawn, filled, elements):
    with Slots("first", "second", "third") as places:
        for name in filled:
            places.fill(name)
    assert drawn == elements


@pytest.mark.parametrize(("filled", "name"), [("second", "first"), ("first", "first"), ("first", "unknown")])
def test_a_place_out_of_order_is_refused(drawn, filled, name):
    places = Slots("first", "second")
    places.fill(filled)
    with pytest.raises(ValueError, match="the places left are"):
        places.fill(name)


def test_a_broken_off_run_draws_nothing_more(drawn):
    def run():
        with Slots("first", "second") as places:
            places.fill("first")
            raise KeyError

    with pytest.raises(KeyError):
        run()
    assert drawn == ["container"]
