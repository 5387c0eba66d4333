"""Attested calls from enclave to KMS and back: who gets the key, who does not, and what a host in between can make of it."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from ledgerd.enclave.kms import calls
from ledgerd.enclave.kms.calls import DataKey, parse_key_arn
from ledgerd.enclave.kms.client import ATTEMPT_SECONDS_MAX, ATTEMPTS_MAX, endpoint_of
from ledgerd.enclave.kms.errors import KmsRefusedError, KmsUnavailableError
from ledgerd.enclave.kms.sigv4 import Credentials
from ledgerd.ledger.errors import FormatError, IntegrityError, LedgerdError, UsageError
from ledgerd.node.simulator.kms import Answer
from ledgerd.node.simulator.kms_server import make_identity
from support.kms import BEGIN, BEGIN_S, CALLER, CREDENTIALS, PCRS, SERVER_NAME, Rig, encode_answer

CONTEXT = {"purpose": "test"}


def data_key(rig: Rig, arn: str) -> DataKey:
    result = rig.ask(calls.generate_data_key(parse_key_arn(arn), CONTEXT))
    assert isinstance(result, DataKey), result
    return result


def refused(result: Any) -> KmsRefusedError:
    assert isinstance(result, KmsRefusedError), result
    return result


@pytest.mark.parametrize("primitive", [False, True])
def test_the_right_image_gets_a_data_key_and_gets_it_again(primitive: bool) -> None:
    rig = Rig(primitive=primitive)
    arn = rig.key()
    made = data_key(rig, arn)
    assert len(made.plaintext) == 32
    assert rig.ask(calls.decrypt(parse_key_arn(arn), made.wrapped, CONTEXT, 32)) == made.plaintext
    assert rig.connects == [("kms.relay", 8443)] * 2
    assert rig.server_name == SERVER_NAME.encode()


def test_the_host_sees_neither_key_nor_plaintext() -> None:
    rig = Rig()
    made = data_key(rig, rig.key())
    assert made.plaintext.hex() not in repr(made)
    assert made.plaintext not in b"".join(body for _, body in rig.requests)
    assert "secret" not in repr(CREDENTIALS) and CALLER.secret_access_key not in repr(CREDENTIALS)


def test_kms_gives_random_bytes() -> None:
    rig = Rig()
    first, second = (rig.ask(calls.generate_random(48)) for _ in range(2))
    assert len(first) == len(second) == 48
    assert first != second


def test_every_attempt_has_a_key_of_its_own() -> None:
    rig = Rig()
    answers: list[bytes] = []

    def recorded(headers: Mapping[str, str], body: bytes) -> bytes:
        answers.append(rig.simulated(headers, body))
        return answers[-1]

    rig.reply = recorded
    assert isinstance(rig.ask(calls.generate_random(32)), bytes)
    rig.reply = lambda headers, body: answers[0]  # somebody who broke TLS plays an older answer
    result = rig.ask(calls.generate_random(32))
    assert isinstance(result, IntegrityError)
    assert "does not open" in str(result)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_another_image_is_refused(index: int) -> None:
    right = Rig()
    arn = right.key()
    made = data_key(right, arn)
    other = Rig(pcrs={**PCRS, index: b"\x77" * 48}, kms=right.kms)
    for call in (calls.decrypt(parse_key_arn(arn), made.wrapped, CONTEXT), calls.generate_data_key(parse_key_arn(arn), CONTEXT)):
        error = refused(other.ask(call))
        assert error.reason == "AccessDeniedException"
        assert "ledgerd kms policy" in str(error)
    assert f"denied by statement DenyOtherImagesByPCR{index}" in right.kms.reasons[-2]


def test_a_debug_enclave_of_the_right_image_is_refused() -> None:
    right = Rig()
    arn = right.key()
    made = data_key(right, arn)
    debug = Rig(debug=True, kms=right.kms)
    assert refused(debug.ask(calls.decrypt(parse_key_arn(arn), made.wrapped, CONTEXT))).reason == "AccessDeniedException"


def test_a_ciphertext_is_bound_to_its_context_and_to_its_key() -> None:
    rig = Rig()
    arn, other = rig.key(), rig.key()
    made = data_key(rig, arn)
    another_context = calls.decrypt(parse_key_arn(arn), made.wrapped, {"purpose": "another"})
    assert refused(rig.ask(another_context)).reason == "InvalidCiphertextException"
    another_key = calls.decrypt(parse_key_arn(other), made.wrapped, CONTEXT)
    assert refused(rig.ask(another_key)).reason == "IncorrectKeyException"
    rig.kms.disable_key(arn)
    assert refused(rig.ask(calls.decrypt(parse_key_arn(arn), made.wrapped, CONTEXT))).reason == "DisabledException"
    missing = parse_key_arn(arn[:-4] + "0000")
    assert refused(rig.ask(calls.generate_data_key(missing, CONTEXT))).reason == "NotFoundException"


def test_wrong_credentials_are_told_apart() -> None:
    wrong = Rig(credentials=Credentials(CALLER.access_key_id, "x" * 40, CALLER.session_token))
    assert refused(wrong.ask(calls.generate_random(8))).reason == "InvalidSignatureException"
    wrong.client.use(Credentials("ASIAUNKNOWNUNKNOWN00", "x" * 40))
    assert refused(wrong.ask(calls.generate_random(8))).reason == "UnrecognizedClientException"
    wrong.client.use(CREDENTIALS)
    assert isinstance(wrong.ask(calls.generate_random(8)), bytes)


def test_an_enclave_whose_clock_is_wrong_is_refused() -> None:
    rig = Rig()
    rig.wall.now_s += 301
    error = refused(rig.ask(calls.generate_random(8)))
    assert error.reason == "InvalidSignatureException"
    assert "clock" in str(error)


# The host, and whoever is on the way.


def test_a_server_that_is_not_kms_hears_nothing() -> None:
    """Which servers are not is tried in test_trust."""
    rig = Rig(server=make_identity(SERVER_NAME, now=BEGIN))
    result = rig.ask(calls.generate_random(8))
    assert isinstance(result, IntegrityError), result
    assert SERVER_NAME in str(result)
    assert rig.requests == []
    assert len(rig.connects) == 1


def test_the_certificate_is_judged_at_the_attested_time() -> None:
    rig = Rig()
    rig.clock.set(int((BEGIN_S + 40 * 86400) * 1000), rig.now)
    assert isinstance(rig.ask(calls.generate_random(8)), IntegrityError)
    assert rig.requests == []


def test_what_passes_is_tried_again() -> None:
    rig = Rig()
    rig.unreachable = 2
    failing = [b"garbage", encode_answer(Answer(400, b'{"__type":"ThrottlingException"}')), encode_answer(Answer(503, b"busy")), None]

    def reply(headers: Mapping[str, str], body: bytes) -> bytes | None:
        return failing.pop(0) if len(failing) > 1 else rig.simulated(headers, body)

    rig.reply = reply
    began = rig.now
    assert isinstance(rig.ask(calls.generate_random(8)), bytes)
    assert len(rig.connects) == 6
    assert rig.now - began == pytest.approx(0.1 + 0.2 + 0.4 + 0.8 + 1.6)
    bodies = [json.loads(body)["Recipient"]["AttestationDocument"] for _, body in rig.requests]
    assert len(set(bodies)) == 4


@pytest.mark.parametrize("reply", [b"", None, b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"])
def test_silence_ends_in_an_error(reply: bytes | None) -> None:
    rig = Rig()
    rig.reply = lambda headers, body: reply or None
    began = rig.now
    result = rig.ask(calls.generate_random(8))
    assert isinstance(result, KmsUnavailableError)
    assert "kms.relay:8443" in str(result)
    assert rig.now - began == pytest.approx(ATTEMPTS_MAX * ATTEMPT_SECONDS_MAX + 0.1 * (2 ** (ATTEMPTS_MAX - 1) - 1))


def test_a_host_that_connects_nowhere_ends_in_an_error() -> None:
    rig = Rig()
    rig.unreachable = 100
    assert isinstance(rig.ask(calls.generate_random(8)), KmsUnavailableError)
    assert len(rig.connects) == ATTEMPTS_MAX


@pytest.mark.parametrize(
    "wire",
    [
        b"nonsense",
        b"HTTP/1.1 200 OK\r\ncontent-length: 70000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n20000\r\n" + b"x" * 0x20000,
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000,
        b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
    ],
)
def test_what_is_no_http_within_the_limits_is_given_up(wire: bytes) -> None:
    rig = Rig()
    rig.reply = lambda headers, body: wire
    assert isinstance(rig.ask(calls.generate_random(8)), KmsUnavailableError)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(200, b"[]"), "not a JSON object"),
        (Answer(200, b"{"), "not a JSON object"),
        (Answer(200, b"[" * 50_000), "not a JSON object"),
        (Answer(200, b"{}"), "CiphertextForRecipient"),
        (Answer(200, b'{"CiphertextForRecipient": 1}'), "CiphertextForRecipient"),
        (Answer(200, b'{"CiphertextForRecipient": "?"}'), "base64"),
        (Answer(200, b'{"CiphertextForRecipient": "AAAA"}'), "BER"),
        (Answer(200, b'{"Plaintext": "AAAA"}'), "not KMS"),
    ],
)
def test_an_answer_that_kms_does_not_give_is_final(answer: Answer, said: str) -> None:
    rig = Rig()
    rig.reply = lambda headers, body: encode_answer(answer)
    result = rig.ask(calls.generate_random(8))
    assert isinstance(result, FormatError)
    assert said in str(result)
    assert len(rig.connects) == 1


def test_an_answer_for_another_key_is_refused() -> None:
    rig = Rig()
    arn, other = rig.key(), rig.key()

    def swapped(headers: Mapping[str, str], body: bytes) -> bytes:
        status, data = rig.kms.request("POST", "/", headers, body)
        return encode_answer(Answer(status, data.replace(arn.encode(), other.encode())))

    rig.reply = swapped
    result = rig.ask(calls.generate_data_key(parse_key_arn(arn), CONTEXT))
    assert isinstance(result, FormatError)
    assert "another key" in str(result)


def test_a_dead_security_module_is_told_and_nothing_is_asked() -> None:
    class Dead:
        def request(self, request: bytes) -> bytes:
            raise OSError("gone")

    rig = Rig()
    rig.nsm = Dead()
    result = rig.ask(calls.generate_random(8))
    assert isinstance(result, KmsUnavailableError)
    assert "/dev/nsm" in str(result)
    assert rig.connects == []


def test_late_and_foreign_events_change_nothing() -> None:
    rig = Rig()
    rig.client.received(b"early")
    rig.client.opened()
    rig.client.tick(rig.now)
    assert rig.client.next_wakeup() == float("inf")
    assert not rig.client.owns(-7)
    assert isinstance(rig.ask(calls.generate_random(8)), bytes)
    rig.client.closed()
    rig.client.received(b"late")
    assert isinstance(rig.ask(calls.generate_random(8)), bytes)


def test_calls_wait_for_each_other_and_not_without_end() -> None:
    rig = Rig()
    for _ in range(3):
        rig.client.ask(calls.generate_random(8), rig.results.append)
    rig.run(2)
    assert [len(item) for item in rig.results] == [8, 8, 8]
    silent = Rig()
    with pytest.raises(UsageError):
        for _ in range(100):
            silent.client.ask(calls.generate_random(8), silent.results.append)


@pytest.mark.parametrize(
    "arn",
    [
        "alias/tls",
        "arn:aws:kms:eu-central-1:111122223333:alias/tls",
        "arn:aws:iam::111122223333:role/x",
        "11111111-2222-3333-4444-555555555555",
        "arn:aws:kms:evil.example#-1:111122223333:key/a",
        "arn:aws:kms:eu-central-1:111122223333:key/a\n",
        "arn:aws:kms:eu-central-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab",
    ],
)
def test_a_key_is_named_by_its_arn_only(arn: str) -> None:
    with pytest.raises(LedgerdError, match=r"ARN|single-Region"):
        parse_key_arn(arn)


def test_the_endpoint_follows_from_the_arn() -> None:
    endpoint = endpoint_of(parse_key_arn("arn:aws:kms:eu-central-1:111122223333:key/a"))
    assert endpoint == (SERVER_NAME, SERVER_NAME, 443, "eu-central-1")
    assert endpoint_of(parse_key_arn("arn:aws-cn:kms:cn-north-1:111122223333:key/a")).name == "kms.cn-north-1.amazonaws.com.cn"


def test_errors_of_kms_never_carry_more_than_a_line_of_it() -> None:
    rig = Rig()
    body = json.dumps({"__type": "com.amazonaws#Access Denied\n", "message": "a\nb\x1b[31m" + "c" * 1000}).encode()
    rig.reply = lambda headers, _: encode_answer(Answer(400, body))
    error = refused(rig.ask(calls.generate_random(8)))
    assert error.reason == "an unnamed error"
    assert str(error).isprintable() and len(str(error)) < 600
