"""Provider answers and their codes in n8n: the user is blamed only for what is the user's."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from creativeflow.services.aigeneration.domain.worker_errors import WORKER_ERRORS

ROOT = Path(__file__).parents[4]
ANSWERS: dict[str, list[list[Any]]] = json.loads(
    (Path(__file__).parents[1] / "support/provider_answers.json").read_text()
)
_RUN = """
const { code, cases } = JSON.parse(require('fs').readFileSync(0));
const Run = Object.getPrototypeOf(async function () {}).constructor;
const classify = async ([, statusCode, body]) => {
  const bytes = Buffer.from(JSON.stringify(body));
  const helpers = { getBinaryDataBuffer: async () => bytes };
  const input = { first: () => ({ json: { statusCode, body }, binary: { data: {} } }) };
  const node = () => ({ first: () => ({ json: { model: 'm', format: 'png' } }) });
  return (await new Run('$', '$input', code).call({ helpers }, node, input))[0].json.error_code;
};
Promise.all(cases.map(classify)).then((found) => console.log(JSON.stringify(found)));
"""


def classify(workflow: str) -> list[str]:
    """Run the code of the workflow's node on every answer, as n8n does."""
    nodes = json.loads((ROOT / f"n8n/{workflow}.json").read_text())["nodes"]
    (node,) = (node for node in nodes if node["name"] == "Picture or reason")
    given = {"code": node["parameters"]["jsCode"], "cases": ANSWERS[workflow]}
    ran = subprocess.run(
        ["node", "-e", _RUN], input=json.dumps(given), capture_output=True, text=True, check=True
    )
    found: list[str] = json.loads(ran.stdout)
    return found


@pytest.mark.parametrize("workflow", sorted(ANSWERS))
def test_provider_answers_are_reported_under_the_code_of_their_cause(workflow: str) -> None:
    found = dict(zip((case[0] for case in ANSWERS[workflow]), classify(workflow), strict=True))
    assert found == {case[0]: case[3] for case in ANSWERS[workflow]}
    assert set(found.values()) <= set(WORKER_ERRORS)
