"""The table of targets: what each runs, what it starts with, and its share of the time."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import msgspec

from tests.fuzz import answers, files, streams, texts

CORPUS = Path(__file__).parent / "corpus"


class Target(msgspec.Struct, frozen=True):
    """A function that takes any bytes and fails if a promise is broken.

    `seeds` yields what it starts with, and `weight` is its share of the time.
    """

    run: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    weight: int = 1
    is_wire: bool = False
    """Whether inputs are answers of lines and JSON."""


TARGETS: dict[str, Target] = {
    **{
        name: Target(streams.target_of(name), partial(streams.seeds_of, name), 4, is_wire=True)
        for name in streams.CODECS
    },
    "framing": Target(streams.framing, streams.framing_seeds, 2),
    "streaming": Target(streams.streaming, streams.streaming_seeds, 4, is_wire=True),
    "images": Target(streams.images, streams.image_seeds, 3, is_wire=True),
    "refusals": Target(answers.refusals, answers.refusal_seeds, 3, is_wire=True),
    "headers": Target(answers.headers, answers.header_seeds),
    "listings": Target(answers.listings, answers.listing_seeds, is_wire=True),
    "dsn": Target(texts.dsn, texts.dsn_seeds, 2),
    "environment": Target(texts.environment, texts.environment_seeds),
    "spec": Target(texts.spec, texts.spec_seeds, 2),
    "typed_answers": Target(texts.typed_answers, texts.typed_answer_seeds, 2, is_wire=True),
    "growing_values": Target(texts.growing_values, texts.typed_answer_seeds, 2, is_wire=True),
    "schemas": Target(texts.schemas, texts.schema_seeds, is_wire=True),
    "figures": Target(texts.figures, texts.figure_seeds),
    "terminal": Target(texts.terminal, texts.terminal_seeds),
    "text_pieces": Target(texts.text_pieces, texts.text_piece_seeds),
    "forms": Target(texts.forms, texts.form_seeds),
    "sniff": Target(files.sniff, files.sniff_seeds, 2),
    "lifting": Target(files.lifting, files.lifting_seeds, 2),
    "base64_texts": Target(files.base64_texts, files.base64_text_seeds),
    "cassettes": Target(files.cassettes, files.cassette_seeds, 2, is_wire=True),
    "recordings": Target(files.recordings, files.recording_seeds, 2, is_wire=True),
    "http_messages": Target(files.http_messages, files.http_message_seeds),
}


def found_by(name: str) -> list[bytes]:
    """Return the inputs that fuzzing found for a target, from its file of bytes literals."""
    path = CORPUS / f"{name}.txt"
    lines = path.read_text("ascii").splitlines() if path.exists() else []
    return [ast.literal_eval(line) for line in lines]


def keep(name: str, inputs: Iterable[bytes]) -> None:
    """Write the file of a target."""
    CORPUS.mkdir(exist_ok=True)
    lines = sorted(map(repr, inputs), key=lambda line: (len(line), line))
    (CORPUS / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), "ascii")
