"""Who may do what on a broker: everything that is not granted is refused, and hurts nobody else."""

from __future__ import annotations

import pika
import pytest
from broker_harness import Bench, Inbox, bodies, drain


def test_a_wrong_password_is_refused_for_good(bench: Bench) -> None:
    with pytest.raises(pika.exceptions.ProbableAuthenticationError):
        pika.BlockingConnection(pika.URLParameters(bench.url(password="wrong")))


def test_an_unknown_user_is_refused_for_good(bench: Bench) -> None:
    with pytest.raises(pika.exceptions.ProbableAuthenticationError):
        pika.BlockingConnection(pika.URLParameters(bench.url(username="nobody")))


def test_a_foreign_queue_is_refused(bench: Bench) -> None:
    with bench.channel() as channel:
        with pytest.raises(pika.exceptions.ChannelClosedByBroker) as refusal:
            Inbox(channel, bench.foreign)
        assert refusal.value.reply_code == 403
        assert refusal.value.reply_text.startswith("ACCESS_REFUSED")


def test_getting_from_a_foreign_queue_is_refused(bench: Bench) -> None:
    with bench.channel() as channel:
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="403"):
            channel.basic_get(bench.foreign)


def test_a_granted_queue_that_does_not_exist(bench: Bench) -> None:
    with bench.channel() as channel:
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="404"):
            Inbox(channel, bench.absent)


def test_a_foreign_key_is_refused_and_nothing_arrives(bench: Bench) -> None:
    with bench.channel() as channel:
        channel.confirm_delivery()
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="403"):
            channel.basic_publish(bench.exchange, "someone-else.results", b"forged")
    assert bench.length(bench.results) == 0


def test_a_refused_channel_leaves_the_others_alone(bench: Bench) -> None:
    batches = bench.collect(bench.results)
    with bench.connection() as connection:
        good, bad = connection.channel(), connection.channel()
        good.confirm_delivery()
        with pytest.raises(pika.exceptions.ChannelClosedByBroker):
            Inbox(bad, bench.foreign)
        good.basic_publish(bench.exchange, bench.results_key, b"fine")
        again = connection.channel()
        again.confirm_delivery()
        again.basic_publish(bench.exchange, bench.results_key, b"fine, too")
    assert bodies(drain(batches, 2)) == [b"fine", b"fine, too"]


def test_what_was_sent_before_a_refusal_on_the_same_channel_is_taken(bench: Bench) -> None:
    batches = bench.collect(bench.results)
    with bench.channel() as channel:
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="403"):
            for key in (bench.results_key, "someone-else.results", bench.results_key):
                channel.basic_publish(bench.exchange, key, b"body of " + key.encode())
            channel.queue_declare(bench.tasks, passive=True)
    assert len(drain(batches, 1)) == 1
    assert batches.empty()


def test_passive_declares_need_no_grant(bench: Bench) -> None:
    bench.publish(b"1", b"2", to=bench.foreign)
    with bench.channel() as channel:
        channel.exchange_declare(bench.exchange, passive=True)
        declared = channel.queue_declare(bench.foreign, passive=True).method
    assert (declared.queue, declared.message_count, declared.consumer_count) == (bench.foreign, 2, 0)


def test_passive_declares_of_what_is_not_there(bench: Bench) -> None:
    with bench.connection() as connection:
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="404"):
            connection.channel().queue_declare(bench.absent, passive=True)
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="404"):
            connection.channel().exchange_declare(bench.absent, passive=True)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda channel, bench: channel.queue_declare(bench.absent), id="queue-declare"),
        pytest.param(lambda channel, bench: channel.queue_delete(bench.tasks), id="queue-delete"),
        pytest.param(lambda channel, bench: channel.exchange_declare(bench.absent), id="exchange-declare"),
        pytest.param(lambda channel, bench: channel.exchange_delete(bench.exchange), id="exchange-delete"),
        pytest.param(lambda channel, bench: channel.queue_bind(bench.foreign, bench.exchange, "#"), id="queue-bind"),
    ],
)
def test_clients_change_nothing(bench: Bench, change) -> None:
    with bench.channel() as channel:
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="403"):
            change(channel, bench)
    assert bench.length(bench.tasks) == 0
    assert bench.length(bench.absent) is None


def test_an_exclusive_consumer_stays_alone(bench: Bench) -> None:
    with bench.connection() as connection, bench.connection() as other:
        channel = connection.channel()
        inbox = Inbox(channel, bench.tasks, exclusive=True)
        for exclusive in (True, False):
            with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="403"):
                Inbox(other.channel(), bench.tasks, exclusive=exclusive)
        bench.publish(b"mine")
        assert bodies(inbox.wait(1)) == [b"mine"]
        channel.close()
        assert bodies(Inbox(other.channel(), bench.tasks, exclusive=True).wait(1)) == [b"mine"]


def test_nobody_becomes_exclusive_beside_others(bench: Bench) -> None:
    with bench.channel() as channel, bench.channel() as other:
        Inbox(channel, bench.tasks)
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="403"):
            Inbox(other, bench.tasks, exclusive=True)
