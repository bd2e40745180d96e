"""sweep: KID of the fine-tuned model at several guidance scales."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from finetune import paths
from finetune.artifacts import write_csv
from finetune.data.shards import read_index, spread
from finetune.evaluation.feature_set import random_half_splits, read_feature_set
from finetune.evaluation.features import extract, load_extractor
from finetune.evaluation.mmd import kid
from finetune.model.determinism import default_device
from finetune.model.loading import load_pipeline
from finetune.model.sampling import sample_images
from finetune.params import Fid, Generate, Sweep, load_params
from finetune.stage import run_stage


def sweep(
    base: Path,
    tuned: Path,
    generated: Path,
    real: Path,
    extractor: Path,
    out: Path,
    generate: Generate,
    fid: Fid,
    params: Sweep,
) -> None:
    """Write `out` (CSV): KID against the validation images at each guidance scale, with its standard deviation.

    Captions and seeds are a subset of those in `generated`. KID is the only metric, because it is unbiased at any
    number of images. real: features of the validation images.
    """
    rows = spread(read_index(generated), params.images)
    reference = read_feature_set(real).rows_in_split("validation").features
    network = load_extractor(extractor)
    pipeline = load_pipeline(base, tuned).to(default_device())

    def images(guidance_scale: float) -> Iterator[NDArray[np.uint8]]:
        return sample_images(
            pipeline,
            prompts=[row["prompt"] for row in rows],
            seeds=[row["seed"] for row in rows],
            num_inference_steps=generate.num_inference_steps,
            guidance_scale=guidance_scale,
            batch_size=generate.batch_size,
        )

    table: list[tuple[object, ...]] = [("guidance_scale", "kid", "sd", "key")]
    for scale in tqdm(params.guidance_scales, "sweep", unit="scale", disable=None):
        features = extract(network, images(scale), fid.batch_size)
        halves = random_half_splits(fid.std_resamples, fid.seed, len(features), len(reference))
        std = np.std([kid(features[ours], reference[theirs]) for ours, theirs in halves])
        table.append((scale, f"{kid(features, reference):.6g}", f"{std:.6g}", network.kid_key))
    write_csv(out, table)


def main() -> None:
    params = load_params()
    sweep(
        paths.BASE,
        paths.TUNED / params.export.weights,
        paths.GENERATED / "tuned",
        paths.FEATURES / "real",
        paths.EXTRACTOR / params.fid.extractor,
        paths.SWEEP,
        params.generate,
        params.fid,
        params.sweep,
    )


if __name__ == "__main__":
    run_stage(main)
