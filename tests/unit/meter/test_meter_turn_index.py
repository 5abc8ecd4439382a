from core.meter.turn_index import TurnIndex


def test_turns_are_found_by_their_conversation_in_order():
    index = TurnIndex()
    index.add("c1", "t1")
    index.add("c2", "t2")
    index.add("c1", "t3")
    assert index.of("c1") == ("t1", "t3")
    assert index.of("c2") == ("t2",)
    assert index.of("c3") == ()


def test_only_the_latest_conversations_are_kept():
    index = TurnIndex()
    for number in range(300):
        index.add(f"c{number}", "t")
        index.add("always", f"t{number}")
    assert index.of("c0") == ()
    assert index.of("c299") == ("t",)
    assert len(index.of("always")) == 300
