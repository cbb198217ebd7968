"""Properties of a request: terminal states, dimensions, terms, and the cost of its holds."""

import pytest

from creativeflow.services.aigeneration.domain.lifecycle import Stage, State
from creativeflow.services.aigeneration.domain.pricing import PRO
from creativeflow.services.aigeneration.domain.representation import to_resource
from creativeflow.services.aigeneration.domain.request import HoldState
from tests.support.builders import a_brief, a_hold, a_request, an_allowance, four_samples

HOLDS = (
    a_hold(state=HoldState.CAPTURED),
    a_hold(round=2, state=HoldState.CAPTURED, amount=125),
    a_hold(round=3, state=HoldState.RELEASED),
    a_hold(stage=Stage.FINAL, amount=200),
    an_allowance(round=4),
)


@pytest.mark.parametrize("state", list(State))
def test_request_terminal_in_exactly_five_states(state: State) -> None:
    ended = state.value in {"COMPLETED", "FAILED", "CONTENT_REJECTED", "CANCELLED", "EXPIRED"}
    assert a_request(state=state).terminal is ended


def test_request_dimensions_of_each_format() -> None:
    assert a_request(brief=a_brief(output_format="XPost")).dimensions == (1600, 900)


def test_custom_dimensions_are_those_of_the_brief() -> None:
    brief = a_brief(output_format="Custom", custom_dimensions={"width": 640, "height": 4096})
    assert a_request(brief=brief).dimensions == (640, 4096)


def test_request_terms_are_those_of_its_plan() -> None:
    assert a_request(plan="pro").terms is PRO


@pytest.mark.parametrize(
    ("stage", "states", "amount"),
    [
        (Stage.SAMPLES, [HoldState.CAPTURED], 150),
        (Stage.SAMPLES, [HoldState.CAPTURED, HoldState.RELEASED], 175),
        (Stage.SAMPLES, [HoldState.HELD], 0),
        (Stage.FINAL, [HoldState.HELD], 200),
        (Stage.FINAL, [], 0),
    ],
)
def test_request_cost_is_the_sum_of_the_stage_holds(
    stage: Stage, states: list[HoldState], amount: int
) -> None:
    assert a_request(holds=HOLDS).cost(stage, *states) == amount


def test_request_placing_returns_the_placing_hold() -> None:
    placing = a_hold(stage=Stage.FINAL, state=HoldState.PLACING)
    assert a_request(holds=(a_hold(), placing)).placing == placing
    assert a_request(holds=HOLDS).placing is None


@pytest.mark.parametrize(
    ("state", "still_open"),
    [
        ("placing", True),
        ("held", True),
        ("captured", False),
        ("released", False),
        ("refused", False),
    ],
)
def test_hold_open_until_resolved(state: str, still_open: bool) -> None:
    assert a_hold(state=HoldState(state)).open is still_open


@pytest.mark.parametrize(
    ("state", "hold", "shown"),
    [
        (State.PROCESSING_SAMPLES, HoldState.HELD, False),
        (State.AWAITING_SELECTION, HoldState.CAPTURED, True),
        (State.CANCELLED, HoldState.RELEASED, False),
        (State.CANCELLED, HoldState.CAPTURED, True),
        (State.FAILED, HoldState.RELEASED, False),
        (State.PROCESSING_SAMPLES, None, True),
    ],
)
def test_shown_samples_of_a_set_follow_its_hold(
    state: State, hold: HoldState | None, shown: bool
) -> None:
    holds = (a_hold(state=hold),) if hold else ()
    request = a_request(state=state, samples=four_samples(), holds=holds)
    assert request.shown_samples == (four_samples() if shown else ())
    assert len(to_resource(request)["samples"]) == 4 * shown


def test_shown_samples_while_the_next_round_is_asked_for_are_those_of_this_round() -> None:
    holds = (a_hold(state=HoldState.CAPTURED), a_hold(key="2", round=2, state=HoldState.PLACING))
    request = a_request(
        state=State.AWAITING_SELECTION, samples=four_samples(), holds=holds, round=1
    )
    assert request.shown_samples == four_samples()


def test_shown_samples_of_a_final_stay_visible() -> None:
    holds = (a_hold(state=HoldState.CAPTURED), a_hold(key="f", stage=Stage.FINAL))
    request = a_request(
        state=State.PROCESSING_FINAL, stage=Stage.FINAL, samples=four_samples(), holds=holds
    )
    assert request.shown_samples == four_samples()
