"""Edit the prompt of an image and keep its layout: Prompt-to-Prompt (Hertz et al., 2022).

The edited image starts from the original's noise. At each step, the original's UNet inputs are replayed, and its
attention replaces that of the edited image:

    cross-attention   P = w * (P_original @ source + P_edited * own)   for the first `cross_share` of the steps
    self-attention    softmax(q_original k_original^T) v_edited        for the first `self_share` of the steps

Memory holds the attention of one step. An edit that changes nothing leaves every pixel unchanged.
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

WEIGHTS = (-10.0, 10.0)  # allowed range; the paper's examples use -2..2
SELF_PIXELS = 32 * 32  # as in the authors' code: larger self-attention layers encode texture, not layout


@dataclass(frozen=True)
class Edit:
    """Two prompts, and how the attention to the tokens of the second is computed."""

    original: str
    prompt: str
    source: Tensor  # fp32 [tokens, tokens]: column j mixes the original's attention for token j; all 0: its own
    weights: Tensor  # fp32 [tokens], factors of the attention


def replacement(
    tokenizer: CLIPTokenizer, original: str, edited: str, weights: Mapping[str, float] | None = None
) -> Edit:
    """Replace words one by one: each takes the attention of the word in the same place.

    weights: word of the edited prompt -> factor of its attention. Raises InputError if the numbers of words differ.
    """
    before, after = prompt_words(tokenizer, original), prompt_words(tokenizer, edited)
    if len(before) != len(after):
        raise InputError(
            f"the prompt has {len(before)} words and marks, the edited prompt {len(after)}; replace words one for one, "
            "or keep all and add some"
        )
    return _edit(tokenizer, original, edited, list(zip(before, after, strict=True)), after, weights or {})


def refinement(
    tokenizer: CLIPTokenizer, original: str, edited: str, weights: Mapping[str, float] | None = None
) -> Edit:
    """Add or remove words: words in both prompts keep the original's attention, new words get their own.

    weights: as for `replacement`. Raises InputError if the prompts share no word.
    """
    before, after = prompt_words(tokenizer, original), prompt_words(tokenizer, edited)
    matcher = SequenceMatcher(None, [w.text.lower() for w in before], [w.text.lower() for w in after], autojunk=False)
    pairs = [
        (before[block.a + i], after[block.b + i]) for block in matcher.get_matching_blocks() for i in range(block.size)
    ]
    if not pairs:
        raise InputError("the edited prompt shares no word with the original; keep at least one")
    return _edit(tokenizer, original, edited, pairs, after, weights or {})


def reweighting(tokenizer: CLIPTokenizer, prompt: str, weights: Mapping[str, float]) -> Edit:
    """Keep the prompt, and multiply the attention to some words. weights: word -> factor."""
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
            find_words([before], before.text), find_words([after], after.text)  # raise if beyond the last token
        if len(before.positions) == len(after.positions):
            source[before.positions, after.positions] = 1.0
        elif before.positions and after.positions:  # the sum over the old tokens, split evenly
            source[torch.tensor(before.positions)[:, None], torch.tensor(after.positions)] = 1 / len(after.positions)
    ends = [1 + max(p for word in prompt_words(tokenizer, text) for p in word.positions) for text in (original, edited)]
    padding = length - max(ends)
    source[0, 0] = 1.0  # start token
    source[range(ends[0], ends[0] + padding), range(ends[1], ends[1] + padding)] = 1.0  # end token and padding
    for text, weight in weights.items():
        if not WEIGHTS[0] <= weight <= WEIGHTS[1]:
            raise InputError(
                f"the weight of {text!r} is {weight:g}; it must lie between {WEIGHTS[0]:g} and {WEIGHTS[1]:g}"
            )
        for word in find_words(words, text):
            factors[list(word.positions)] = weight
    return Edit(original, edited, source, factors)


@dataclass
class Trajectory:
    """The UNet inputs of each sampling step: a few hundred kilobytes per step."""

    inputs: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)


@contextmanager
def record_trajectory(pipeline: StableDiffusionPipeline) -> Iterator[Trajectory]:
    """Record one pipeline call, for `edit_attention`."""
    trajectory = Trajectory()

    def record(_unet: torch.nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        trajectory.inputs.append((arguments, named))

    hook = pipeline.unet.register_forward_pre_hook(record, with_kwargs=True)
    try:
        yield trajectory
    finally:
        hook.remove()


@contextmanager
def edit_attention(
    pipeline: StableDiffusionPipeline, edit: Edit, original: Trajectory, cross_share: float, self_share: float
) -> Iterator[None]:
    """Apply an edit to one pipeline call with `edit.prompt` and otherwise the arguments of the original call.

    cross_share, self_share: fraction of the steps, counted from the first, that use the original's cross-attention and
    self-attention, 0..1. With both 0 the call is unchanged. The call raises InputError if its number of steps, size or
    number of images differs from the original's.
    """
    for name, share in (("cross-attention", cross_share), ("self-attention", self_share)):
        if not 0 <= share <= 1:
            raise InputError(f"the share of steps with the original's {name} is {share:g}; choose one between 0 and 1")
    steps = len(original.inputs)
    editor = _Editor(pipeline, edit, original, round(cross_share * steps), round(self_share * steps))
    with ExitStack() as hooks:
        # runs before all other hooks, so that they see the pipeline's own UNet calls only, not the replay
        before = pipeline.unet.register_forward_pre_hook(editor.begin_step, with_kwargs=True, prepend=True)
        hooks.callback(before.remove)
        for layer in attention_layers(pipeline.unet, cross=False):
            for projection in (layer.to_q, layer.to_k):
                hooks.callback(projection.register_forward_hook(editor.replace_self).remove)
        for layer in attention_layers(pipeline.unet, cross=True):
            for projection in (layer.to_q, layer.to_k, layer.to_v):
                hooks.callback(projection.register_forward_hook(editor.store_cross).remove)
            hooks.callback(layer.to_out[0].register_forward_pre_hook(editor.correct(layer)).remove)
        yield


class _Editor:
    def __init__(
        self, pipeline: StableDiffusionPipeline, edit: Edit, original: Trajectory, cross_steps: int, self_steps: int
    ) -> None:
        device = pipeline.unet.device
        self.pipeline, self.original = pipeline, original
        self.cross_steps, self.self_steps = cross_steps, self_steps
        self.source, self.weights = edit.source.to(device), edit.weights.to(device)
        self.own = (self.source.sum(dim=0) == 0).float()
        self.step = -1
        self.replaying = False
        self.original_projections: dict[torch.nn.Module, Tensor] = {}  # of the current step
        self.edited_projections: dict[torch.nn.Module, Tensor] = {}

    def begin_step(self, unet: torch.nn.Module, arguments: tuple[Any, ...], _named: dict[str, Any]) -> None:
        self.step += 1
        self._check(arguments[0])
        if self.step < max(self.cross_steps, self.self_steps):
            inputs, named = self.original.inputs[self.step]
            self.replaying = True
            unet.forward(*inputs, **named)
            self.replaying = False

    def _check(self, sample: Tensor) -> None:
        steps = len(self.original.inputs)
        if steps != self.pipeline.num_timesteps or self.step >= steps:
            raise InputError(f"the original has {steps} steps; generate the edited image once, with the same number")
        shape = self.original.inputs[self.step][0][0].shape
        if sample.shape != shape:
            raise InputError(
                f"the UNet input has shape {tuple(sample.shape)}, but {tuple(shape)} in the original; "
                "use the original's size, number of images and guidance"
            )

    def replace_self(self, module: torch.nn.Module, _arguments: tuple[Any, ...], projected: Tensor) -> Tensor | None:
        """Use the original's queries and keys, which gives its attention without computing it explicitly."""
        if self.step >= self.self_steps or projected.shape[1] > SELF_PIXELS:
            return None
        rows = prompt_rows(self.pipeline, projected)
        if self.replaying:
            self.original_projections[module] = rows
            return None
        return torch.cat([projected[: -len(rows)], self.original_projections[module]])

    def store_cross(self, module: torch.nn.Module, _arguments: tuple[Any, ...], projected: Tensor) -> None:
        if self.step < self.cross_steps:
            projections = self.original_projections if self.replaying else self.edited_projections
            projections[module] = prompt_rows(self.pipeline, projected)

    def correct(self, layer: Attention) -> Callable[[torch.nn.Module, tuple[Any, ...]], Tensor | None]:
        def correct_output(_module: torch.nn.Module, arguments: tuple[Any, ...]) -> Tensor | None:
            """Add (P - P_edited) v to the pipeline's result. It is exactly 0 if the edit changes nothing."""
            if self.replaying or self.step >= self.cross_steps:
                return None
            attended = arguments[0]  # [rows, pixels, channels]
            rows = prompt_rows(self.pipeline, attended)
            corrections = [self._correction(layer, head) for head in range(layer.heads)]
            corrected = (rows.float() + torch.cat(corrections, dim=-1)).to(rows.dtype)
            return torch.cat([attended[: -len(rows)], corrected])

        return correct_output

    def _correction(self, layer: Attention, head: int) -> Tensor:
        original, edited = (
            probabilities(layer, head, projections[layer.to_q], projections[layer.to_k])
            for projections in (self.original_projections, self.edited_projections)
        )
        with torch.autocast(edited.device.type, enabled=False):
            mixed = self.weights * (original @ self.source + edited * self.own)
            return (mixed - edited) @ one_head(layer, head, self.edited_projections[layer.to_v])


def edited_images(
    pipeline: StableDiffusionPipeline,
    edit: Edit,
    seed: int,
    num_inference_steps: int,
    guidance_scale: float,
    cross_share: float,
    self_share: float,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the original, as from `sample_images`, and the edited image, RGB `uint8 [height, width, 3]`."""

    def generate(prompt: str) -> NDArray[np.uint8]:
        return next(sample_images(pipeline, [prompt], [seed], num_inference_steps, guidance_scale, batch_size=1))

    with record_trajectory(pipeline) as trajectory:
        original = generate(edit.original)
    with edit_attention(pipeline, edit, trajectory, cross_share, self_share):
        return original, generate(edit.prompt)
