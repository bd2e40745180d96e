"""Another image of the same layout: Prompt-to-Prompt (Hertz et al., 2022).

While the edited image is drawn from the original's noise, the original's UNet inputs are shown to the UNet once more,
step by step, and its attention is put in place of the edited image's own:

    cross-attention   P = w * (P_original @ source + P_own * own)     for the first steps
    self-attention    softmax(q_original k_original^T) v_own          for the first steps

One step's attention is all that is ever kept. Where an edit changes nothing, no pixel changes.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import Attention
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPTokenizer

from finetune.attention.layers import attention_layers, one_head, probabilities, prompt_rows
from finetune.attention.words import Word, find_words, prompt_words
from finetune.errors import InputError
from finetune.model.sampling import sample_images

WEIGHTS = (-10.0, 10.0)  # the paper's examples lie within -2..2
SELF_PIXELS = 32 * 32  # as in the authors' code: larger self-attention layers hold texture, not layout


@dataclass(frozen=True)
class Edit:
    """Two prompts and what the attention to the tokens of the second is made of."""

    original: str
    prompt: str
    source: Tensor  # fp32 [tokens, tokens]: column j takes token j's attention from the original's; 0: its own
    weights: Tensor  # fp32 [tokens]


def replacement(
    tokenizer: CLIPTokenizer, original: str, edited: str, weights: Mapping[str, float] | None = None
) -> Edit:
    """Each word takes the attention of the one in its place. Raises InputError unless there are equally many."""
    before, after = prompt_words(tokenizer, original), prompt_words(tokenizer, edited)
    if len(before) != len(after):
        raise InputError(
            f"the prompt has {len(before)} words and marks, the edited one {len(after)}; replace one by one or add"
        )
    return _edit(tokenizer, original, edited, list(zip(before, after, strict=True)), after, weights or {})


def refinement(
    tokenizer: CLIPTokenizer, original: str, edited: str, weights: Mapping[str, float] | None = None
) -> Edit:
    """Words that both prompts have, in their order, keep their attention; others find their own.

    Raises InputError if the prompts share no word.
    """
    before, after = prompt_words(tokenizer, original), prompt_words(tokenizer, edited)
    matcher = SequenceMatcher(None, [w.text.lower() for w in before], [w.text.lower() for w in after], autojunk=False)
    pairs = [
        (before[block.a + i], after[block.b + i]) for block in matcher.get_matching_blocks() for i in range(block.size)
    ]
    if not pairs:
        raise InputError("the edited prompt shares no word with the original, whose layout it is to keep")
    return _edit(tokenizer, original, edited, pairs, after, weights or {})


def reweighting(tokenizer: CLIPTokenizer, prompt: str, weights: Mapping[str, float]) -> Edit:
    """The same prompt, of which some words count for more or, with a weight under 1, for less."""
    return replacement(tokenizer, prompt, prompt, weights)


def _edit(
    tokenizer: CLIPTokenizer,
    original: str,
    edited: str,
    pairs: list[tuple[Word, Word]],
    words: list[Word],
    weights: Mapping[str, float],
) -> Edit:
    length = tokenizer.model_max_length
    source, factors = torch.zeros(length, length), torch.ones(length)
    for before, after in pairs:
        if before.text != after.text:
            find_words([before], before.text), find_words([after], after.text)
        if len(before.positions) == len(after.positions):
            source[before.positions, after.positions] = 1.0
        elif before.positions and after.positions:  # all pieces' attention, evenly over the new pieces
            source[torch.tensor(before.positions)[:, None], torch.tensor(after.positions)] = 1 / len(after.positions)
    ends = [1 + max(p for word in prompt_words(tokenizer, text) for p in word.positions) for text in (original, edited)]
    padding = length - max(ends)
    source[0, 0] = 1.0  # the start of the text
    source[range(ends[0], ends[0] + padding), range(ends[1], ends[1] + padding)] = 1.0  # its end, and what pads it
    for text, weight in weights.items():
        if not WEIGHTS[0] <= weight <= WEIGHTS[1]:
            raise InputError(
                f"the weight of {text!r} is {weight:g}; it must lie between {WEIGHTS[0]:g} and {WEIGHTS[1]:g}"
            )
        for word in find_words(words, text):
            factors[list(word.positions)] = weight
    return Edit(original, edited, source, factors)


@dataclass
class Drawing:
    """What the UNet was shown at each step of a drawing: a few hundred kilobytes a step."""

    inputs: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)


@contextmanager
def remember_drawing(pipeline: StableDiffusionPipeline) -> Iterator[Drawing]:
    """Remember one call of the pipeline, so that images of the same layout can be drawn after it."""
    drawing = Drawing()

    def remember(_unet: torch.nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        drawing.inputs.append((arguments, named))

    hook = pipeline.unet.register_forward_pre_hook(remember, with_kwargs=True)
    try:
        yield drawing
    finally:
        hook.remove()


@contextmanager
def edit_attention(
    pipeline: StableDiffusionPipeline, edit: Edit, original: Drawing, cross_share: float, self_share: float
) -> Iterator[None]:
    """Draw `edit.prompt` in one call of the pipeline inside this, all else being as it was for the original.

    The shares, 0..1, say for how many of the steps, from the first on, the original's attention is used: between
    image and text, and within the image. With both 0 the call draws what it would draw without an edit.
    Raises InputError, from the call, where it has other steps, sizes or numbers of images than the original.
    """
    for name, share in (("cross-attention", cross_share), ("self-attention", self_share)):
        if not 0 <= share <= 1:
            raise InputError(f"the share of steps with the original's {name} is {share:g}; it must lie between 0 and 1")
    steps = len(original.inputs)
    editor = _Editor(pipeline, edit, original, round(cross_share * steps), round(self_share * steps))
    with ExitStack() as hooks:
        # Before all other hooks, so that these see the pipeline's own use of the UNet only.
        before = pipeline.unet.register_forward_pre_hook(editor.begin_step, with_kwargs=True, prepend=True)
        hooks.callback(before.remove)
        for layer in attention_layers(pipeline.unet, cross=False):
            for projection in (layer.to_q, layer.to_k):
                hooks.callback(projection.register_forward_hook(editor.share_self).remove)
        for layer in attention_layers(pipeline.unet, cross=True):
            for projection in (layer.to_q, layer.to_k, layer.to_v):
                hooks.callback(projection.register_forward_hook(editor.keep_cross).remove)
            hooks.callback(layer.to_out[0].register_forward_pre_hook(editor.correct(layer)).remove)
        yield


class _Editor:
    def __init__(
        self, pipeline: StableDiffusionPipeline, edit: Edit, original: Drawing, cross_steps: int, self_steps: int
    ) -> None:
        device = pipeline.unet.device
        self.pipeline, self.original = pipeline, original
        self.cross_steps, self.self_steps = cross_steps, self_steps
        self.source, self.weights = edit.source.to(device), edit.weights.to(device)
        self.own = (self.source.sum(dim=0) == 0).float()
        self.step = -1
        self.replaying = False
        self.theirs: dict[torch.nn.Module, Tensor] = {}  # the original's projections in this step, by their layer
        self.ours: dict[torch.nn.Module, Tensor] = {}

    def begin_step(self, unet: torch.nn.Module, arguments: tuple[Any, ...], _named: dict[str, Any]) -> None:
        self.step += 1
        self._check(arguments[0])
        if self.step < max(self.cross_steps, self.self_steps):
            theirs, named = self.original.inputs[self.step]
            self.replaying = True
            unet.forward(*theirs, **named)
            self.replaying = False

    def _check(self, sample: Tensor) -> None:
        steps = len(self.original.inputs)
        if steps != self.pipeline.num_timesteps or self.step >= steps:
            raise InputError(f"the original was drawn in {steps} steps; draw the edited image once, in as many")
        shape = self.original.inputs[self.step][0][0].shape
        if sample.shape != shape:
            raise InputError(
                f"the UNet saw {tuple(shape)} for the original and {tuple(sample.shape)} now; "
                "edit with the original's size, number of images and guidance"
            )

    def share_self(self, module: torch.nn.Module, _arguments: tuple[Any, ...], projected: Tensor) -> Tensor | None:
        """The original's queries and keys: its attention probabilities, without ever computing them."""
        if self.step >= self.self_steps or projected.shape[1] > SELF_PIXELS:
            return None
        rows = prompt_rows(self.pipeline, projected)
        if self.replaying:
            self.theirs[module] = rows
            return None
        return torch.cat([projected[: -len(rows)], self.theirs[module]])

    def keep_cross(self, module: torch.nn.Module, _arguments: tuple[Any, ...], projected: Tensor) -> None:
        if self.step < self.cross_steps:
            (self.theirs if self.replaying else self.ours)[module] = prompt_rows(self.pipeline, projected)

    def correct(self, layer: Attention) -> Callable[[torch.nn.Module, tuple[Any, ...]], Tensor | None]:
        def correct_output(_module: torch.nn.Module, arguments: tuple[Any, ...]) -> Tensor | None:
            """Add (P_edited - P_own) v, exactly 0 where the edit changes nothing, to what the pipeline computed."""
            if self.replaying or self.step >= self.cross_steps:
                return None
            attended = arguments[0]  # [rows, pixels, channels]
            rows = prompt_rows(self.pipeline, attended)
            corrections = [self._correction(layer, head) for head in range(layer.heads)]
            corrected = (rows.float() + torch.cat(corrections, dim=-1)).to(rows.dtype)
            return torch.cat([attended[: -len(rows)], corrected])

        return correct_output

    def _correction(self, layer: Attention, head: int) -> Tensor:
        theirs = probabilities(layer, head, self.theirs[layer.to_q], self.theirs[layer.to_k])
        own = probabilities(layer, head, self.ours[layer.to_q], self.ours[layer.to_k])
        with torch.autocast(own.device.type, enabled=False):
            edited = self.weights * (theirs @ self.source + own * self.own)
            return (edited - own) @ one_head(layer, head, self.ours[layer.to_v])


def edited_images(
    pipeline: StableDiffusionPipeline,
    edit: Edit,
    seed: int,
    num_inference_steps: int,
    guidance_scale: float,
    cross_share: float,
    self_share: float,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The original, as `sample_images` draws it, and the edited image, RGB `uint8 [height, width, 3]`."""

    def draw(prompt: str) -> NDArray[np.uint8]:
        return next(sample_images(pipeline, [prompt], [seed], num_inference_steps, guidance_scale, batch_size=1))

    with remember_drawing(pipeline) as drawing:
        original = draw(edit.original)
    with edit_attention(pipeline, edit, drawing, cross_share, self_share):
        return original, draw(edit.prompt)
