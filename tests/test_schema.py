"""Any request that the OpenAPI document allows, and many that it does not: never a server error."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from chatlab.api import install
from chatlab.settings import Settings
from chatlab.wiring import wire


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The schema over a running app."""
    chosen = Settings(data_dir=tmp_path_factory.mktemp("schema") / "data", engine="echo")
    with wire(chosen) as parts:
        app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
        install(app, parts)
        yield schemathesis.openapi.from_asgi("/openapi.json", app)


def test_no_request_is_a_server_error(api: Any) -> None:
    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    operations = [found.ok() for found in api.exclude(path_regex="embeddings|events").get_all_operations()]
    assert len(operations) > 15
    for operation in operations:

        @settings(
            max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
        )
        @given(case=operation.as_strategy())
        def call(case: Any) -> None:
            case.call_and_validate(checks=checks)

        call()
