"""Real steps on disk: what is drawn belongs to one episode, and to the checkpoint."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lightning_rl.data.replay import ReplayBuffer
from lightning_rl.errors import ReplayError
from lightning_rl.types import RecurrentInputs, Rollout, Windows

T, B, K = 13, 23, 3  # 23 trajectories: two are held out of the first rollout, two of the second


def rollout(number: int = 0, *, num_steps: int = T, num_envs: int = B) -> Rollout:
    """Frames that say when they were seen and by whom; environment e ends an episode at steps t with (t + e) % 5 = 4.

    The pixel's first channel is the step counted over all rollouts, the second the environment.
    """
    ages = torch.arange(num_steps + 1) + number * num_steps
    steps, envs = torch.meshgrid(ages, torch.arange(num_envs), indexing="ij")
    terminated = (steps[:-1] + envs[:-1]) % 5 == 4
    frames = torch.stack([steps, envs], dim=-1).to(torch.uint8)[:, :, None, None, :].expand(-1, -1, 2, 2, -1)
    obs = torch.cat([frames_before(frames, steps, envs, back) for back in reversed(range(K))], dim=-1)
    return Rollout(
        actions=steps[:-1] * 100 + envs[:-1],
        rewards=(steps[:-1] + 0.5 * envs[:-1]).float(),
        terminated=terminated,
        behavior_logits=torch.zeros(num_steps, num_envs, 2),
        behavior_values=torch.zeros(num_steps, num_envs, 1),
        obs=obs.contiguous(),
        recurrent_inputs=RecurrentInputs.initial(num_envs),
    )


def frames_before(frames: torch.Tensor, steps: torch.Tensor, envs: torch.Tensor, back: int) -> torch.Tensor:
    """The frame `back` steps ago, or the episode's first."""
    age = (steps + envs) % 5  # of the episode, since one starts wherever this is 0
    age = torch.minimum(age, steps)  # the very first episode starts with the run
    shown = frames.clone()
    shown[..., 0] = (steps - torch.minimum(torch.full_like(age, back), age))[:, :, None, None].to(torch.uint8)
    return shown


def buffer(folder: Path, *, game: str = "maze", beside: Path | None = None) -> ReplayBuffer:
    return ReplayBuffer(folder, game=game, num_frames=K, beside=beside)


@pytest.fixture
def filled(tmp_path: Path) -> ReplayBuffer:
    replay = buffer(tmp_path)
    replay.append(rollout(0))
    replay.append(rollout(1))
    return replay


def test_whole_windows_are_all_that_are_held_out_and_not_cut_short(filled: ReplayBuffer) -> None:
    windows = filled.sample_whole(600, num_targets=4, generator=torch.Generator().manual_seed(7))

    assert windows is not None
    assert windows.valid[:, K - 1 :].all()
    found = {(int(action) // 100, int(action) % 100) for action in windows.actions[:, K - 1]}
    expected = set()
    for first in (0, T):
        for env in range(B):
            held_out = (env + 1 + (B if first else 0)) % 11 == 0
            for step in range(first, first + T - 3):
                ended = [(at + env) % 5 == 4 for at in range(step, step + 3)]  # before the last of four steps
                if held_out and not any(ended):
                    expected.add((step, env))
    assert found == expected
    assert windows.ended[:, -1].any()


def test_without_long_episodes_no_window_is_whole(filled: ReplayBuffer) -> None:
    assert filled.sample_whole(3, num_targets=6, generator=torch.Generator()) is None


def drawn(replay: ReplayBuffer, number: int = 400, *, held_out: bool = False, num_targets: int = 4) -> Windows:
    return replay.sample(number, num_targets=num_targets, generator=torch.Generator().manual_seed(7), held_out=held_out)


def test_it_counts_what_it_holds(filled: ReplayBuffer) -> None:
    assert filled.num_steps == 2 * T * B


def test_a_window_starts_with_the_stack_that_the_policy_saw(filled: ReplayBuffer) -> None:
    windows = drawn(filled)

    newest = windows.frames[:, K - 1, 0, 0]
    step, env = newest[:, 0].long(), newest[:, 1].long()
    age = torch.minimum((step + env) % 5, step)
    for back in range(K):
        expected = step - age.clamp(max=back)
        assert torch.equal(windows.frames[:, K - 1 - back, 0, 0, 0].long(), expected)
        assert torch.equal(windows.frames[:, K - 1 - back, 0, 0, 1].long(), env)


def test_valid_steps_are_those_of_the_episode_in_the_rollout(filled: ReplayBuffer) -> None:
    windows = drawn(filled)

    chosen, env = windows.frames[:, K - 1, 0, 0].long().unbind(-1)
    steps = chosen[:, None] + torch.arange(1 - K, windows.valid.shape[1] - K + 1)
    same_episode = (steps + env[:, None]) // 5 == ((chosen + env) // 5)[:, None]
    same_rollout = (steps >= 0) & (steps // T == (chosen // T)[:, None])
    assert torch.equal(windows.valid, same_episode & same_rollout)
    assert windows.valid[:, K - 1].all()
    assert not windows.valid.all()


def test_valid_steps_lead_from_frame_to_frame(filled: ReplayBuffer) -> None:
    windows = drawn(filled)

    chosen, env = windows.frames[:, K - 1, 0, 0].long().unbind(-1)
    steps = chosen[:, None] + torch.arange(1 - K, windows.valid.shape[1] - K + 1)
    valid = windows.valid
    assert torch.equal(windows.actions[valid], (100 * steps + env[:, None])[valid])
    assert torch.equal(windows.rewards[valid], (steps + 0.5 * env[:, None]).float()[valid])
    assert torch.equal(windows.ended[valid], ((steps + env[:, None]) % 5 == 4)[valid])
    assert torch.equal(windows.frames[:, :-1, 0, 0, 0].long()[valid], steps[valid])
    assert torch.equal(windows.frames[:, 1:, 0, 0, 0].long()[valid], steps[valid] + 1)


def test_every_step_that_is_learned_from_is_drawn_about_equally_often(filled: ReplayBuffer) -> None:
    windows = drawn(filled, 6_000, num_targets=1)

    chosen, env = windows.frames[:, K - 1, 0, 0].long().unbind(-1)
    counts = torch.bincount(chosen * B + env, minlength=2 * T * B)
    trajectories = torch.arange(2 * B)
    held_out = (trajectories + 1) % 11 == 0
    expected = (~held_out).view(2, 1, B).expand(2, T, B).flatten()
    assert torch.equal(counts > 0, expected)
    mean = 6_000 / int(expected.sum())
    assert counts[expected].max() < mean + 5 * mean**0.5


def test_held_out_trajectories_are_drawn_only_when_asked_for(filled: ReplayBuffer) -> None:
    windows = drawn(filled, held_out=True)

    chosen, env = windows.frames[:, K - 1, 0, 0].long().unbind(-1)
    assert set(((chosen // T) * B + env).tolist()) == {10, 21, 32, 43}


def test_who_is_held_out_is_a_matter_of_each_rollouts_own_environments(filled: ReplayBuffer, tmp_path: Path) -> None:
    filled.append(rollout(2, num_envs=5))  # as a run goes on with others
    restored = buffer(tmp_path)
    restored.load_state(filled.state)

    kinds = []
    for held_out in (True, False):
        chosen, env = drawn(restored, 6_000, held_out=held_out).frames[:, K - 1, 0, 0].long().unbind(-1)
        kinds.append(set(zip((chosen // T).tolist(), env.tolist(), strict=True)))

    held_out_ones = {(0, 10), (0, 21), (1, 32 - B), (1, 43 - B), (2, 10 - 2 * 5)}
    everyone = {(number, env) for number, num_envs in enumerate((B, B, 5)) for env in range(num_envs)}
    assert kinds == [held_out_ones, everyone - held_out_ones]


def test_imagination_starts_from_the_newest_rollout_and_first_from_an_episodes_opening(filled: ReplayBuffer) -> None:
    stacks = filled.starts(300, generator=torch.Generator().manual_seed(3))

    step, env = stacks[:, 0, 0, -2].long(), stacks[:, 0, 0, -1].long()
    assert ((step >= T) & (step < 2 * T)).all()
    assert len(set(step.tolist())) == T
    assert not set(env.tolist()) & {9, 20}  # trajectories 32 and 43
    assert (int(step[0]) + int(env[0])) % 5 == 0
    opening = stacks[0, 0, 0].view(K, 2)
    assert torch.equal(opening, opening[:1].expand(K, 2))


def test_imagination_starts_somewhere_even_where_the_newest_rollout_is_held_out(tmp_path: Path) -> None:
    replay = buffer(tmp_path)
    for number in range(11):
        replay.append(rollout(number, num_envs=1))

    stacks = replay.starts(5, generator=torch.Generator().manual_seed(3))

    assert (stacks[:, 0, 0, -2] >= 10 * T).all()


def test_equal_generators_draw_equal_windows(filled: ReplayBuffer) -> None:
    assert torch.equal(drawn(filled).frames, drawn(filled).frames)


def test_a_saved_state_draws_what_the_live_one_does(filled: ReplayBuffer, tmp_path: Path) -> None:
    restored = buffer(tmp_path)

    restored.load_state(filled.state)

    for field in ("frames", "actions", "rewards", "ended", "valid"):
        assert torch.equal(getattr(drawn(restored), field), getattr(drawn(filled), field))


def test_files_written_after_the_saved_state_are_set_aside(filled: ReplayBuffer, tmp_path: Path) -> None:
    state = filled.state
    filled.append(rollout(2))
    restored = buffer(tmp_path)

    restored.load_state(state)

    assert restored.num_steps == 2 * T * B
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000.pt", "000001.pt", "000002.superseded"]


def test_another_runs_files_are_set_aside_and_not_overwritten(filled: ReplayBuffer, tmp_path: Path) -> None:
    for number in range(2):
        with pytest.warns(UserWarning, match=rf"they are in superseded_{number}/ there now"):
            buffer(tmp_path).append(rollout(2 + number))

    kept = buffer(tmp_path / "superseded_0")
    kept.load_state(filled.state)
    assert torch.equal(drawn(kept).frames, drawn(filled).frames)
    assert sorted(path.name for path in tmp_path.glob("**/*.pt") if path.parent != tmp_path / "superseded_0") == (
        ["000000.pt", "000000.pt"]
    )


def test_files_beside_another_checkpoint_are_copied(filled: ReplayBuffer, tmp_path: Path) -> None:
    restored = buffer(tmp_path / "other", beside=tmp_path)

    restored.load_state(filled.state)

    assert torch.equal(drawn(restored).frames, drawn(filled).frames)
    assert (tmp_path / "000001.pt").exists()


def _remove(path: Path) -> None:
    path.unlink()


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _alter(path: Path) -> None:
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 2] ^= 1
    path.write_bytes(bytes(contents))


def _replace(path: Path) -> None:
    other = buffer(path.parent / "elsewhere", game="heist")
    other.append(rollout(0))
    (path.parent / "elsewhere" / "000000.pt").replace(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_remove, r"000001\.pt are not there"),
        (_truncate, r"000001\.pt are damaged"),
        (_alter, r"000001\.pt are damaged"),
        (_replace, r"000001\.pt are of game heist, this run of maze"),
    ],
)
def test_damaged_files_are_refused_by_name(
    filled: ReplayBuffer, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(tmp_path / "000001.pt")

    with pytest.raises(ValueError, match=message):
        buffer(tmp_path).load_state(filled.state)


def test_a_full_disk_loses_nothing_that_was_there(
    filled: ReplayBuffer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)

    with pytest.raises(ReplayError, match=r"000002\.pt was not written .*No space left on device"):
        filled.append(rollout(2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000.pt", "000001.pt"]
    assert filled.num_steps == 2 * T * B
