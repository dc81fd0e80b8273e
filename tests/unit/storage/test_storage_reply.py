"""The reply parser: what is not understood to the last byte is no reply."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestd.errors import StoreCorrupt, StoreError, StoreMisconfigured
from ingestd.storage import reply as module
from ingestd.storage.reply import MAX_ERROR_BYTES, MAX_HEAD_BYTES, MAX_HEADERS, MAX_INTERIM, ReplyParser

COUNTED = b'HTTP/1.1 200 OK\r\nETag: "abc"\r\nContent-Length: 5\r\n\r\nhello'
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;name=value\r\nllo\r\n0\r\nTrailer: t\r\n\r\n"
INVITED = b"HTTP/1.1 100 Continue\r\n\r\n" + COUNTED
TO_CLOSE = b"HTTP/1.1 503 Slow Down\r\nRetry-After: 1\r\n\r\n<Error>"


def parser(max_body_bytes=100, *, is_head=False):
    return ReplyParser(is_head=is_head, max_body_bytes=max_body_bytes)


def parse(data, *, closed=False, step=None, **kwargs):
    """Reply to `data`, fed in pieces of `step` bytes, or None; `closed` ends the connection after it."""
    one = parser(**kwargs)
    for at in range(0, len(data), step or max(1, len(data))):
        one.feed(data[at : at + (step or len(data))])
    if closed:
        one.close()
    return one.reply


@pytest.mark.parametrize("step", [1, 2, 3, 7, None])
@pytest.mark.parametrize("data", [COUNTED, CHUNKED, INVITED], ids=["counted", "chunked", "after-100"])
def test_a_reply_is_the_same_in_whatever_pieces_it_comes(data, step):
    found = parse(data, step=step)
    assert (found.status, found.body, found.complete, found.keep_alive) == (200, b"hello", True, True)


@pytest.mark.parametrize("data", [COUNTED, CHUNKED, INVITED], ids=["counted", "chunked", "after-100"])
def test_a_good_reply_cut_anywhere_is_never_a_reply(data):
    interim = INVITED.index(b"HTTP/1.1 200") if data is INVITED else 0
    for end in range(len(data)):
        cut = parser()
        cut.feed(data[:end]) if end else None
        assert cut.reply is None, end
        if end in (0, interim):
            # Nothing of the final reply came: that is a lost connection, not a broken reply.
            cut.close()
            assert not cut.started
            continue
        with pytest.raises(StoreCorrupt, match="cut off"):
            cut.close()


def test_an_error_may_end_with_its_connection_and_a_success_may_not():
    found = parse(TO_CLOSE, closed=True)
    assert (found.status, found.body, found.keep_alive) == (503, b"<Error>", False)
    with pytest.raises(StoreCorrupt, match="content-length"):
        parse(TO_CLOSE.replace(b"503", b"200"))


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_some_statuses_have_no_body_whatever_their_headers_say(status):
    assert parse(b"HTTP/1.1 " + status + b"\r\nContent-Length: 7\r\n\r\n").body == b""


def test_a_reply_to_head_has_no_body_and_keeps_its_length():
    found = parse(b"HTTP/1.1 200 OK\r\nContent-Length: 1000128\r\n\r\n", is_head=True)
    assert (found.body, found.headers["content-length"]) == (b"", "1000128")


@pytest.mark.parametrize(
    ("head", "kept"),
    [
        (b"HTTP/1.1 200 OK", True),
        (b"HTTP/1.1 200 OK\r\nConnection: Close", False),
        (b"HTTP/1.0 200 OK", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive", True),
    ],
)
def test_a_connection_is_kept_as_the_server_says(head, kept):
    assert parse(head + b"\r\nContent-Length: 0\r\n\r\n").keep_alive is kept


def test_a_connection_with_bytes_after_the_reply_is_out_of_step():
    one = parser()
    one.feed(COUNTED)
    assert one.reusable
    one = parser()
    one.feed(COUNTED + b"H")
    assert one.reply is not None
    assert not one.reusable


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x03\x00\x02\x02\x50",
        b"HTTP/2 200\r\n\r\n",
        b"\x00",
    ],
)
def test_a_peer_that_speaks_something_else_is_no_store(data):
    with pytest.raises(StoreMisconfigured, match="not an HTTP server"):
        parse(data)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 600 OK\r\n\r\n",
        b"HTTP/1.2 200 OK\r\n\r\n",
        b"HTTP/1.1 200 O\x00K\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nETag : x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nETag: x\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nETag: a\nb\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0x5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n123456789\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhexx",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ],
    ids=lambda data: repr(data[9:60]),
)
def test_what_could_be_read_in_two_ways_is_refused(data):
    with pytest.raises(StoreCorrupt):
        parse(data)


class TestLimits:
    """Each limit holds to the byte: what is at it passes, what is beyond it is refused."""

    @staticmethod
    def head(n_bytes):
        fixed = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: "
        return fixed + b"x" * (n_bytes - len(fixed) - 4) + b"\r\n\r\n"

    def test_headers_have_a_longest_length(self):
        assert parse(self.head(MAX_HEAD_BYTES)).status == 200
        with pytest.raises(StoreCorrupt, match="headers are over"):
            parse(self.head(MAX_HEAD_BYTES + 1))

    def test_headers_without_an_end_are_refused_when_they_reach_it(self):
        with pytest.raises(StoreCorrupt, match="headers are over"):
            parse(b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * MAX_HEAD_BYTES, step=997)

    def test_there_is_a_highest_number_of_headers(self):
        lines = b"A: b\r\n" * (MAX_HEADERS - 1)
        assert parse(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + lines + b"\r\n").status == 200
        with pytest.raises(StoreCorrupt, match=f"over {MAX_HEADERS} headers"):
            parse(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nA: b\r\n" + lines + b"\r\n")

    def test_interim_replies_come_to_an_end(self):
        interim = b"HTTP/1.1 102 Processing\r\n\r\n"
        assert parse(interim * MAX_INTERIM + COUNTED).status == 200
        with pytest.raises(StoreCorrupt, match="keeps saying 102"):
            parse(interim * (MAX_INTERIM + 1))

    @pytest.mark.parametrize("data", [COUNTED, CHUNKED], ids=["counted", "chunked"])
    def test_a_success_longer_than_asked_for_is_refused_before_it_is_read(self, data):
        assert parse(data, max_body_bytes=5).body == b"hello"
        with pytest.raises(StoreCorrupt, match="over 4 bytes"):
            parse(data, max_body_bytes=4)

    def test_an_error_is_read_however_little_of_a_success_was_asked_for(self):
        document = b"<Error><Code>NoSuchBucket</Code></Error>"
        data = b"HTTP/1.1 404 no\r\nContent-Length: %d\r\n\r\n%s" % (len(document), document)
        found = parse(data, max_body_bytes=1)
        assert (found.body, found.complete) == (document, True)

    @pytest.mark.parametrize("max_body_bytes", [0, 2**30])
    @pytest.mark.parametrize(
        "head",
        [
            b"HTTP/1.1 500 no\r\nContent-Length: 1073741824\r\n\r\n",
            b"HTTP/1.1 500 no\r\nTransfer-Encoding: chunked\r\n\r\n40000000\r\n",
            b"HTTP/1.1 500 no\r\n\r\n",
        ],
        ids=["counted", "chunked", "to-close"],
    )
    def test_an_endless_error_is_cut_however_much_of_a_success_was_asked_for(self, head, max_body_bytes):
        found = parse(head + bytes(2 * MAX_ERROR_BYTES), max_body_bytes=max_body_bytes)
        assert (len(found.body), found.complete, found.keep_alive) == (MAX_ERROR_BYTES, False, False)

    def test_no_more_length_is_announced_than_will_be_read(self):
        one = parser()
        one.feed(b"HTTP/1.1 500 no\r\nContent-Length: 999999999999999999\r\n\r\n")
        assert one.announced_bytes == MAX_ERROR_BYTES

    def test_a_chunk_line_and_the_trailers_come_to_an_end(self):
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        with pytest.raises(StoreCorrupt, match="chunk line over"):
            parse(head + b"1;" + b"x" * module.MAX_CHUNK_LINE_BYTES)
        with pytest.raises(StoreCorrupt, match="trailers"):
            parse(head + b"0\r\n" + b"T: t\r\n" * (MAX_HEADERS + 2))


def test_a_part_of_100_continue_is_no_answer_and_the_rest_of_it_is_an_invitation():
    one = parser()
    one.feed(b"HTTP/1.1 100 Con")
    assert (one.continued, one.answered) == (False, False)
    one.feed(b"tinue\r\n\r\n")
    assert (one.continued, one.answered, one.started) == (True, False, False)
    one.feed(b"HTTP/1.1 412 no\r\n\r\n")
    assert one.answered


def test_names_are_lower_case_and_values_stripped_and_joined():
    found = parse(b"HTTP/1.1 200 OK\r\nVary: a \t\r\nVARY:b\r\ncontent-LENGTH: 0\r\n\r\n")
    assert found.headers == {"vary": "a, b", "content-length": "0"}


_lines = st.sampled_from([
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n", b"HTTP/1.0 404 x\r\n", b"Content-Length: 3\r\n", b"\r\n",
    b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n", b"0\r\n", b"abc", b'ETag: "x"\r\n', b"ffffffff\r\n", b"\n", b":",
    b"Connection: close\r\n", b"Content-Length: 99999999\r\n",
])  # fmt: skip


@given(st.lists(st.one_of(_lines, st.binary(max_size=20)), max_size=12), st.integers(1, 40), st.booleans())
def test_whatever_comes_is_a_bounded_reply_or_a_store_error(pieces, step, is_head):
    data = b"".join(pieces)
    one = parser(50, is_head=is_head)
    try:
        for at in range(0, len(data), step):
            one.feed(data[at : at + step])
        one.close()
    except StoreError:
        return
    assert one.reply is None or (200 <= one.reply.status < 600 and len(one.reply.body) <= MAX_ERROR_BYTES)
    assert one.reply is None or one.reply.status >= 300 or len(one.reply.body) <= 50


@given(st.integers(0, len(CHUNKED) - 1), st.integers(0, 255))
def test_a_good_reply_with_a_byte_changed_is_a_reply_or_a_store_error(at, value):
    data = bytearray(CHUNKED)
    data[at] = value
    try:
        found = parse(bytes(data), closed=True)
    except StoreError:
        return
    assert found is None or found.status >= 200


@given(
    st.sampled_from([b"ETag", b"Content-Length", b"x-amz-id-2"]),
    st.binary(max_size=12) | st.text("abc \t:\x7f\x00é", max_size=8).map(lambda text: text.encode("latin-1")),
    st.sampled_from([b": ", b":", b":\t", b":  "]),
)
def test_a_header_whose_name_is_known_is_read_as_any_other(name, value, colon):
    module._any_header(name + b": x")
    line = name + colon + value
    known = module._known_header(line)
    if known is not None:
        assert known == module._any_header(line)
