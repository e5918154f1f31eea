"""What the guide to testing and the recipe for pytest show is run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import aiollm.testing

pytest_plugins = ["pytester"]

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "testing.md").read_text()
RECIPE = (DOCS / "recipes" / "pytest.md").read_text()
(SETTINGS,) = re.findall(r"^```toml\n(.*?)^```$", RECIPE, re.MULTILINE | re.DOTALL)
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE + RECIPE, re.MULTILINE | re.DOTALL)


def test_every_block_of_the_pages_passes_with_the_settings_of_the_recipe(pytester):
    pytester.makepyprojecttoml(SETTINGS)
    pytester.makepyfile(**{f"test_{number}": block for number, block in enumerate(BLOCKS)})
    result = pytester.runpytest_subprocess(
        *("-p", "aiollm.testing.plugin", "-W", "error", "-p", "no:cacheprovider")
    )
    result.assert_outcomes(passed=sum(block.count("def test_") for block in BLOCKS))


def test_the_page_names_every_fault_and_server_of_the_kit():
    helpers = {"Counts", "Exchange", "FakeCall", "Fault", "FaultScript", "Script"}
    helpers |= {"LoopbackOptions", "SeenConnection", "SeenRequest", "ToolCallStep"}
    helpers |= {"AnswerStep", "AnswerSteps", "Ending", "EventData", "HttpMessage", "OnConnect"}
    helpers |= {"load_exchanges", "Piece", "PieceSize", "RequestMatch", "Sleep"}
    missing = {name for name in aiollm.testing.__all__ if name not in PAGE} - helpers
    assert not missing


def test_every_public_name_of_the_kit_is_there():
    assert all(getattr(aiollm.testing, name) is not None for name in aiollm.testing.__all__)


def test_a_name_that_the_kit_lacks_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = aiollm.testing.Nothing
