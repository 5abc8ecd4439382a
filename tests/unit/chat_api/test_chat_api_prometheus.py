from core.chat_api.prometheus import MAX_CHARS, MAX_LINE_CHARS, published, url_of


def test_values_are_told_by_name_over_all_labels():
    text = '# TYPE a:b gauge\na:b{m="x, {y}"} 2.0\na:b{m="z"} 1e-3\nplain 4\n'
    assert published(text) == {"a:b": [2.0, 0.001], "plain": [4.0]}


def test_what_is_not_in_the_format_tells_nothing():
    assert published("<html>not found</html>") == {}
    assert published("") == {}


def test_a_line_or_a_page_without_end_is_left_out():
    endless = "x" * MAX_LINE_CHARS
    assert published(f"a 1\n{endless}x\nb 2\n") == {"a": [1.0], "b": [2.0]}
    assert "late" not in published("a 1\n" * (MAX_CHARS // 4) + "late 1\n")


def test_they_are_beside_the_version_path():
    assert url_of("http://h:1/v1") == url_of("http://h:1/v1/") == url_of("http://h:1") == "http://h:1/metrics"
