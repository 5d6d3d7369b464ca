"""The step rule on functions whose behaviour is known: linear, curved, saturated, flat, with several minima."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from methods.diffae_re_gn import sensitivity_direction
from methods.minimal_norm import Evaluation, Geometry, StepRuleConfig, advance, initial_state, restart

PLAIN = Geometry(lambda gradient: gradient, lambda step: step.flatten(1).norm(dim=1))
SIGNED = Geometry(torch.sign, lambda step: step.abs().flatten(1).amax(1))


def options(**given: object) -> StepRuleConfig:
    return StepRuleConfig(**({"cap": 100.0, "aim": 1e-4} | given))


def evaluate(function: Callable[[Tensor], Tensor], point: Tensor) -> Evaluation:
    point = point.detach().requires_grad_(True)
    prediction = function(point)
    gradient = torch.autograd.grad(prediction.sum(), point)[0]
    return Evaluation(prediction.detach(), gradient, point.detach())


def solve(
    function: Callable[[Tensor], Tensor],
    start: Tensor,
    target: float | list[float],
    config: StepRuleConfig,
    geometry: Geometry = PLAIN,
    most: int = 60,
) -> tuple[dict[str, Tensor], int]:
    """The final state, and evaluations until every sample was done."""
    goal = torch.tensor(target, dtype=torch.float32).expand(len(start)).clone()
    state = initial_state(start, start, goal, config.cap)
    for count in range(1, most + 1):
        state, done = advance(config, geometry, state, evaluate(function, state["point"]))
        if done.all():
            return state, count
    return state, most


def linear(point: Tensor) -> Tensor:
    return point @ torch.tensor([3.0, 4.0, 0.0])


def test_a_linear_function_is_solved_in_one_step_of_minimal_norm() -> None:
    state, count = solve(linear, torch.zeros(2, 3), [5.0, -2.5], options())
    assert count == 2
    assert state["step"].tolist() == [1, 1]
    # (t - y) g / |g|^2 with g = (3, 4, 0)
    torch.testing.assert_close(state["output"], torch.tensor([[0.6, 0.8, 0.0], [-0.3, -0.4, 0.0]]))


def test_the_linf_step_changes_every_dimension_alike() -> None:
    state, _ = solve(linear, torch.zeros(1, 3), 7.0, options(), SIGNED)
    torch.testing.assert_close(state["output"], torch.tensor([[1.0, 1.0, 0.0]]))


def test_the_cap_is_the_longest_step_and_damping_shortens_it() -> None:
    config = options(cap=0.5)
    start = initial_state(torch.zeros(1, 3), torch.zeros(1, 3), torch.tensor([50.0]), config.cap)
    state, _ = advance(config, PLAIN, start, evaluate(linear, start["point"]))
    assert state["point"].norm() == pytest.approx(0.5)
    damped = options(damping=25.0)
    start = initial_state(torch.zeros(1, 3), torch.zeros(1, 3), torch.tensor([50.0]), damped.cap)
    state, _ = advance(damped, PLAIN, start, evaluate(linear, start["point"]))
    torch.testing.assert_close(state["point"], torch.tensor([[3.0, 4.0, 0.0]]))  # half of (6, 8, 0)


def test_polyak_takes_half_the_step_and_needs_more_of_them() -> None:
    _, gauss_newton = solve(linear, torch.zeros(1, 3), 5.0, options())
    state, polyak = solve(linear, torch.zeros(1, 3), 5.0, options(rule="polyak", aim=0.01))
    assert (gauss_newton, polyak) == (2, 10)  # 5 / 2^9 < 0.01
    assert state["error"].item() <= 0.01


def test_the_secant_slope_makes_up_for_a_gradient_of_the_wrong_length() -> None:
    def shortened(point: Tensor) -> Tensor:
        """Its gradient is a third of the true one, like that of a truncated decoder."""
        y = linear(point)
        return y / 3 + (y * 2 / 3).detach()

    _, plain = solve(shortened, torch.zeros(1, 3), 5.0, options(patience=50), most=60)
    state, secant = solve(shortened, torch.zeros(1, 3), 5.0, options(rule="secant", patience=50))
    assert secant <= 4 < plain
    assert state["slope"].item() == pytest.approx(3.0, rel=1e-3)


@pytest.mark.parametrize("backtrack", [True, False])
def test_a_step_the_wrong_way_shrinks_the_trust_region(backtrack: bool) -> None:
    def wavy(point: Tensor) -> Tensor:
        return torch.sin(3 * point[:, 0])

    config = options(cap=10.0, backtrack=backtrack)
    start = initial_state(torch.full((1, 1), 0.48), torch.zeros(1, 1), torch.tensor([1.4]), config.cap)
    first, _ = advance(config, PLAIN, start, evaluate(wavy, start["point"]))
    assert wavy(first["point"]).item() < wavy(start["point"]).item(), "the step should overshoot the maximum"
    second, _ = advance(config, PLAIN, first, evaluate(wavy, first["point"]))
    assert second["radius"].item() == pytest.approx(0.5 * first["length"].item())
    assert second["length"].item() <= second["radius"].item() + 1e-6
    came_from = second["anchor"] if backtrack else first["point"]
    torch.testing.assert_close(came_from, start["point"] if backtrack else second["anchor"])


def test_of_several_solutions_one_near_the_start_is_found() -> None:
    def cubic(point: Tensor) -> Tensor:
        return point[:, 0] ** 3 - point[:, 0]  # -1, 0 and 1 all give 0

    start = torch.tensor([[1.4], [-1.3], [0.2]])
    state, _ = solve(cubic, start, 0.0, options(cap=0.5))
    assert (state["error"] <= 1e-4).all()
    torch.testing.assert_close(state["output"], torch.tensor([[1.0], [-1.0], [0.0]]), atol=1e-3, rtol=0)


def test_a_value_beyond_a_maximum_is_given_up_at_the_best_point() -> None:
    def hill(point: Tensor) -> Tensor:
        return 1 - point[:, 0] ** 2

    state, count = solve(hill, torch.tensor([[1.0]]), 1.5, options(cap=1.0), most=60)
    assert count < 60
    assert state["prediction"].item() > 0.9, "the best point is kept, wherever the search went from there"
    assert hill(state["output"]).item() == pytest.approx(state["prediction"].item())


def test_a_flat_function_is_given_up_without_a_move() -> None:
    def flat(point: Tensor) -> Tensor:
        return 0.3 + 0 * point.sum(1)

    state, count = solve(flat, torch.ones(2, 3), 0.8, options(patience=3))
    assert count == 4  # the first evaluation is no step
    torch.testing.assert_close(state["output"], torch.ones(2, 3))
    assert torch.isfinite(state["point"]).all()


def test_a_saturated_function_does_not_throw_the_point_away() -> None:
    def saturated(point: Tensor) -> Tensor:
        return torch.sigmoid(point[:, 0])

    # Reachable, but from where the slope is 2e-4: a bare Gauss-Newton step would be 2,000 long.
    state, _ = solve(saturated, torch.tensor([[8.5]]), 0.5, options(cap=2.0, aim=0.01))
    assert state["error"].item() <= 0.01
    # Where the slope is 1e-20 the search gives up, finite.
    state, count = solve(saturated, torch.tensor([[-46.0]]), 0.5, options(cap=2.0))
    assert count < 60
    assert torch.isfinite(state["point"]).all()
    # Out of reach: a sigmoid has no 1.2.
    state, count = solve(saturated, torch.tensor([[0.0]]), 1.2, options(cap=2.0))
    assert count < 60
    assert 0.9 < state["prediction"].item() < 1
    assert state["point"].abs().item() < 60


def test_a_nonfinite_prediction_is_never_the_best() -> None:
    config = options()
    state = initial_state(torch.zeros(1, 3), torch.zeros(1, 3), torch.tensor([5.0]), config.cap)
    state, _ = advance(config, PLAIN, state, evaluate(linear, state["point"]))
    spoilt = Evaluation(torch.tensor([float("nan")]), torch.full((1, 3), float("nan")), torch.ones(1, 3))
    state, done = advance(config, PLAIN, state, spoilt)
    assert state["prediction"].item() == 0.0
    assert not done.any()
    assert torch.isfinite(state["point"]).all()


def test_samples_do_not_touch_each_other() -> None:
    def curved(point: Tensor) -> Tensor:
        return torch.tanh(point).sum(1)

    starts, targets = torch.tensor([[0.1, 0.2], [1.0, -2.0], [0.5, 0.5]]), [0.9, 0.4, -1.0]
    together, _ = solve(curved, starts, targets, options(cap=0.4))
    for row, target in enumerate(targets):
        alone, _ = solve(curved, starts[row : row + 1], target, options(cap=0.4))
        assert torch.equal(alone["output"][0], together["output"][row])


def test_restarting_forgets_errors_of_the_chosen_samples_only() -> None:
    state, _ = solve(linear, torch.zeros(2, 3), 5.0, options())
    again = restart(state, torch.tensor([6.0, 6.0]), 100.0, torch.tensor([True, False]))
    assert again["goal"].tolist() == [6.0, 5.0]
    assert torch.isinf(again["error"]).tolist() == [True, False]
    torch.testing.assert_close(again["point"], torch.stack([state["best_point"][0], state["point"][1]]))


def test_the_sensitivity_direction_solves_the_damped_system() -> None:
    generator = torch.Generator().manual_seed(0)
    probes = torch.randn(2, 3, 7, generator=generator)
    gradient = torch.randn(2, 7, generator=generator)
    matrix = probes.mT @ probes
    lam = 0.1 * matrix.diagonal(dim1=1, dim2=2).sum(1)
    direct = torch.linalg.solve(matrix + torch.diag_embed(lam[:, None].expand(-1, 7)), gradient) * lam[:, None]
    torch.testing.assert_close(sensitivity_direction(probes, 0.1)(gradient), direct, atol=1e-5, rtol=1e-4)


def test_an_aim_beyond_the_tolerance_is_refused() -> None:
    with pytest.raises(ValueError, match="aim 0.1 is larger than tolerance 0.05"):
        options(aim=0.1)
