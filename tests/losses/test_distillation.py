import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from lightning_rl.losses.distillation import absolute_prediction_error, prediction_error
from tests.support import reference
from tests.support.compare import Array, assert_matches, rounded, tensor


def draw(num_outputs: int) -> tuple[Array, Array]:
    generator = np.random.default_rng(0)
    teacher, student = generator.normal(size=(2, 5, 3, num_outputs))
    return rounded(teacher), rounded(student)


@pytest.mark.parametrize("num_outputs", [1, 7])
def test_prediction_error_matches_its_definition(num_outputs: int) -> None:
    teacher, student = draw(num_outputs)

    error = prediction_error(tensor(teacher), tensor(student))

    assert_matches(error, reference.prediction_error(teacher, student))


@pytest.mark.parametrize("num_outputs", [1, 7])
def test_absolute_prediction_error_matches_its_definition(num_outputs: int) -> None:
    teacher, student = draw(num_outputs)

    error = absolute_prediction_error(tensor(teacher), tensor(student))

    assert_matches(error, reference.absolute_prediction_error(teacher, student))


def test_errors_of_an_exact_prediction_are_zero() -> None:
    teacher = tensor(draw(7)[0])

    assert torch.equal(prediction_error(teacher, teacher), torch.zeros(5, 3))
    assert torch.equal(absolute_prediction_error(teacher, teacher), torch.zeros(5, 3))


def test_gradient_of_prediction_error_is_twice_the_mean_error_and_reaches_the_teacher_only() -> None:
    teacher, student = draw(7)
    teacher_leaf, student_leaf = tensor(teacher).requires_grad_(), tensor(student).requires_grad_()

    torch.autograd.backward(prediction_error(teacher_leaf, student_leaf).sum())

    assert teacher_leaf.grad is not None
    assert_matches(teacher_leaf.grad, 2 * (teacher - student) / 7)
    assert student_leaf.grad is None


def test_prediction_error_agrees_with_finite_differences() -> None:
    teacher, student = (torch.from_numpy(numbers) for numbers in draw(7))

    assert torch.autograd.gradcheck(lambda t: prediction_error(t, student), teacher.requires_grad_())


def test_absolute_prediction_error_carries_no_gradient() -> None:
    teacher, student = (tensor(numbers).requires_grad_() for numbers in draw(7))

    assert not absolute_prediction_error(teacher, student).requires_grad


def test_prediction_error_of_a_student_with_another_output_width_is_refused() -> None:
    with pytest.raises(TypeCheckError):
        prediction_error(torch.zeros(5, 3, 7), torch.zeros(5, 3, 1))
