"""Tokens guessed before a request is sent, and learnt from what it took."""

import math
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiollm._failover.estimate import (
    ANSWER,
    IMAGE,
    IMAGE_ANSWER,
    LEAST,
    LOW_DETAIL,
    MAX_ANSWER,
    MAX_OVERHEAD,
    MESSAGE,
    MOST,
    PAGE,
    Estimate,
    size_of,
)
from aiollm.hosted import WebSearch
from aiollm.images import ImageRequest
from aiollm.types import (
    AudioPart,
    DocumentPart,
    ImagePart,
    Message,
    OpaquePart,
    ProviderData,
    ReasoningPart,
    RefusalPart,
    Request,
    TextPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
    Usage,
    assistant,
    tool_results,
    user,
)

PNG = b"\x89PNG\r\n\x1a\n" + bytes(3_000_000)


class City(msgspec.Struct):
    """A city."""

    name: str
    people: int


def used(given, received=0, certainty="exact"):
    return Usage(given, received, certainty=certainty)


def size_of_parts(*parts):
    return size_of(Request(Message("user", parts))) - MESSAGE


class TestSize:
    @pytest.mark.parametrize(
        ("text", "size"),
        [("", 0), ("hello", 5), ("grüße", 7), ("日本", 6), ("🚀", 4), ("\udc80", 3)],
    )
    def test_text_counts_its_bytes(self, text, size):
        assert size_of_parts(TextPart(text)) == size
        assert size_of(ImageRequest("x" + text)) == 1 + size

    def test_all_that_is_sent_as_text_counts(self):
        schema = {"type": "object", "properties": {"city": {"type": "string"}}}
        request = Request(
            (
                user("four", "more"),
                assistant(ToolCallPart("id", "look", '{"a": 1}'), RefusalPart("no")),
                tool_results(ToolResultPart("id", ["rain", ImagePart(PNG)])),
            ),
            system="be",
            tools=Tool("look", "sees", parameters=schema),
        )
        texts = len("fourmorelook" + '{"a": 1}' + "norainbelooksees")
        schema_size = len(msgspec.json.encode(schema))
        assert size_of(request) == texts + schema_size + IMAGE + 6 * MESSAGE

    def test_an_image_counts_as_an_image_and_never_as_its_bytes(self):
        assert size_of_parts(ImagePart(PNG)) == IMAGE
        assert size_of_parts(ImagePart(url="https://x.example/a.png")) == IMAGE
        assert size_of_parts(ImagePart(PNG, detail="low")) == LOW_DETAIL
        image = ImagePart(PNG)
        assert size_of(ImageRequest("x", images=(image, image), mask=image)) == 1 + 3 * IMAGE

    def test_a_pdf_counts_by_pages_and_other_documents_as_text(self):
        assert size_of_parts(DocumentPart(b"%PDF" + bytes(120_000))) == 3 * PAGE
        assert size_of_parts(DocumentPart(b"%PDF" + bytes(50_000_000))) == 100 * PAGE
        assert size_of_parts(DocumentPart(url="https://x.example/a.pdf")) == PAGE
        assert size_of_parts(DocumentPart(b"a,b\n", mime="text/csv")) == 4

    def test_audio_counts_far_less_than_its_bytes(self):
        assert size_of_parts(AudioPart(bytes(48_000))) == 48 * 4

    def test_what_is_rarely_sent_back_does_not_count(self):
        data = ProviderData("x", {"secret": "y" * 1000})
        assert size_of_parts(ReasoningPart("thinking", data), OpaquePart(data)) == 0

    @pytest.mark.parametrize(
        ("output", "counts"),
        [(City, True), ({"type": "object", "properties": {}}, True), (list[City], False)],
    )
    def test_a_schema_counts_and_one_that_cannot_be_made_does_not_raise(self, output, counts):
        size = size_of(Request("x", output=output)) - size_of(Request("x"))
        assert (size > 0) is counts

    def test_parameters_that_are_no_json_do_not_raise(self):
        odd = {"x": object()}
        assert size_of(Request("x", tools=Tool("a", parameters=odd))) == 1 + 1 + 2 * MESSAGE

    def test_a_tool_that_the_provider_runs_counts_by_its_name(self):
        request = Request("x", tools=[Tool("a", "b"), WebSearch()])
        assert size_of(request) == size_of(Request("x", tools=Tool("a", "b"))) + 10 + MESSAGE

    def test_the_size_of_a_long_request_is_the_sum_of_its_messages(self):
        one = size_of(Request(user("x" * 100)))
        assert size_of(Request((user("x" * 100),) * 1000)) == one * 1000


class TestReserve:
    def test_starts_with_four_bytes_a_token(self):
        request = Request("x" * 4000)
        assert Estimate().reserve(request) == (pytest.approx(1004), ANSWER)
        assert Estimate().reserve(request, 8000) == (2000, ANSWER)

    def test_takes_the_output_limit_where_there_is_one(self):
        estimate = Estimate()
        estimate.learn(400, used(100, 50))
        assert estimate.reserve(Request("x", max_output_tokens=9))[1] == 9
        assert estimate.reserve(Request("x"))[1] == 50

    def test_takes_a_number_for_each_image_until_one_is_known(self):
        estimate = Estimate()
        request = ImageRequest("a cat", count=3)
        assert estimate.reserve(request) == (pytest.approx(5 / 4), 3 * IMAGE_ANSWER)
        estimate.learn(5, used(2, 4160))
        assert estimate.reserve(request)[1] == 4160


class TestLearn:
    @pytest.mark.parametrize("overhead", [0, 300, 1900])
    @pytest.mark.parametrize("ratio", [0.05, 0.25, 0.6, 1.5])
    def test_comes_near_what_the_target_counts_for_short_and_long_prompts(self, overhead, ratio):
        chance, estimate = random.Random(1), Estimate()
        errors = []
        for _ in range(300):
            size = chance.lognormvariate(8, 2)
            real = math.ceil(overhead + ratio * size)
            errors.append(abs(estimate.reserve(Request("x"), size)[0] - real) / real)
            estimate.learn(size, used(real))
        assert sum(errors[100:]) / 200 < 0.05

    @given(st.floats(0, 1500), st.floats(0.05, 1.5), st.integers(1000, 400_000))
    def test_learns_requests_of_one_size_exactly(self, overhead, ratio, size):
        estimate, real = Estimate(), math.ceil(overhead + ratio * size)
        for _ in range(60):
            estimate.learn(size, used(real))
        assert estimate.reserve(Request("x"), size)[0] == pytest.approx(real, rel=0.01)

    def test_the_first_answer_teaches_half_of_the_error_and_ten_nearly_all(self):
        estimate = Estimate()
        estimate.learn(4000, used(2000))
        assert estimate.reserve(Request("x"), 4000)[0] == pytest.approx(1500)
        for _ in range(9):
            estimate.learn(4000, used(2000))
        assert estimate.reserve(Request("x"), 4000)[0] == pytest.approx(2000, rel=0.06)

    def test_short_prompts_do_not_spoil_the_guess_for_long_ones(self):
        """What a target adds to every prompt outweighs a short one many times."""
        estimate = Estimate()
        for _ in range(1000):
            estimate.learn(20, used(400))
        assert estimate.reserve(Request("x"), 20)[0] == pytest.approx(400, rel=0.01)
        assert estimate.reserve(Request("x"), 100_000)[0] == pytest.approx(25_400, rel=0.1)

    def test_the_sum_is_right_where_each_is_uncertain(self):
        """A limit counts the sum."""
        chance, estimate = random.Random(1), Estimate()
        guessed = real = 0.0
        for _ in range(3000):
            size = chance.lognormvariate(8, 1.5)
            tokens, answer = estimate.reserve(Request("x"), size)
            usage = used(int(50 + size * chance.uniform(0.2, 0.45)), int(chance.expovariate(0.003)))
            guessed += tokens + answer
            real += usage.input_tokens + usage.output_tokens
            estimate.learn(size, usage)
        assert guessed == pytest.approx(real, rel=0.05)

    def test_the_mean_answer_follows_the_latest(self):
        estimate = Estimate()
        for _ in range(10):
            estimate.learn(4, used(1, 100))
        for _ in range(30):
            estimate.learn(4, used(1, 1000))
        assert estimate.reserve(Request("x"))[1] == pytest.approx(1000, rel=0.06)

    def test_nothing_is_learnt_from_an_answer_without_counts(self):
        estimate = Estimate()
        estimate.learn(4000, used(3000, 7, "missing"))
        assert estimate.reserve(Request("x"), 4000) == (1000, ANSWER)

    def test_a_cut_answer_teaches_its_input_alone(self):
        estimate = Estimate()
        estimate.learn(4000, used(2000, 7, "partial"))
        assert estimate.reserve(Request("x"), 4000) == (pytest.approx(1500), ANSWER)

    def test_no_input_counted_teaches_nothing_of_it(self):
        estimate = Estimate()
        estimate.learn(4000, used(0, 7))
        assert estimate.reserve(Request("x"), 4000) == (1000, 7)

    @pytest.mark.parametrize("size", [math.inf, math.nan, 0, -1])
    def test_a_size_that_is_none_teaches_nothing_of_the_input(self, size):
        estimate = Estimate()
        estimate.learn(size, used(3000, 7))
        assert estimate.reserve(Request("x"), 4000) == (1000, 7)

    def test_one_lie_is_soon_forgotten(self):
        estimate = Estimate()
        for _ in range(50):
            estimate.learn(4000, used(1000))
        estimate.learn(4000, used(10**9))
        assert estimate.reserve(Request("x"), 4000)[0] < 3000
        for _ in range(15):
            estimate.learn(4000, used(1000))
        assert estimate.reserve(Request("x"), 4000)[0] == pytest.approx(1000, rel=0.1)

    def test_a_guess_is_never_negative(self):
        estimate = Estimate()
        for _ in range(50):
            estimate.learn(20, used(2000))
        for _ in range(6):
            estimate.learn(3000, used(1))
        assert estimate.reserve(Request("x"), 100_000)[0] >= 100_000 * LEAST

    @given(
        st.lists(
            st.tuples(
                st.floats() | st.floats(0, 1e7),
                st.integers(-(2**63), 2**63),
                st.integers(-(2**63), 2**63),
                st.sampled_from(["exact", "partial", "missing"]),
            )
        ),
        st.floats(0, 1e7),
    )
    def test_no_lie_takes_it_out_of_its_bounds(self, answers, size):
        estimate = Estimate()
        for request_size, given_tokens, received, certainty in answers:
            estimate.learn(request_size, used(given_tokens, received, certainty))
        tokens, answer = estimate.reserve(Request("x"), size)
        assert size * LEAST <= tokens <= MAX_OVERHEAD + size * MOST
        assert 0 <= answer <= MAX_ANSWER
