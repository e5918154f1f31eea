"""Runs in the peers' Python: replays answers through one official SDK and checks requests with it.

Usage: sdk_worker.py openai|anthropic|google|ollama. The job comes as JSON on stdin, what the SDK
made of it goes as JSON to stdout. It is no part of the test process, so that what the SDKs import
and warn of stays out of it.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from typing import Any

import sdk_answers
import sdk_types

PACKAGES = {
    "openai": "openai",
    "anthropic": "anthropic",
    "google": "google-genai",
    "ollama": "ollama",
}


def replay(sdk: str, case: dict[str, Any]) -> dict[str, Any]:
    """Return what the SDK gave for one answer, and the error it raised, if any."""
    got = sdk_answers.Got()
    try:
        sdk_answers.READERS[case["api"]](case, got)
    except Exception as error:  # noqa: BLE001 - whatever it raises is the result
        got.failed = True
        got.exception = type(error).__name__
        sdk_answers.ERRORS[sdk](error, got)
    return vars(got)


def main() -> None:
    """Do the job."""
    sdk, job = sys.argv[1], json.load(sys.stdin)
    package = PACKAGES[sdk]
    done = {
        "package": package,
        "version": version(package),
        "answers": {case["path"]: replay(sdk, case) for case in job["cases"]},
        "complaints": {
            sent["name"]: sdk_types.complaints(sent["api"], sent["body"])
            for sent in job["requests"]
        },
    }
    json.dump(done, sys.stdout)


if __name__ == "__main__":
    main()
