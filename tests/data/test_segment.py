import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rmt_rl.data.segment import Batch, Segment, Span, Tensors, collate, cut
from tests.data.episodes import episode, tree_episode

spans = st.lists(
    st.integers(1, 40).flatmap(
        lambda length: st.tuples(st.just(length), st.integers(0, length), st.integers(0, length)).map(
            lambda drawn: (drawn[0], *sorted(drawn[1:]))
        )
    ),
    min_size=1,
    max_size=6,
).filter(lambda drawn: any(stop > start for _, start, stop in drawn))


def real_steps(segments: tuple[Segment, ...], name: str, lane: int) -> torch.Tensor:
    parts = [(getattr(segment, name)[lane], segment.lengths[lane]) for segment in segments]
    return torch.cat([steps[:length] for steps, length in parts])


@settings(deadline=None)
@given(spans, st.integers(1, 15))
def test_real_steps_put_together_are_the_episode_and_the_rest_is_zero(
    drawn: list[tuple[int, int, int]], segment_length: int
) -> None:
    given_spans = [Span(episode(lane, length), start, stop) for lane, (length, start, stop) in enumerate(drawn)]
    segments = cut(given_spans, segment_length)
    for lane, (trajectory, start, stop) in enumerate(given_spans):
        for name in ("observations", "actions", "returns_to_go", "rewards", "terminations", "truncations"):
            whole = np.asarray(getattr(trajectory, name))[start:stop]
            assert np.array_equal(real_steps(segments, name, lane).numpy(), whole), name
    for segment in segments:
        assert segment.lengths.max() == segment.mask.shape[1] <= segment_length
        assert torch.equal(segment.mask.sum(1), segment.lengths)
        for tensor in (segment.observations, segment.actions, segment.returns_to_go):
            assert isinstance(tensor, torch.Tensor)
            nonzero = tensor.flatten(2).all(2) if tensor.ndim > 2 else tensor != 0
            assert torch.equal(nonzero, segment.mask), "exactly the padding is zero"


def test_trees_keep_their_shape_and_dtypes() -> None:
    trajectory = tree_episode(0, 5)
    segment = collate([Span(trajectory, 0, 5), Span(trajectory, 2, 4)])
    assert isinstance(segment.observations, dict)
    assert isinstance(segment.actions, tuple)

    def dtype(tree: Tensors) -> torch.dtype:
        assert isinstance(tree, torch.Tensor)
        return tree.dtype

    assert dtype(segment.observations["image"]) == torch.uint8
    assert dtype(segment.observations["place"]) == torch.float32
    assert [dtype(part) for part in segment.actions] == [torch.int64, torch.float32]
    image = segment.observations["image"]
    assert isinstance(image, torch.Tensor)
    assert isinstance(trajectory.observations, dict)
    assert np.array_equal(image[1, :2].numpy(), np.asarray(trajectory.observations["image"])[2:4])


def test_moving_a_batch_moves_every_tensor() -> None:
    segment = collate([Span(tree_episode(0, 5), 0, 5)])
    lanes = torch.ones(1, dtype=torch.bool)
    moved = Batch((segment,), lanes, 5, burn_in=(segment,)).to("meta")
    (burn_in,) = moved.burn_in
    observations, actions = moved.segments[0].observations, moved.segments[0].actions
    assert isinstance(observations, dict)
    assert isinstance(actions, tuple)
    assert isinstance(burn_in.observations, dict)
    everything = [
        *observations.values(),
        *actions,
        moved.segments[0].lengths,
        moved.segments[0].mask,
        moved.fresh,
        *burn_in.observations.values(),
    ]
    assert {tensor.device.type for tensor in everything if isinstance(tensor, torch.Tensor)} == {"meta"}
    assert moved.steps == 5


def test_the_first_segments_of_a_batch_are_a_batch_with_their_steps() -> None:
    spans = [Span(episode(lane, length), 0, length) for lane, length in enumerate((7, 2))]
    lanes = torch.ones(2, dtype=torch.bool)
    batch = Batch(cut(spans, 3), lanes, steps=9)
    assert [int(batch.first(count).steps) for count in (1, 2, 3, 4)] == [5, 8, 9, 9]
    assert batch.first(2).segments == batch.segments[:2]
