from core.quality.agreement import Change, Piece, agreement, diff


def test_identical_answers_agree_everywhere():
    found = agreement([1, 2, 3], [1, 2, 3])
    assert found.identical
    assert (found.prefix_tokens, found.token_ratio, found.parts_at) == (3, 1.0, None)


def test_answers_part_at_their_first_different_token():
    found = agreement([1, 2, 3, 4], [1, 9, 3, 5])
    assert (found.prefix_tokens, found.equal_positions, found.parts_at) == (1, 2, 1)
    assert found.token_ratio == 0.5
    assert found.prefix_ratio == 0.25


def test_a_shorter_answer_parts_where_it_ends():
    found = agreement([1, 2, 3, 4], [1, 2])
    assert not found.identical
    assert (found.parts_at, found.token_ratio) == (2, 0.5)


def test_two_empty_answers_are_identical_but_have_no_share():
    found = agreement([], [])
    assert found.identical
    assert (found.token_ratio, found.prefix_ratio) == (None, None)


def test_a_diff_shows_what_each_side_says():
    assert diff(["The ", "cat ", "sat"], ["The ", "dog ", "sat"]) == (
        Piece(Change.SAME, "The "),
        Piece(Change.ONLY_REFERENCE, "cat "),
        Piece(Change.ONLY_LANE, "dog "),
        Piece(Change.SAME, "sat"),
    )
    assert diff(["a"], ["a", "b"]) == (Piece(Change.SAME, "a"), Piece(Change.ONLY_LANE, "b"))
