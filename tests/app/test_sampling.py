"""app.sampling: pixel-identical to the pipeline, one step at a time."""

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
from app.sampling import SCHEDULERS, Output, Step, generate
from finetune.errors import InputError
from finetune.model.loading import load_pipeline
from tests.app.test_request import GOOD

REQUEST = Request(**GOOD | {"num_inference_steps": 4, "negative_prompt": "a ring"})


@pytest.fixture
def pipeline(tiny_base: Path) -> StableDiffusionPipeline:
    pipeline = load_pipeline(tiny_base)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def call_pipeline(pipeline: StableDiffusionPipeline, request: Request) -> np.ndarray:
    return np.asarray(
        pipeline(
            request.prompt,
            negative_prompt=request.negative_prompt,
            generator=torch.Generator().manual_seed(request.seed),
            num_inference_steps=request.num_inference_steps,
            guidance_scale=request.guidance_scale,
            width=request.width,
            height=request.height,
        ).images[0]
    )


def last_output(steps: Iterator[Step | Output]) -> Output:
    return next(step for step in steps if isinstance(step, Output))


def changed(**values: Any) -> Request:
    return Request(**REQUEST.to_json() | values)


@pytest.mark.parametrize("scheduler", NAMES)
@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_the_image_equals_that_of_the_pipeline(
    pipeline: StableDiffusionPipeline, scheduler: str, guidance_scale: float
) -> None:
    request = changed(scheduler=scheduler, guidance_scale=guidance_scale)
    output = last_output(generate(pipeline, request))
    pipeline.scheduler = SCHEDULERS[scheduler].from_config(pipeline.scheduler.config)
    assert np.array_equal(np.asarray(output.image), call_pipeline(pipeline, request))
    assert not output.withheld


def test_every_setting_changes_the_image(pipeline: StableDiffusionPipeline) -> None:
    other: dict[str, Any] = {
        "prompt": "a ring",
        "negative_prompt": "",
        "seed": 8,
        "num_inference_steps": 5,
        "guidance_scale": 5.0,
        "scheduler": "Euler",
        "width": 128,
        "height": 64,
    }
    assert other.keys() == REQUEST.to_json().keys()
    images = [np.asarray(last_output(generate(pipeline, REQUEST)).image)]
    images += [np.asarray(last_output(generate(pipeline, changed(**{k: v}))).image) for k, v in other.items()]
    assert len({(image.shape, image.tobytes()) for image in images}) == len(images)


def test_the_last_predicted_sample_decodes_to_the_image(pipeline: StableDiffusionPipeline) -> None:
    for scheduler in NAMES:
        *steps, output = generate(pipeline, changed(scheduler=scheduler))
        assert isinstance(output, Output)
        assert [(step.done, step.total) for step in steps if isinstance(step, Step)] == [(i, 4) for i in range(1, 5)]
        latents = steps[-1].pred_original_sample / pipeline.vae.config.scaling_factor
        decoded = pipeline.image_processor.postprocess(pipeline.vae.decode(latents).sample, output_type="np")[0]
        assert np.abs(decoded - np.asarray(output.image) / 255).mean() < 0.02


def test_closing_the_generator_stops_the_computation(pipeline: StableDiffusionPipeline) -> None:
    calls: list[int] = []
    pipeline.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    steps = generate(pipeline, REQUEST)
    next(steps)
    steps.close()
    assert len(calls) == 1


def out_of_memory_above(rows: int, forward: Callable[..., Any]) -> Callable[..., Any]:
    def limited(sample: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        if len(sample) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(sample, *arguments, **named)

    return limited


def test_a_guidance_batch_that_does_not_fit_is_split(pipeline: StableDiffusionPipeline) -> None:
    expected = np.asarray(last_output(generate(pipeline, REQUEST)).image, dtype=int)
    pipeline.unet.forward = out_of_memory_above(1, pipeline.unet.forward)
    split = np.asarray(last_output(generate(pipeline, REQUEST)).image, dtype=int)
    assert np.abs(expected - split).max() <= 1  # convolutions round differently at a different batch size


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_running_out_of_memory_is_an_input_error(pipeline: StableDiffusionPipeline, part: str) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    if part == "unet":
        pipeline.unet.forward = fail
    else:
        pipeline.vae.decode = fail
    with pytest.raises(InputError, match="not enough free memory for this image; choose a smaller size"):
        last_output(generate(pipeline, REQUEST))


def test_other_runtime_errors_propagate(pipeline: StableDiffusionPipeline) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("something else")

    pipeline.unet.forward = fail
    with pytest.raises(RuntimeError, match="something else"):
        last_output(generate(pipeline, REQUEST))


def tiny_checker(threshold: float) -> StableDiffusionSafetyChecker:
    """Random weights; flags every image if the threshold is below any cosine similarity."""
    tower = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    checker = StableDiffusionSafetyChecker(
        CLIPConfig(vision_config={**tower, "image_size": 32, "patch_size": 16}, text_config=tower, projection_dim=16)
    )
    checker.concept_embeds_weights.data.fill_(threshold)
    return checker.eval()


@pytest.mark.parametrize(("threshold", "withheld"), [(-2.0, True), (2.0, False)])
def test_the_safety_checker_withholds_flagged_images(
    pipeline: StableDiffusionPipeline, threshold: float, withheld: bool
) -> None:
    unchecked = np.asarray(last_output(generate(pipeline, REQUEST)).image)
    extractor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    pipeline.register_modules(safety_checker=tiny_checker(threshold), feature_extractor=extractor)
    output = last_output(generate(pipeline, REQUEST))
    assert output.withheld == withheld
    assert np.array_equal(np.asarray(output.image), np.zeros_like(unchecked) if withheld else unchecked)
