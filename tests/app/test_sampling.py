"""app.sampling: the pipeline's own pixels, one step at a time."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPImageProcessor

from app.request import SCHEDULERS as NAMES
from app.request import Request
from app.sampling import SCHEDULERS, Picture, Step, draw
from finetune.errors import InputError
from finetune.model.loading import load_pipeline
from tests.app.test_request import GOOD

REQUEST = Request(**GOOD | {"steps": 4, "negative_prompt": "a ring"})


@pytest.fixture
def pipeline(tiny_base: Path) -> StableDiffusionPipeline:
    pipeline = load_pipeline(tiny_base)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def called(pipeline: StableDiffusionPipeline, request: Request) -> np.ndarray:
    return np.asarray(
        pipeline(
            request.prompt,
            negative_prompt=request.negative_prompt,
            generator=torch.Generator().manual_seed(request.seed),
            num_inference_steps=request.steps,
            guidance_scale=request.guidance,
            width=request.width,
            height=request.height,
        ).images[0]
    )


def last_of(steps: Iterator[Step | Picture]) -> Picture:
    return next(step for step in steps if isinstance(step, Picture))


def changed(**values: Any) -> Request:
    return Request(**REQUEST.to_json() | values)


@pytest.mark.parametrize("scheduler", NAMES)
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_a_drawing_is_the_pipelines_own_picture(
    pipeline: StableDiffusionPipeline, scheduler: str, guidance: float
) -> None:
    request = changed(scheduler=scheduler, guidance=guidance)
    drawn = last_of(draw(pipeline, request))
    pipeline.scheduler = SCHEDULERS[scheduler].from_config(pipeline.scheduler.config)
    assert np.array_equal(np.asarray(drawn.image), called(pipeline, request))
    assert not drawn.withheld


def test_every_setting_changes_the_picture(pipeline: StableDiffusionPipeline) -> None:
    other: dict[str, Any] = {
        "prompt": "a ring",
        "negative_prompt": "",
        "seed": 8,
        "steps": 5,
        "guidance": 5.0,
        "scheduler": "Euler",
        "width": 128,
        "height": 64,
    }
    assert other.keys() == REQUEST.to_json().keys()
    pictures = [np.asarray(last_of(draw(pipeline, REQUEST)).image)]
    pictures += [np.asarray(last_of(draw(pipeline, changed(**{k: v}))).image) for k, v in other.items()]
    assert len({(picture.shape, picture.tobytes()) for picture in pictures}) == len(pictures)


def test_steps_come_before_the_picture_and_end_at_what_it_shows(pipeline: StableDiffusionPipeline) -> None:
    for scheduler in NAMES:
        *steps, picture = draw(pipeline, changed(scheduler=scheduler))
        assert isinstance(picture, Picture)
        assert [(step.done, step.total) for step in steps if isinstance(step, Step)] == [(i, 4) for i in range(1, 5)]
        guess = pipeline.vae.decode(steps[-1].guess / pipeline.vae.config.scaling_factor).sample
        shown = pipeline.image_processor.postprocess(guess, output_type="np")[0]
        assert np.abs(shown - np.asarray(picture.image) / 255).mean() < 0.02


def test_whoever_stops_watching_stops_the_drawing(pipeline: StableDiffusionPipeline) -> None:
    calls: list[int] = []
    pipeline.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    drawing = draw(pipeline, REQUEST)
    next(drawing)
    drawing.close()
    assert len(calls) == 1


def out_of_memory_above(rows: int, forward: Callable[..., Any]) -> Callable[..., Any]:
    def limited(sample: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        if len(sample) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(sample, *arguments, **named)

    return limited


def test_less_memory_draws_the_halves_of_guidance_one_by_one(pipeline: StableDiffusionPipeline) -> None:
    whole = np.asarray(last_of(draw(pipeline, REQUEST)).image, dtype=int)
    pipeline.unet.forward = out_of_memory_above(1, pipeline.unet.forward)
    halves = np.asarray(last_of(draw(pipeline, REQUEST)).image, dtype=int)
    assert np.abs(whole - halves).max() <= 1  # a convolution rounds differently at another batch size


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_too_little_memory_is_one_line(pipeline: StableDiffusionPipeline, part: str) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    if part == "unet":
        pipeline.unet.forward = fail
    else:
        pipeline.vae.decode = fail
    with pytest.raises(InputError, match="not enough free memory for this image: choose a smaller size"):
        last_of(draw(pipeline, REQUEST))


def test_other_errors_are_not_taken_for_memory(pipeline: StableDiffusionPipeline) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("something else")

    pipeline.unet.forward = fail
    with pytest.raises(RuntimeError, match="something else"):
        last_of(draw(pipeline, REQUEST))


def tiny_checker(threshold: float) -> StableDiffusionSafetyChecker:
    """Of random weights; it finds every concept in every image if the threshold is below any similarity."""
    tower = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    checker = StableDiffusionSafetyChecker(
        CLIPConfig(vision_config={**tower, "image_size": 32, "patch_size": 16}, text_config=tower, projection_dim=16)
    )
    checker.concept_embeds_weights.data.fill_(threshold)
    return checker.eval()


@pytest.mark.parametrize(("threshold", "withheld"), [(-2.0, True), (2.0, False)])
def test_the_safety_checker_withholds_what_it_finds(
    pipeline: StableDiffusionPipeline, threshold: float, withheld: bool
) -> None:
    free = np.asarray(last_of(draw(pipeline, REQUEST)).image)
    extractor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    pipeline.register_modules(safety_checker=tiny_checker(threshold), feature_extractor=extractor)
    drawn = last_of(draw(pipeline, REQUEST))
    assert drawn.withheld == withheld
    assert np.array_equal(np.asarray(drawn.image), np.zeros_like(free) if withheld else free)
