"""A codec author's kit: everything needed to write a wire outside of aiollm.

`docs/adding-a-provider.md` shows how. A codec is pure: it turns a `Request` into an `HttpRequest`,
turns the frames of the reply into items, and does no IO.
"""

from aiollm._wire.body import Blob, Body, json_body
from aiollm._wire.framing import NDJSON, SSE, NamedSSE
from aiollm._wire.image_type import image_mime
from aiollm._wire.lenient import SurrogateJoiner, decode, decode_leniently, load, mend
from aiollm._wire.schema import json_schema
from aiollm.capabilities import CapabilityRow
from aiollm.dsn import DsnOptions
from aiollm.provider import (
    Adapter,
    Codec,
    Decoder,
    Framer,
    HttpRequest,
    HttpResponse,
    ImageCodec,
    ImageDecoder,
    Operation,
    Reply,
    TokenCodec,
    Transport,
    UnaryCodec,
)
from aiollm.providers.decoding import new_call_id, one_more_call
from aiollm.providers.encoding import (
    Warnings,
    bearer_headers,
    conversation,
    merge,
    sole_text,
    system_text,
)
from aiollm.providers.error_bodies import Fault, fault_of
from aiollm.providers.error_replies import Rule, error_from, error_from_fault
from aiollm.providers.hosted import functions_of, hosted_of
from aiollm.providers.schemes import codec_of
from aiollm.providers.token_counts import count_from
from aiollm.providers.tool_choice import only_chosen
from aiollm.types import AnnouncedLimits, Item, Notice, UsageUpdate

__all__ = [
    "NDJSON",
    "SSE",
    "Adapter",
    "AnnouncedLimits",
    "Blob",
    "Body",
    "CapabilityRow",
    "Codec",
    "Decoder",
    "DsnOptions",
    "Fault",
    "Framer",
    "HttpRequest",
    "HttpResponse",
    "ImageCodec",
    "ImageDecoder",
    "Item",
    "NamedSSE",
    "Notice",
    "Operation",
    "Reply",
    "Rule",
    "SurrogateJoiner",
    "TokenCodec",
    "Transport",
    "UnaryCodec",
    "UsageUpdate",
    "Warnings",
    "bearer_headers",
    "codec_of",
    "conversation",
    "count_from",
    "decode",
    "decode_leniently",
    "error_from",
    "error_from_fault",
    "fault_of",
    "functions_of",
    "hosted_of",
    "image_mime",
    "json_body",
    "json_schema",
    "load",
    "mend",
    "merge",
    "new_call_id",
    "one_more_call",
    "only_chosen",
    "sole_text",
    "system_text",
]
