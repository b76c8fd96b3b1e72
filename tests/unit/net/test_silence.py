"""Silence, as stories of times."""

from cfs.net.silence import Silence, Verdict


def test_a_busy_peer_is_given_up_after_two_seconds():
    silence = Silence()
    assert silence.next_look(heard=0.0, busy_since=100.0) == 100.7
    assert silence.judge(100.7, 100.7, 0.0, 100.0) is Verdict.PING
    assert silence.next_look(heard=0.0, busy_since=100.0) == 102.0
    assert silence.judge(101.5, 101.5, 0.0, 100.0) is Verdict.WAIT
    assert silence.judge(102.0, 102.0, 0.0, 100.0) is Verdict.GIVE_UP


def test_any_byte_is_a_sign_of_life():
    silence = Silence()
    assert silence.judge(100.7, 100.7, 0.0, 100.0) is Verdict.PING
    assert silence.judge(102.0, 102.0, 101.9, 100.0) is Verdict.WAIT
    assert silence.next_look(heard=101.9, busy_since=100.0) == 101.9 + 0.7


def test_an_idle_peer_has_ten_seconds_and_ten_more():
    silence = Silence()
    assert silence.judge(9.9, 9.9, 0.0, None) is Verdict.WAIT
    assert silence.next_look(heard=0.0, busy_since=None) == 10.0
    assert silence.judge(10.0, 10.0, 0.0, None) is Verdict.PING
    assert silence.judge(19.9, 19.9, 0.0, None) is Verdict.WAIT
    assert silence.judge(20.0, 20.0, 0.0, None) is Verdict.GIVE_UP


def test_a_process_that_was_stopped_blames_nobody():
    silence = Silence()
    assert silence.judge(100.7, 100.7, 0.0, 100.0) is Verdict.PING
    assert silence.judge(160.0, 102.0, 0.0, 100.0) is Verdict.PING
    assert silence.judge(161.2, 161.2, 0.0, 100.0) is Verdict.WAIT
    assert silence.judge(161.3, 161.3, 0.0, 100.0) is Verdict.GIVE_UP
