"""A recurrent memory transformer on token ids: a face on `SegmentRecurrent` for language-like sequences.

`RecurrentMemoryTransformer` runs one segment, `RecurrentMemoryTransformerWrapper` a sequence of any length. Memories
are values: what a call returns is what the next one takes.

Dimensions: B lanes, L tokens of a segment, N tokens of a sequence, T tokens of a step call, M memory tokens, D width,
V vocabulary, X tokens of an XL cache, HE width of all heads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple, TypedDict, Unpack, cast, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmt_rl import backprop
from rmt_rl.config import validated
from rmt_rl.errors import UsageError
from rmt_rl.language.cores import (
    CORES,
    Core,
    Layers,
    MemoryName,
    check_sizes,
    check_together,
    filled,
    parts_of,
    taken,
)
from rmt_rl.memory.encoder_tokens import EncoderLayer
from rmt_rl.memory.transformer_xl import Hidden, RecurrenceName, TransformerXLLayer
from rmt_rl.memory.valve import ValveName
from rmt_rl.nn.decoder import DecoderConfig, DecoderLayer
from rmt_rl.recurrence import Tree, clone, detach, take_tokens, tree_leaves, tree_map, where_lanes

Memories = Tensor | tuple[Tensor, ...]


class Output(NamedTuple):
    """What a call returns.

    Attributes:
        output: logits (B, L, V), or embeddings (B, L, D), or the loss (a scalar), or new tokens, as was asked for.
        memories: what the next call takes: memory tokens (B, M, D); of other memories a tuple of tensors.
        xl_memories: keys and values of the last X tokens, (2, B, X, HE) a layer, the oldest first; places behind the
            real ones are zero, so a token whose keys and values are zero in every layer isn't told from those. None
            where there are no caches.
    """

    output: Tensor
    memories: Memories
    xl_memories: list[Tensor] | None


class RecurrentMemoryTransformer(nn.Module):
    """One segment at a time, with a memory that goes from segment to segment.

    Args:
        dim: D, the width of a token.
        num_tokens: V, the size of the vocabulary.
        depth: layers.
        num_memory_tokens: M; with a Titans memory, the number of persistent tokens.
        seq_len: the most tokens of a segment.
        causal: False makes an encoder like BERT: tokens see their whole segment, and memory stands before it only.
        dim_head, heads: attention heads; their product needn't be dim.
        ff_mult: hidden width of the feed-forward net / dim.
        dropout: on each residual branch.
        memory: `tokens` (RMT, arXiv 2207.06881), a Titans memory (2501.00663), `armt` (2407.04841), or `none`.
        valve: how old and new memory tokens are joined, see `rmt_rl.memory.valve`; `none` is RMT.
        use_flash_attn: flash-attn's kernel, where it's installed; PyTorch's fused ones elsewhere.
        rotary_pos_emb: rotary positions (RoFormer, arXiv 2104.09864).
        abs_pos_emb: learned positions in the segment are added to tokens.
        ff_glu: gated feed-forward nets (GEGLU, arXiv 2002.05202) with as many parameters.
        token_shift: a layer sees half of the token before (RWKV, arXiv 2305.13048).
        value_residual: layers attend to the first layer's values too (ResFormer, arXiv 2410.17897).
        num_residual_streams: more than 1: hyper-connections (arXiv 2409.19606).
        use_xl_memories: a cache of the tokens before the segment in each layer (Transformer-XL, arXiv 1901.02860).
        xl_mem_len: X, of which the segment's written memory tokens are M; unset = seq_len.
        enhanced_xl_recurrence: the cache is of the layer above (ERNIE-Doc, arXiv 2012.15688).
        ignore_index: the label that no loss counts.

    Raises:
        UsageError: options that don't go together.
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
        memory: MemoryName = "tokens",
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
        if not ff_mult > 0:
            raise UsageError(f"ff_mult={ff_mult} must be above 0")
        if rotary_pos_emb and dim_head % 2:
            raise UsageError(f"dim_head={dim_head} must be even for rotary positions, or rotary_pos_emb=False")
        self.dim, self.seq_len, self.causal, self.ignore_index = dim, seq_len, causal, ignore_index
        sizes: dict[str, Any] = {
            "layers": depth,
            "width": dim,
            "heads": heads,
            "head_width": dim_head,
            "hidden": round(ff_mult * dim * (2 / 3 if ff_glu else 1)),
            "feed_forward": "geglu" if ff_glu else "gelu",
            "rotary": rotary_pos_emb,
            "dropout": dropout,
            "attention": "flash" if use_flash_attn and find_spec("flash_attn") else "sdpa",
        }
        config = validated(DecoderConfig, sizes)
        layer: Callable[[DecoderConfig], Core] = DecoderLayer if causal else EncoderLayer
        if use_xl_memories:
            recurrence: RecurrenceName = "enhanced" if enhanced_xl_recurrence else "ordinary"
            cached = seq_len if xl_mem_len is None else xl_mem_len
            check_sizes(xl_mem_len=cached)
            if cached <= (written := num_memory_tokens if memory == "tokens" else 0):
                raise UsageError(
                    f"xl_mem_len={cached} has no room for text: it must be above {written}, the memory tokens written"
                )
            layer = partial(TransformerXLLayer, cached=cached, cache="keys_values", recurrence=recurrence)
        layers = Layers(
            config,
            seq_len,
            num_memory_tokens,
            causal,
            valve,
            token_shift=token_shift,
            value_residual=value_residual,
            streams=num_residual_streams,
            layer=layer,
        )
        unused = not use_xl_memories and (xl_mem_len is not None or enhanced_xl_recurrence)
        check_together(memory, layers, xl=use_xl_memories, unused_xl=unused, absolute=abs_pos_emb)
        self.embed = nn.Embedding(num_tokens, dim)
        self.positions = nn.Embedding(seq_len, dim) if abs_pos_emb else None
        self.core = CORES[memory](layers)
        self.head = nn.Linear(dim, num_tokens)

    def forward(
        self,
        x: Tensor,
        read_memories: Memories | None = None,
        *,
        mask: Tensor | None = None,
        labels: Tensor | None = None,
        xl_memories: list[Tensor] | None = None,
        return_embeddings: bool = False,
    ) -> Output:
        """Run a segment of at most `seq_len` tokens.

        Args:
            x: ids, int64 (B, L), or embeddings, floats (B, L, D).
            read_memories: what the call before returned; None begins anew.
            mask: bool (B, L), which tokens are real, anywhere; others change nothing, and their outputs are arbitrary.
                A sequence that has none in this segment keeps its memories.
            labels: int64 (B, L), what each place shall predict: the loss is returned, a mean over labels that count.
            xl_memories: what the call before returned.
            return_embeddings: return (B, L, D), what the head makes logits of.

        Raises:
            UsageError: shapes that don't fit, ids or labels that aren't of the vocabulary.
        """
        self.check_tokens(x)
        labels = None if labels is None else self.real_labels(x, labels, mask)
        y_BLD, state = self.run(x, self.state(len(x), read_memories, xl_memories), mask)
        if labels is not None:
            return self.output(self.loss(y_BLD, labels) / self.counted(labels), state)
        return self.output(y_BLD if return_embeddings else self.head(y_BLD), state)

    def run(self, x: Tensor, state: Tree, mask: Tensor | None = None) -> tuple[Tensor, Tree]:
        """Embeddings (B, L, D) and the next state, by the state of `SegmentRecurrent`; see `forward`.

        Raises:
            UsageError: more tokens than a segment has, or a mask that doesn't fit; `check_tokens` is left to callers.
        """
        if x.shape[1] > self.seq_len:
            raise UsageError(
                f"x has {x.shape[1]} tokens, more than seq_len={self.seq_len}: cut it into segments, or let "
                "RecurrentMemoryTransformerWrapper do so"
            )
        if mask is None:
            return cast("tuple[Tensor, Tree]", self.core(self.embedded(x), state))
        check_mask(mask, x)
        order = (~mask).to(torch.uint8).argsort(dim=1, stable=True)  # real tokens first
        y_BLD, following = self.core(self.embedded(take_tokens(x, order)), state, mask.sum(1))
        return take_tokens(y_BLD, order.argsort(dim=1)), where_lanes(mask.any(1), following, state)

    def embedded(self, x: Tensor, first: int = 0) -> Tensor:
        """Ids or embeddings as tokens (B, T, D), of which the first stands at this place of its segment."""
        x_BTD: Tensor = x.to(self.embed.weight.dtype) if x.is_floating_point() else self.embed(x)
        if self.positions is not None:
            x_BTD = x_BTD + self.positions.weight[first : first + x.shape[1]]
        return x_BTD

    def check_tokens(self, x: Tensor) -> None:
        """Raise an error unless x is ids of the vocabulary or embeddings."""
        ids = x.dim() == 2 and x.dtype == torch.int64
        if not ids and not (x.dim() == 3 and x.is_floating_point() and x.shape[2] == self.dim):
            raise UsageError(
                f"x is {x.dtype} of shape {tuple(x.shape)}: ids are int64 (B, L), embeddings floats "
                f"(B, L, dim={self.dim})"
            )
        if ids:
            self._check_words("x", x)

    def _check_words(self, name: str, ids: Tensor) -> None:
        words = self.embed.num_embeddings
        if torch.compiler.is_compiling():  # a graph can't branch on what ids are
            return
        if bool(((ids < 0) | (ids >= words)).any()):
            raise UsageError(
                f"{name} has ids from {int(ids.min())} to {int(ids.max())}: they must be from 0 to {words - 1}, as "
                f"num_tokens={words}"
            )

    def loss(self, y_BLD: Tensor, labels_BL: Tensor) -> Tensor:
        """The sum of the cross entropies, in nats, of those labels that count."""
        logits = self.head(y_BLD).flatten(0, 1)
        return F.cross_entropy(logits, labels_BL.flatten(), ignore_index=self.ignore_index, reduction="sum")

    def real_labels(self, x: Tensor, labels: Tensor, mask: Tensor | None) -> Tensor:
        """The labels of x, of which those that the mask leaves out count no more.

        Raises:
            UsageError: there isn't one label for each token, there is no token, or a label isn't of the vocabulary.
        """
        if labels.shape != x.shape[:2] or not labels.numel() or labels.dtype != torch.int64:
            raise UsageError(
                f"labels have shape {tuple(labels.shape)} and are {labels.dtype}, x has shape {tuple(x.shape)}: give "
                "each token a label of int64, and a token at least"
            )
        self._check_words(f"labels but for ignore_index={self.ignore_index}", labels[labels != self.ignore_index])
        if mask is None:
            return labels
        check_mask(mask, x)
        return labels.masked_fill(~mask, self.ignore_index)

    def counted(self, labels: Tensor) -> Tensor:
        """How many labels count, at least 1."""
        return (labels != self.ignore_index).sum().clamp(min=1)

    # What callers hold, and the core's state

    def initial_state(self, batch_size: int) -> Tree:
        """The state before the first segment."""
        return cast("Tree", self.core.initial_state(batch_size))

    def init_memory(self, batch: int) -> Memories:
        """The learned memory before the first segment."""
        return self.output(torch.zeros(()), self.initial_state(batch)).memories

    def state(self, batch_size: int, memories: Memories | None, xl_memories: list[Tensor] | None) -> Tree:
        """The core's state of what a call returned; what is None begins anew.

        Raises:
            UsageError: they aren't of such a model, or not of so many lanes.
        """
        begun = self.initial_state(batch_size)
        kept, caches = parts_of(begun)
        if memories is not None:
            kept = taken("memories", memories, kept)
        if isinstance(xl_memories, Tensor) or xl_memories:  # an empty list begins anew; a tensor is an error
            given = taken("xl_memories", xl_memories, self.output(torch.zeros(()), begun).xl_memories or [])
            tensors = [each.permute(1, 2, 0, 3).flatten(2) for each in given]
            counts = torch.stack([(tensor != 0).any(-1) for tensor in tensors]).any(0).sum(1)
            caches = [Hidden(tensor, counts) for tensor in tensors]
        return filled(begun, iter(kept), iter(caches))

    def output(self, output: Tensor, state: Tree) -> Output:
        """A call's result, with the core's state as callers hold it: the inverse of `state`."""
        kept, caches = parts_of(state)
        layers = [cache.hidden_BND.unflatten(2, (2, -1)).permute(2, 0, 1, 3) for cache in caches]
        memories = kept[0] if len(kept) == 1 else tuple(kept)
        return Output(output, memories, layers or None)


class Generation(TypedDict, total=False):
    """What `RecurrentMemoryTransformerWrapper.generate` takes besides; see there."""

    memories: Memories | None
    xl_memories: list[Tensor] | None
    temperature: float
    top_k: int | None
    generator: torch.Generator | None


class RecurrentMemoryTransformerWrapper(nn.Module):
    """Cuts sequences into segments: their loss, with full, truncated or replayed gradients, and generation.

    Args:
        transformer: the model.
        truncate_at_step: no gradient crosses more segments than that; None = all of them.
    """

    def __init__(self, transformer: RecurrentMemoryTransformer, truncate_at_step: int | None = None) -> None:
        super().__init__()
        self.transformer, self.truncate_at_step = transformer, checked_depth(truncate_at_step)

    def forward(
        self,
        x: Tensor,
        memories: Memories | None = None,
        *,
        mask: Tensor | None = None,
        labels: Tensor | None = None,
        xl_memories: list[Tensor] | None = None,
        return_loss: bool = False,
        truncate_at_step: int | None = None,
        memory_replay_backprop: bool = False,
        mrbp_loss_weight: float = 1.0,
        return_embeddings: bool = False,
        return_state: bool = False,
    ) -> Output | Tensor:
        """Run a sequence, a segment of `seq_len` tokens after the other.

        Args:
            x: ids, int64 (B, N), or embeddings, floats (B, N, D).
            memories: what a call before returned; None begins anew.
            mask: bool (B, N), which tokens are real, see `RecurrentMemoryTransformer.forward`. Segments are cut by
                place all the same: of sequences of different lengths pad the ends.
            xl_memories: what a call before returned.
            labels: int64 (B, N), what each place shall predict. Without them it's the next token's id, and the last
                token of x is a label only: begin the next call with it.
            return_loss: return the loss, a mean over labels that count. So it is where labels are given.
            truncate_at_step: see the class, for this call; blocks of segments are counted from the end.
            memory_replay_backprop: backpropagate here, in the memory of one segment (Memformer, arXiv 2010.06891), and
                return the loss without graph. The gradient is that without replay, full or truncated.
            mrbp_loss_weight: what the replayed loss is multiplied by, the one that is returned too.
            return_embeddings: return (B, N, D), what the head makes logits of, where no loss is asked for.
            return_state: return memories beside a loss too, cut off from the graph.

        Returns:
            `Output`, of logits (B, N, V), of embeddings or, with `return_state`, of the loss; else the loss alone.

        Raises:
            UsageError: what doesn't fit, no labels where none can be made, or replay where gradients are off.
        """
        model = self.transformer
        model.check_tokens(x)
        state = model.state(len(x), memories, xl_memories)
        depth = self.truncate_at_step if truncate_at_step is None else checked_depth(truncate_at_step)
        if memory_replay_backprop and not torch.is_grad_enabled():
            raise UsageError("memory_replay_backprop=True backpropagates, but gradients are off: give return_loss=True")
        if mask is not None:
            check_mask(mask, x)
        if labels is None and not (return_loss or memory_replay_backprop):
            return self._outputs(x, mask, state, depth, return_embeddings)
        if labels is None:
            x, labels, mask = self._next_tokens(x, mask)
        else:
            labels = model.real_labels(x, labels, mask)
        segments = -(-x.shape[1] // model.seq_len)
        if memory_replay_backprop:
            given = x, state
            x, state = tree_map(lambda leaf: leaf.detach().requires_grad_(leaf.requires_grad), given)
            cut = tree_leaves((x, state))
            step = self._step(x, labels, mask, mrbp_loss_weight)
            loss, state = backprop.replay(step, segments, state, Tensor.backward, depth)
            pairs = [pair for pair in zip(tree_leaves(given), cut, strict=True) if pair[1].grad is not None]
            if pairs:  # at once, as tokens and memories may be made by one graph
                torch.autograd.backward([leaf for leaf, _ in pairs], [like.grad for _, like in pairs])
        else:
            blocks: list[Tensor] = []
            step = self._step(x, labels, mask)
            _, state = backprop.truncated(step, segments, state, blocks.append, depth or segments)
            loss = torch.stack(blocks).sum()
        return model.output(loss, state) if return_state else loss

    def _outputs(self, x: Tensor, mask: Tensor | None, state: Tree, depth: int | None, embeddings: bool) -> Output:
        """The logits or embeddings of all segments."""
        model, outputs = self.transformer, []
        parts, masks = self._segments(x, mask)
        for start, stop in backprop.blocks(len(parts), depth or len(parts)):
            state = detach(state) if start else state
            for part, real in zip(parts[start:stop], masks[start:stop], strict=True):
                y_BLD, state = model.run(part, state, real)
                outputs.append(y_BLD if embeddings else model.head(y_BLD))
        return model.output(torch.cat(outputs, 1), state)

    def _segments(self, x: Tensor, mask: Tensor | None) -> tuple[list[Tensor], list[Tensor | None]]:
        parts = list(x.split(self.transformer.seq_len, 1))
        masks: list[Tensor | None] = [None] * len(parts)
        return parts, masks if mask is None else [*mask.split(self.transformer.seq_len, 1)]

    def _next_tokens(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Tokens, what comes after each, and which tokens are real."""
        if x.is_floating_point() or not self.transformer.causal or x.shape[1] < 2:
            raise UsageError(
                "labels are needed where they can't be the next tokens: of embeddings, of an encoder (causal=False), "
                "of a sequence of one token"
            )
        if mask is None:
            return x[:, :-1], x[:, 1:], None
        told = mask[:, 1:] & mask[:, :-1]  # by a real token
        return x[:, :-1], self.transformer.real_labels(x[:, :-1], x[:, 1:], told), mask[:, :-1]

    def _step(self, x: Tensor, labels: Tensor, mask: Tensor | None, weight: float = 1.0) -> backprop.Step[Tree]:
        """The loss of each segment, as its share of the mean times a weight, for `rmt_rl.backprop`."""
        model = self.transformer
        parts, masks = self._segments(x, mask)
        targets, counted = labels.split(model.seq_len, 1), model.counted(labels)

        def step(index: int, state: Tree) -> tuple[Tensor, Tree]:
            y_BLD, state = model.run(parts[index], state, masks[index])
            return model.loss(y_BLD, targets[index]) * weight / counted, state

        return step

    @overload
    def generate(
        self, prime: Tensor, *, length: int, return_state: Literal[False] = False, **how: Unpack[Generation]
    ) -> Tensor: ...

    @overload
    def generate(
        self, prime: Tensor, *, length: int, return_state: Literal[True], **how: Unpack[Generation]
    ) -> Output: ...

    @torch.no_grad()
    def generate(
        self,
        prime: Tensor,
        *,
        length: int,
        memories: Memories | None = None,
        xl_memories: list[Tensor] | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
        return_state: bool = False,
    ) -> Output | Tensor:
        """Go on with sequences, a token at a time, each from its segment's cached keys and values.

        Args:
            prime: ids, int64 (B, N >= 1), to go on from, or embeddings, floats (B, N, D).
            length: tokens of the whole, those of `prime` included.
            memories: of what came before `prime`.
            xl_memories: of what came before `prime`.
            temperature: divides logits; 0 takes the likeliest token.
            top_k: draw from so many of the likeliest tokens only; None = all.
            generator: of the random numbers.
            return_state: return memories too, as if the segment ended before the last token: begin the next call with
                that one. One longer call makes the same tokens only where that is a segment's end anyway.

        Returns:
            The new tokens, int64 (B, length - N); with `return_state`, `Output` of them.

        Raises:
            UsageError: an encoder, a `length` below N, a `top_k` below 1, or a `temperature` below 0.
        """
        model = self.transformer
        model.check_tokens(prime)
        if not model.causal or not 1 <= prime.shape[1] <= length:
            raise UsageError(
                f"can't generate {length} tokens with causal={model.causal} from {prime.shape[1]}: the model must be "
                "causal, and length at least that of prime, which has a token or more"
            )
        if top_k is not None and top_k < 1:
            raise UsageError(f"top_k={top_k} must be 1 or more, or None to draw from all tokens")
        if not temperature >= 0:
            raise UsageError(f"temperature={temperature} must be 0 or more; 0 takes the likeliest token")
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            state = model.state(len(prime), memories, xl_memories)
            stepping = _Stepping(model, state, len(prime))
            choose = partial(_chosen, temperature=temperature, top_k=top_k, generator=generator)
            stepping.feed(prime[:, :-1])
            last, new = prime[:, -1:], [prime.new_zeros(len(prime), 0, dtype=torch.long)]
            for _ in range(length - prime.shape[1]):
                last = choose(model.head(stepping.feed(last)[:, -1]))
                new.append(last)
            tokens = torch.cat(new, 1)
            return model.output(tokens, stepping.state()) if return_state else tokens
        finally:
            for module, training in modes:
                module.training = training


def checked_depth(truncate_at_step: int | None) -> int | None:
    """The same, if it is a number of segments or None."""
    if truncate_at_step is not None and not (isinstance(truncate_at_step, int) and truncate_at_step >= 1):
        raise UsageError(
            f"truncate_at_step={truncate_at_step} must be 1 or more segments, or None for the gradient of all"
        )
    return truncate_at_step


def check_mask(mask: Tensor, x: Tensor) -> None:
    """Raise an error unless the mask has a bool for each token."""
    if mask.shape != x.shape[:2] or mask.dtype != torch.bool:
        raise UsageError(
            f"mask is {mask.dtype} of shape {tuple(mask.shape)}, x has shape {tuple(x.shape)}: give each token a bool"
        )


class _Stepping:
    """A sequence fed a few tokens at a time, from segment to segment."""

    def __init__(self, model: RecurrentMemoryTransformer, state: Tree, lanes: int) -> None:
        self.model, self.lanes = model, lanes
        self._begin(state)

    def _begin(self, state: Tree) -> None:
        self.begun, self.place = state, 0
        self.cache = self.model.core.begin(state, self.lanes, self.model.seq_len)

    def feed(self, tokens: Tensor) -> Tensor:
        """Feed ids (B, T) or embeddings (B, T, D); the core's outputs of those in the last segment, none of none."""
        model, y_BTD = self.model, torch.empty(0)
        while tokens.shape[1]:
            if self.place == model.seq_len:
                self._begin(self.state())
            part, tokens = tokens.tensor_split([model.seq_len - self.place], 1)
            y_BTD, self.cache = model.core.step(model.embedded(part, self.place), self.cache)
            self.place += part.shape[1]
        return y_BTD

    def state(self) -> Tree:
        """The state after what was fed, as if its segment ended here."""
        return cast("Tree", self.model.core.end(self.cache)) if self.place else clone(detach(self.begun))


def _chosen(logits_BV: Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None) -> Tensor:
    """A token of each lane, (B, 1)."""
    if temperature == 0:
        return logits_BV.argmax(1, keepdim=True)
    if top_k is not None:
        least_B1 = logits_BV.topk(min(top_k, logits_BV.shape[1])).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < least_B1, -torch.inf)
    return (logits_BV / temperature).softmax(1).multinomial(1, generator=generator)
