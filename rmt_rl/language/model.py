"""A recurrent memory transformer on token ids, one segment at a time: an embedding, a core with a memory, and a head.

Memories are values: a call returns them, and the next call takes them.

Dimensions: B batch elements, L tokens of a segment, T tokens of a step call, M memory tokens, D width, V vocabulary,
X places of an XL cache, HE width of all heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmt_rl.errors import UsageError
from rmt_rl.language.checks import check_ids, check_labels, check_mask, check_sizes, check_tokens
from rmt_rl.language.cores import XLOptions, build_core, decoder_config
from rmt_rl.language.state import Memories, XLMemories, caller_state, core_state
from rmt_rl.memory.valve import ValveName
from rmt_rl.nn.token_core import Layers
from rmt_rl.recurrence import Tree, consecutive_places, take_tokens, where_lanes


class Output(NamedTuple):
    """The result of a call.

    Attributes:
        output: logits (B, L, V), embeddings (B, L, D), the loss (a scalar) or new tokens, as the call asked for.
        memories: memories for the next call: memory tokens (B, M, D), or a tuple of tensors if the core keeps more.
        xl_memories: Transformer-XL caches for the next call, (2, B, X, HE) for each layer, with their lengths. None if
            the model has none.
    """

    output: Tensor
    memories: Memories
    xl_memories: XLMemories | None


class RecurrentMemoryTransformer(nn.Module):
    """Runs one segment at a time, with a memory that goes from segment to segment.

    Args:
        dim: D, the width of a token.
        num_tokens: V, the size of the vocabulary.
        depth: layers.
        num_memory_tokens: M; with a Titans memory, the number of persistent tokens.
        seq_len: the most tokens of a segment.
        causal: False makes an encoder like BERT: tokens see their whole segment, behind the memory tokens.
        dim_head: width of an attention head.
        heads: attention heads; `heads * dim_head` needn't be `dim`.
        ff_mult: hidden width of the feed-forward net / `dim`.
        dropout: on each residual branch.
        memory: `tokens` (RMT, arXiv 2207.06881), `titans_mac`, `titans_mag` or `titans_mal` (Titans, 2501.00663),
            `armt` (2407.04841), `none`, or a name that a file or package adds, see `rmt_rl.nn.token_core`.
        valve: joins old and new memory tokens, see `rmt_rl.memory.valve`; RMT has `none`.
        use_flash_attn: use flash-attn's kernel if it's installed, else PyTorch's fused ones.
        rotary_pos_emb: rotary positions (RoFormer, arXiv 2104.09864).
        abs_pos_emb: add learned positions in the segment to tokens.
        ff_glu: gated feed-forward nets (GEGLU, arXiv 2002.05202) with as many parameters.
        token_shift: a layer sees half of the token before (RWKV, arXiv 2305.13048).
        value_residual: layers attend to the first layer's values too (ResFormer, arXiv 2410.17897).
        num_residual_streams: more than 1: hyper-connections (arXiv 2409.19606).
        use_xl_memories: each layer keeps a cache of the tokens before the segment (Transformer-XL, arXiv 1901.02860).
        xl_mem_len: X, places of a cache; the segment's written memory tokens take M of them. Unset = `seq_len`.
        enhanced_xl_recurrence: the cache is of the layer above (ERNIE-Doc, arXiv 2012.15688).
        ignore_index: the label that counts in no loss.

    Raises:
        UsageError: an option has a value that can't be, or options don't go together.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_tokens: int,
        depth: int,
        num_memory_tokens: int,
        seq_len: int,
        causal: bool = True,
        dim_head: int = 64,
        heads: int = 8,
        ff_mult: float = 4,
        dropout: float = 0.0,
        memory: str = "tokens",
        valve: ValveName = "none",
        use_flash_attn: bool = False,
        rotary_pos_emb: bool = True,
        abs_pos_emb: bool = False,
        ff_glu: bool = False,
        token_shift: bool = False,
        value_residual: bool = False,
        num_residual_streams: int = 1,
        use_xl_memories: bool = False,
        xl_mem_len: int | None = None,
        enhanced_xl_recurrence: bool = False,
        ignore_index: int = -1,
    ) -> None:
        super().__init__()
        check_sizes(dim=dim, num_tokens=num_tokens, depth=depth, seq_len=seq_len)
        check_sizes(dim_head=dim_head, heads=heads, num_residual_streams=num_residual_streams)
        check_sizes(least=0, num_memory_tokens=num_memory_tokens)
        config = decoder_config(
            dim, depth, heads, dim_head, ff_mult, ff_glu, dropout, rotary=rotary_pos_emb, flash=use_flash_attn
        )
        layers = Layers(
            config,
            seq_len,
            num_memory_tokens,
            causal,
            valve,
            token_shift=token_shift,
            value_residual=value_residual,
            streams=num_residual_streams,
        )
        xl = XLOptions(use_xl_memories, xl_mem_len, enhanced_xl_recurrence)
        self.dim, self.seq_len, self.causal, self.ignore_index = dim, seq_len, causal, ignore_index
        self.num_tokens, self.has_xl_memories = num_tokens, use_xl_memories
        self.embed = nn.Embedding(num_tokens, dim)
        self.positions = nn.Embedding(seq_len, dim) if abs_pos_emb else None
        self.core = build_core(memory, layers, xl, abs_pos_emb)
        self.head = nn.Linear(dim, num_tokens)

    def forward(
        self,
        x: Tensor,
        read_memories: Memories | None = None,
        *,
        mask: Tensor | None = None,
        labels: Tensor | None = None,
        xl_memories: Sequence[Tensor] | None = None,
        return_embeddings: bool = False,
    ) -> Output:
        """Run a segment of at most `seq_len` tokens.

        Args:
            x: ids, int64 (B, L), or embeddings, floats (B, L, D).
            read_memories: the memories that the call before returned; None begins anew.
            mask: bool (B, L), True for real tokens, which may stand anywhere. Other tokens change nothing, and their
                outputs are arbitrary. A sequence without a real token in this segment keeps its memories.
            labels: int64 (B, L), the id to predict at each place. If given, return the loss: the mean over labels that
                count.
            xl_memories: the XL memories that the call before returned. A plain list is taken as full, see `XLMemories`.
            return_embeddings: return (B, L, D), the head's inputs, in place of logits.

        Raises:
            UsageError: shapes don't fit, or ids or labels aren't in the vocabulary.
        """
        self.check_tokens(x)
        labels = None if labels is None else self.masked_labels(x, labels, mask)
        y_BLD, state = self.run(x, self.state(x.shape[0], read_memories, xl_memories), mask)
        if labels is not None:
            return self.output(self.loss(y_BLD, labels) / self.counted(labels), state)
        return self.output(y_BLD if return_embeddings else self.head(y_BLD), state)

    def run(self, x: Tensor, state: Tree, mask: Tensor | None = None) -> tuple[Tensor, Tree]:
        """Return embeddings (B, L, D) and the next state, given the core's state; see `forward`. Ids aren't checked.

        Raises:
            UsageError: x has more tokens than a segment, or the mask doesn't fit.
        """
        if x.shape[1] > self.seq_len:
            raise UsageError(
                f"x has {x.shape[1]} tokens, more than seq_len={self.seq_len}: cut it into segments, or let "
                "RecurrentMemoryTransformerWrapper do so"
            )
        if mask is None:
            return cast("tuple[Tensor, Tree]", self.core(self.embedded(x), state))
        check_mask(mask, x)
        order = real_tokens_first(mask)
        y_BLD, following = self.core(self.embedded(take_tokens(x, order)), state, mask.sum(1))
        return take_tokens(y_BLD, order.argsort(dim=1)), where_lanes(mask.any(1), following, state)

    def embedded(self, x: Tensor, first_B: Tensor | None = None) -> Tensor:
        """Return ids or embeddings as tokens (B, T, D); the first stand at places `first_B` of their segments, or 0."""
        x_BTD: Tensor = x.to(self.embed.weight.dtype) if x.is_floating_point() else self.embed(x)
        if self.positions is not None:
            count = x.shape[1]
            weight = self.positions.weight
            x_BTD = x_BTD + (weight[:count] if first_B is None else weight[consecutive_places(first_B, count)])
        return x_BTD

    # Losses

    def loss(self, y_BLD: Tensor, labels_BL: Tensor) -> Tensor:
        """Return the sum of the cross entropies, in nats, of the labels that count."""
        logits = self.head(y_BLD).flatten(0, 1)
        return F.cross_entropy(logits, labels_BL.flatten(), ignore_index=self.ignore_index, reduction="sum")

    def counted(self, labels: Tensor) -> Tensor:
        """Return the number of labels that count, at least 1."""
        return (labels != self.ignore_index).sum().clamp(min=1)

    def masked_labels(self, x: Tensor, labels: Tensor, mask: Tensor | None) -> Tensor:
        """Return the labels of x, with `ignore_index` for tokens that aren't real.

        Raises:
            UsageError: there isn't one label for each token, there is no token, or a label isn't in the vocabulary.
        """
        check_labels(labels, x)
        name = f"labels but for ignore_index={self.ignore_index}"
        check_ids(name, labels[labels != self.ignore_index], self.num_tokens)
        if mask is None:
            return labels
        check_mask(mask, x)
        return labels.masked_fill(~mask, self.ignore_index)

    def check_tokens(self, x: Tensor) -> None:
        """Raise UsageError unless x is ids in the vocabulary, or embeddings."""
        check_tokens(x, self.dim, self.num_tokens)

    # The core's state, and the form in which callers hold it

    def initial_state(self, batch_size: int) -> Tree:
        """Return the core's state before the first segment."""
        return cast("Tree", self.core.initial_state(batch_size))

    def init_memory(self, batch: int) -> Memories:
        """Return the learned memories before the first segment."""
        return caller_state(self.initial_state(batch), self.has_xl_memories)[0]

    def state(self, batch_size: int, memories: Memories | None, xl_memories: Sequence[Tensor] | None) -> Tree:
        """Return the core's state that callers hold as memories and XL memories; None of them begins anew.

        Raises:
            UsageError: they come from another model, or from another number of sequences.
        """
        return core_state(self.initial_state(batch_size), self.has_xl_memories, memories, xl_memories)

    def output(self, output: Tensor, state: Tree) -> Output:
        """Return a call's result, with the core's state in the form that callers hold."""
        return Output(output, *caller_state(state, self.has_xl_memories))


def real_tokens_first(mask: Tensor) -> Tensor:
    """Return an order of places, int64 (B, L), that puts the real tokens of a bool mask first and keeps their order."""
    return (~mask).to(torch.uint8).argsort(dim=1, stable=True)
