# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # The Transformer, from the formula up
#
# The Transformer (Vaswani et al. 2017) is built here from its first equation, in plain PyTorch, one piece after the
# other. After each piece we hand the same weights to the layer that etude trains with and check that both compute the
# same numbers. etude's layers are written for speed. Your five lines are written to be understood. They must not
# differ.
#
# Letters, here and in etude's sources: `B` rows of a batch, `L` positions, `S` source positions, `T` target
# positions, `D` width of the model, `H` heads, `K = D / H` width of a head.

# %%
import math
from functools import partial

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from etude.models.layers.attention import SelfAttention, attend, attention_weights
from etude.models.layers.encoder_layer import EncoderLayer
from etude.models.layers.feed_forward import FeedForward
from etude.models.layers.positions import sinusoids
from etude.models.layers.residual import PreNorm
from etude.models.layers.unpad import Unpadding
from etude.models.seq2seq import Seq2Seq
from etude.types import Facts

torch.manual_seed(1)
torch.set_grad_enabled(False)
B, L, D, H = 2, 6, 32, 4

# %% [markdown]
# ## Attention
#
# A token asks a question (its *query*). Every token offers an answer (its *value*) under a heading (its *key*). The
# scalar product of query and key says how well they fit. Softmax turns these scores into weights that sum to 1, and
# the result is the weighted mean of the values:
#
# $$\mathrm{Attention}(Q, K, V) = \mathrm{softmax}\!\left(\frac{Q K^\top}{\sqrt{d_k}}\right) V \tag{1}$$
#
# The root keeps the scores at the same scale however wide the vectors are. Without it, softmax would put nearly all
# weight on one key, and hardly any gradient would come back.


# %%
def attention(query, key, value, mask=None):
    scores = query @ key.mT / math.sqrt(query.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return scores.softmax(dim=-1) @ value


query, key, value = torch.randn(3, B, H, L, D // H)
assert_close(attention(query, key, value), attend(query, key, value))

# %% [markdown]
# ## Masks
#
# The sentences of a batch are of different lengths, so the shorter ones are padded. Nothing may attend to padding.
# And a decoder, which learns to say the next token, may not look at the tokens that it is about to say. Both are
# masks: `True` where a query may look. A masked score becomes −∞, and its weight 0.

# %%
lengths = torch.tensor([6, 4])
real = torch.arange(L) < lengths[:, None]  # [B, L]: True at real tokens
padding = real[:, None, None, :]  # [B, 1, 1, L]: the same keys for every head and query
causal = torch.ones(L, L, dtype=torch.bool).tril()  # [L, L]: key j is not after query i

figure, axes = plt.subplots(1, 3, figsize=(9, 2.6), layout="constrained")
for axis, (title, mask) in zip(
    axes,
    {"padding": padding.expand(B, 1, L, L), "causal": causal.expand(B, 1, L, L), "both": padding & causal}.items(),
    strict=True,
):
    axis.imshow(attention_weights(query, key, mask)[1, 0], cmap="Blues", vmin=0, vmax=1)
    axis.set(title=title, xlabel="key", ylabel="query")

# %% [markdown]
# The pictures show the weights of one head for the second sentence, which has four tokens and two cells of padding.
# The last two columns stay white under the padding mask, and everything above the diagonal under the causal one. Each
# row still sums to 1.

# %%
assert_close(attention(query, key, value, padding), attend(query, key, value, padding))
assert_close(attention(query, key, value, padding & causal), attend(query, key, value, padding, causal=True))
assert_close(attention_weights(query, key, padding & causal).sum(dim=-1), torch.ones(B, H, L))

# %% [markdown]
# ## Several heads
#
# One weighted mean per token is not much. A verb may have to find its subject and its object at once. So the width is
# cut into `H` heads, each with queries, keys and values of its own. They attend independently, and a linear layer
# mixes their outputs.
#
# etude computes query, key and value by one matrix product. The formula below takes its weights.


# %%
def multi_head(layer, x, mask=None):
    query, key, value = layer.query_key_value(x).unflatten(-1, (3, H, D // H)).permute(2, 0, 3, 1, 4)
    heads = attention(query, key, value, mask)  # [B, H, L, K]
    return layer.output(heads.transpose(1, 2).flatten(2))  # heads side by side: [B, L, D]


x = torch.randn(B, L, D)
layer = SelfAttention(width=D, heads=H)
layout = Unpadding.from_mask(real)
assert_close(multi_head(layer, x, padding)[real], layer(layout.unpad(x), layout))

# %% [markdown]
# The only difference in use is `Unpadding`. etude's layers work on the real tokens alone, `[N, D]` in place of `[B,
# L, D]`, since work on padding is wasted. `layout` remembers where each token stands.
#
# ## Positions
#
# Equation 1 does not know where a token stands. Shuffle the keys and values together, and the result is the same. The
# order of words must therefore be in the vectors. The paper adds sines and cosines whose wavelengths grow from 2π to
# 10,000 · 2π:
#
# $$PE_{(p, 2i)} = \sin(p / 10000^{2i / D}), \qquad PE_{(p, 2i + 1)} = \cos(p / 10000^{2i / D})$$

# %%
order = torch.randperm(L)
assert_close(attention(query, key[:, :, order], value[:, :, order]), attention(query, key, value))


def sinusoidal(length, width):
    angles = torch.arange(length)[:, None] / 10_000 ** (torch.arange(0, width, 2) / width)
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)


assert_close(sinusoidal(100, 64), sinusoids(64, 100), rtol=1e-5, atol=1e-5)

# %%
table = sinusoidal(100, 64)
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
image = left.imshow(table.T, cmap="RdBu", aspect="auto")
left.set(title="The vector of each position", xlabel="position", ylabel="element")
figure.colorbar(image, ax=left)
for position in (20, 50, 80):
    right.plot(table @ table[position], label=f"with position {position}")
right.set(title="Scalar product of two positions", xlabel="position", ylim=(10, 48))
right.legend();

# %% [markdown]
# On the left, fast waves at the top and slow ones at the bottom, like the digits of a number. On the right, the
# reason why it works: two positions have a large product if they are near each other, wherever they stand.
#
# ## Feed-forward, residual, norm
#
# Attention moves information between tokens. The feed-forward layer works on each token by itself (equation 2):
#
# $$\mathrm{FFN}(x) = \max(0, x W_1 + b_1) W_2 + b_2 \tag{2}$$
#
# Around each of them stands a *residual connection*: the input is added to the output, so that a layer learns a
# change, and the gradient has a straight way down. A *norm* brings every vector to mean 0 and variance 1. The paper
# takes the norm after the sum (post-norm). Before the layer (pre-norm, etude's default) it trains more easily.


# %%
def feed_forward(layer, x):
    return layer.outer(layer.inner(x).clamp(min=0))


def norm(layer, x):
    centred = x - x.mean(dim=-1, keepdim=True)
    scaled = centred / (centred.square().mean(dim=-1, keepdim=True) + layer.eps).sqrt()
    return scaled * layer.weight + layer.bias


def encoder_layer(layer, x, mask):
    x = x + multi_head(layer.attention, norm(layer.attention_residual.norm, x), mask)
    return x + feed_forward(layer.feed_forward, norm(layer.feed_forward_residual.norm, x))


theirs = EncoderLayer(
    attention=partial(SelfAttention, D, H),
    feed_forward=partial(FeedForward, D, 4 * D, dropout=0.0),
    residual=partial(PreNorm, D, dropout=0.0),
)
assert_close(encoder_layer(theirs, x, padding)[real], theirs(layout.unpad(x), layout))

# %% [markdown]
# ## Encoder and decoder
#
# The *encoder* is a stack of these layers over the source. The *decoder* reads the target so far. Its self-attention
# is causal, and between self-attention and feed-forward it has a *cross-attention*: queries from the target, keys and
# values from the encoder's output. That is where a translation looks at its source.
#
# The whole model, in the shape that everybody knows:


# %%
def forward(model, src, tgt, src_mask, tgt_mask):
    """Return logits [B, T, V]: at each target position, the scores of the next token."""
    keys, before = src_mask[:, None, None, :], torch.ones(tgt.shape[1], tgt.shape[1], dtype=torch.bool).tril()

    x = embed(model, src)
    for layer in model.encoder:
        x = encoder_layer(layer, x, keys)
    memory = norm(model.encoder_norm, x)

    y = embed(model, tgt)
    for number, layer in enumerate(model.decoder):
        y = y + multi_head(layer.self_attention, norm(layer.self_residual.norm, y), tgt_mask[:, None, None, :] & before)
        y = y + cross(model, number, norm(layer.cross_residual.norm, y), memory, keys)
        y = y + feed_forward(layer.feed_forward, norm(layer.feed_forward_residual.norm, y))
    return norm(model.decoder_norm, y) @ model.embedding.weight.T  # the embeddings again: one matrix, used twice


def embed(model, tokens):
    return model.embedding.weight[tokens] * math.sqrt(D) + sinusoidal(tokens.shape[1], D)


def cross(model, number, y, memory, mask):
    layer = model.decoder[number].cross_attention
    query = layer.query(y).unflatten(-1, (H, D // H)).transpose(1, 2)
    # etude projects the memory once for all layers of the decoder; this layer's keys and values are two slices of it.
    projected = model.memory(memory).unflatten(-1, (len(model.decoder), 2, H, D // H))[:, :, number]
    key, value = projected.permute(2, 0, 3, 1, 4)
    return layer.output(attention(query, key, value, mask).transpose(1, 2).flatten(2))


# %%
facts = Facts(vocabulary=50, pad=0, bos=1, eos=2)
model = Seq2Seq(
    facts, width=D, heads=H, encoder_layers=2, decoder_layers=2, feed_forward=4 * D, dropout=0.0, max_length=64
)

S, T = 7, 5
src, tgt = torch.randint(3, 50, (B, S)), torch.randint(3, 50, (B, T))
src_mask = torch.arange(S) < torch.tensor([[7], [4]])
tgt_mask = torch.arange(T) < torch.tensor([[3], [5]])

logits = forward(model, src, tgt, src_mask, tgt_mask)
assert_close(logits[tgt_mask], model(src, tgt, src_mask, tgt_mask)[tgt_mask], rtol=1e-5, atol=1e-5)
logits.shape

# %% [markdown]
# ## The causal mask at work
#
# The logits at a position may depend on the tokens up to it and on nothing after it. Change the fourth target token
# and see where the logits move.

# %%
changed = tgt.clone()
changed[1, 3] = (tgt[1, 3] + 1) % 50
moved = (forward(model, src, changed, src_mask, tgt_mask) - logits).abs().amax(dim=-1)[1]
["moved" if change > 1e-6 else "as before" for change in moved]

# %% [markdown]
# This is why a decoder can be trained on all positions of a sentence at once, and why it can keep the keys and values
# of what it has said already.
#
# ## From logits to a loss
#
# Training lowers the cross-entropy of the next token, summed over all real target tokens and divided by their number.
# New weights know nothing. Their loss is no better than a guess among all tokens, whose loss is the logarithm of the
# vocabulary's size.

# %%
inputs, labels = tgt[:, :-1], tgt[:, 1:]
known = tgt_mask[:, 1:]
logits = forward(model, src, inputs, src_mask, tgt_mask[:, :-1])
loss = F.cross_entropy(logits[known], labels[known], reduction="sum") / known.sum()
round(loss.item(), 3), round(math.log(50), 3)

# %% [markdown]
# That is the whole model. `src/etude/models/seq2seq.py` is the same, with caches for decoding and with parts that can
# be swapped: rotary positions, RMSNorm, gated feed-forward layers. Next, train one: [a first
# experiment](first_experiment.ipynb).
