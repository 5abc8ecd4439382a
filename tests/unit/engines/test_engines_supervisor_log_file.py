"""An engine's log file: kept over starts, read from its end, shortened under the writer."""

import os

from core.engines.supervisor import log_path, open_log, read_tail, shorten, tail


def write(path, text):
    descriptor = open_log(path)
    os.write(descriptor, text.encode())
    os.close(descriptor)


def test_each_start_has_a_new_log_and_the_last_ones_are_kept(tmp_path):
    path = log_path(tmp_path, "hf-1.8b")
    for number in range(6):
        write(path, f"start {number}")
    assert path.read_text() == "start 5"
    kept = sorted(file.read_text() for file in tmp_path.iterdir())
    assert kept == ["start 2", "start 3", "start 4", "start 5"]


def test_tail_without_colours_health_checks_and_empty_lines(tmp_path):
    path = tmp_path / "log"
    write(path, 'one\n\n\x1b[31mtwo\x1b[0m\r\n 10%|\r 20%|\nINFO: "GET /health HTTP/1.1" 200 OK\n')
    assert tail(path, 3) == ["two", " 10%|", " 20%|"]
    assert tail(tmp_path / "none", 3) == []


def test_read_tail_reads_the_end_only(tmp_path):
    path = tmp_path / "log"
    write(path, "x" * 1000 + "end")
    assert read_tail(path, 5) == "xxend"


def test_shortened_log_keeps_its_end_and_goes_on(tmp_path):
    path = tmp_path / "log"
    descriptor = open_log(path)
    os.write(descriptor, b"old\n" * 50_000 + b"last\n")
    shorten(path, 100_000)
    os.write(descriptor, b"new\n")
    os.close(descriptor)
    assert path.stat().st_size < 100_000
    assert tail(path, 2) == ["last", "new"]
    shorten(path, 100_000)
    assert tail(path, 1) == ["new"]
